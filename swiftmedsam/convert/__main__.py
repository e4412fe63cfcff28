"""`python -m convert CHECKPOINT --variant v2 --out weights/NAME`, or `--fetch-lite`."""

import argparse
import importlib.metadata
import importlib.util
import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from swiftmedsam.case import CaseError
from swiftmedsam.convert.export import export, save
from swiftmedsam.convert.fetch import LITE_MEDSAM, MOBILE_SAM, FetchError, fetch
from swiftmedsam.convert.folder import take_place
from swiftmedsam.convert.quantize import CalibrationError, calibration_slices, quantize
from swiftmedsam.convert.verify import ParityError, verify
from swiftmedsam.extras import how_to_install
from swiftmedsam.manifest import MANIFEST, MANIFEST_FORMAT, WEIGHTS, WeightsError, sha256_of
from swiftmedsam.network import load
from swiftmedsam.torch_model import VARIANTS, CheckpointError, load_model, trained_on

LITE_CHECKPOINT = WEIGHTS / "checkpoints" / "lite_medsam.pth"
MOBILE_SAM_CHECKPOINT = WEIGHTS / "checkpoints" / "mobile_sam.pt"
PARITY_CASES = WEIGHTS.parent / "examples" / "inputs"
REFUSALS = (
    CalibrationError, CaseError, CheckpointError, FetchError, ParityError, WeightsError,
)  # fmt: skip
MAX_CALIBRATION = 330  # slices: 30 of each of the corpus' 11 modalities
# How the weights are stored: the precision in which they are compared with torch.
COMPUTED = {"fp32": "f32", "fp16": "f32", "int8": "int8"}

log = logging.getLogger(__name__)


def _versions(stored: str) -> dict[str, str]:
    packages = ["torch", "openvino", "numpy", *(["nncf"] if stored == "int8" else [])]
    return {name: importlib.metadata.version(name) for name in packages}


def convert(
    checkpoint: Path,
    variant: str,
    out: Path,
    stored: str,
    cases: Path,
    calibration: Path | None = None,
) -> None:
    """Write the weights folder `out` as a whole; if this fails or is killed, `out` does not change.

    If the checkpoint names the data sets that it was trained on, the manifest names them, too.

    Args:
        checkpoint: file with the trained weights.
        variant: the architecture of the checkpoint.
        out: folder to write or to replace.
        stored: type of the weights in the files: "fp32" or "fp16". "int8" writes fp16 files, and
            the encoder a second time in INT8.
        cases: folder of the cases on which torch and OpenVINO are compared.
        calibration: folder of the cases on which INT8 is calibrated.

    Raises:
        CheckpointError, FileNotFoundError: the checkpoint cannot be used.
        CaseError: a case cannot be read.
        CalibrationError: `calibration` has too few slices.
        ParityError: torch and OpenVINO do not agree.
    """
    model = load_model(checkpoint, VARIANTS[variant])
    known = trained_on(checkpoint)
    slices = [] if calibration is None else calibration_slices(calibration, MAX_CALIBRATION)
    out = out.resolve()  # if `out` is a link, replace the folder behind it
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".convert-") as temporary:
        folder = Path(temporary) / out.name
        folder.mkdir()
        exported = export(model)
        kind = "fp16" if stored == "int8" else stored
        files = {
            kind: {part: save(exported[part], folder / f"{part}.xml", kind) for part in exported}
        }
        if stored == "int8":
            encoder = quantize(exported["encoder"], slices)
            of_encoder = {"encoder": save(encoder, folder / "encoder_int8.xml", "int8")}
            files["int8"] = files[kind] | of_encoder
        manifest = {
            "format": MANIFEST_FORMAT,
            "variant": variant,
            "source": {"file": checkpoint.name, "sha256": sha256_of(checkpoint.read_bytes())},
            **({"trained_on": known} if known else {}),
            "versions": _versions(stored),
            "calibration_slices": len(slices),
            "models": {
                kind: {
                    part: {path.name: sha256_of(path.read_bytes()) for path in paths}
                    for part, paths in parts.items()
                }
                for kind, parts in files.items()
            },
        }
        (folder / MANIFEST).write_text(json.dumps(manifest))
        parities = {
            kind: verify(model, load(folder, precision=COMPUTED[kind]), cases, kind)
            for kind in files
        }
        manifest["parity"] = {kind: asdict(parity) for kind, parity in parities.items()}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        take_place(folder, out)
    for kind, parity in parities.items():
        log.info(
            "%s: %s, %s; %d slices, logits within %.2g, DSC at least %.4f, mean %.4f",
            out, variant, kind, parity.slices, parity.max_logit_difference, parity.min_dsc,
            parity.mean_dsc,
        )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "swiftmedsam convert",
        description="Convert a checkpoint to a weights folder of OpenVINO models.",
    )
    parser.add_argument("checkpoint", nargs="?", type=Path, help=".pth or .safetensors")
    parser.add_argument("--variant", choices=sorted(VARIANTS))
    parser.add_argument("--out", type=Path, help="weights folder to write, e.g. weights/mine")
    parser.add_argument(
        "--precision", choices=("fp16", "fp32", "int8"), default="fp16",
        help="type of the stored weights; int8: fp16, and the encoder in INT8, too",
    )  # fmt: skip
    parser.add_argument(
        "--calibration", type=Path, metavar="DIR",
        help="cases (npz) for --precision int8, best some hundred of all modalities",
    )  # fmt: skip
    parser.add_argument(
        "--parity", type=Path, default=PARITY_CASES, metavar="DIR",
        help="cases (npz) on which torch and OpenVINO are compared",
    )  # fmt: skip
    parser.add_argument(
        "--fetch-lite", action="store_true",
        help="get the official LiteMedSAM checkpoint; convert it if --out is given",
    )  # fmt: skip
    parser.add_argument(
        "--fetch-mobile-sam", action="store_true",
        help="get the official MobileSAM checkpoint, for python -m benchmarks.reference.mobile_sam",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        if options.fetch_mobile_sam:
            target = fetch(MOBILE_SAM, options.checkpoint or MOBILE_SAM_CHECKPOINT)
            log.info("%s: official MobileSAM, sha256 checked", target)
            return 0
        if options.fetch_lite:
            options.checkpoint = fetch(LITE_MEDSAM, options.checkpoint or LITE_CHECKPOINT)
            options.variant = "lite"
            log.info("%s: official LiteMedSAM, sha256 checked", options.checkpoint)
            if options.out is None:
                return 0
        if not (options.checkpoint and options.variant and options.out):
            parser.error("CHECKPOINT, --variant and --out are needed, or --fetch-lite")
        if (options.precision == "int8") != (options.calibration is not None):
            parser.error("--precision int8 and --calibration belong together")
        if options.precision == "int8" and importlib.util.find_spec("nncf") is None:
            install = how_to_install("convert")
            log.error("--precision int8: needs nncf, which is not installed: %s", install)
            return 1
        if not options.parity.is_dir():  # an installed package does not have the default folder
            log.error("--parity: expected a folder of cases, found no %s", options.parity)
            return 1
        convert(
            options.checkpoint, options.variant, options.out, options.precision, options.parity,
            options.calibration,
        )  # fmt: skip
    except (OSError, *REFUSALS) as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

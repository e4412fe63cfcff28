"""`swiftmedsam cases`: makes challenge cases of scans with label maps, and puts outputs back.

A case is one npz that the program, `evaluation` and `train` all read. Its keys:

    imgs, boxes               the image, and the extent of each label
    gts                       the labels, numbered 1..N
    spacing                   of a volume, x, y, z
    grid_axes, grid_flips     for D, H and W: the axis of the scan's grid; whether it is reversed
    label_values              the values (N,) that the labels had in the label map

`back` writes the labels on the scan's grid; nothing is resampled.
"""

import argparse
import functools
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from swiftmedsam.atomic import atomic_file, make_folder, remove_partials, why_not_writable
from swiftmedsam.case import Case
from swiftmedsam.display import DEFAULT_WINDOW, parse_window
from swiftmedsam.memory import SCAN_PROGRAM_BYTES, available_memory
from swiftmedsam.messages import one_line, printable, words_of
from swiftmedsam.modality import UNKNOWN, parse_modality
from swiftmedsam.npz import UNREADABLE, is_case_name
from swiftmedsam.program.jobs import attempt
from swiftmedsam.program.parts import add_part, set_part
from swiftmedsam.program.scan_options import ANATOMICAL, add_choices, add_memory_limit, as_option
from swiftmedsam.result import label_dtype
from swiftmedsam.scans.formats.by_suffix import READERS, read_scan, stem_of, suffix_of
from swiftmedsam.scans.infer_modality import modality_of
from swiftmedsam.scans.label_maps import extents, other_grid, read_labels, same_grid
from swiftmedsam.scans.orientation import ACQUIRED, Orientation, choose_orientation
from swiftmedsam.scans.outputs import (
    check_places,
    outputs_of,
    refuse_foreign_outputs,
    refuse_inputs,
)
from swiftmedsam.scans.place import case_of, to_grid
from swiftmedsam.scans.scan import MemoryLimit, Scan, ScanError, Segment, Voxels, require_peak
from swiftmedsam.scans.write import check_encoding, write
from swiftmedsam.urls import local_path

log = logging.getLogger("swiftmedsam.program.cases")

NNUNET_CHANNEL = "_0000"  # nnU-Net puts it after the stem of a scan's name, not of a label map's
Step = Callable[[], None]
KEYS = ("imgs", "gts", "label_values", "grid_axes", "grid_flips")  # the keys that `back` needs


def by_stem(path: Path) -> dict[str, Path]:
    """The scans of a folder, or the one scan `path`, by name without suffix.

    Raises:
        OSError: the folder cannot be read.
        ScanError: two names differ only in their suffix.
    """
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    found: dict[str, Path] = {}
    for file in files:
        if file.name.startswith(".") or not (suffix_of(file, tuple(READERS)) or file.is_dir()):
            continue
        stem = stem_of(file).removesuffix(NNUNET_CHANNEL)
        if stem in found:
            names = f"{printable(found[stem].name)} and {printable(file.name)}"
            raise ScanError(f"{path}: {names} would be the same case")
        found[stem] = file
    return found


def segments_around(labels: Voxels) -> list[Segment]:
    """A segment for each label of a label map (I, J, K); its box is the extent of the label."""
    return [
        Segment(value, f"label {value}", _voxel(first), _voxel(last))
        for value, (first, last) in extents(labels)
    ]


def _voxel(position: npt.NDArray[np.float64]) -> tuple[int, int, int]:
    i, j, k = (int(index) for index in position)
    return i, j, k


def case_arrays(
    case: Case,
    numbered: Voxels,
    values: npt.NDArray[np.uint16],
    scan: Scan,
    orientation: Orientation,
) -> dict[str, Any]:
    """The arrays of a case's file, by key.

    `numbered` (I, J, K) has labels 1..N; `values` (N,) are their values in the label map.
    """
    gts = orientation.to_slices(numbered)
    image = case.image
    if not case.is_volume and image.ndim == 2:
        image = np.stack([image] * 3, axis=-1)  # all images of the challenge are in colour
    arrays = {
        "imgs": image,
        "boxes": case.boxes.astype(np.int64),
        "gts": gts if case.is_volume else gts[0],
        "label_values": values,
        "grid_axes": np.array(orientation.axes),
        "grid_flips": np.array(orientation.flipped),
    }
    if case.is_volume:
        arrays["spacing"] = scan.spacing_mm[list(orientation.axes)][::-1]  # x, y, z
    return arrays


def make(stem: str, scan_path: Path, labels_path: Path, options: argparse.Namespace) -> None:
    """Write the case of a scan and its label map.

    Raises:
        CaseError: one of them cannot be used or does not fit into memory, or their grids differ.
        OSError: the case cannot be written.
    """
    limit = options.memory_limit or available_memory()
    scan = read_scan(scan_path, options.volume, options.series, memory_limit=limit)
    label_map = read_labels(labels_path, scan, memory_limit=limit - scan.voxels.nbytes)
    if not same_grid(label_map, scan):
        raise other_grid(label_map, scan)
    modality = modality_of(scan, options.modality)
    if modality is UNKNOWN:
        raise ScanError(f"{scan.name}: does not say its modality, expected --modality")
    if not scan.has_mm and scan.grid[2] > 1:
        log.warning("%s: has no millimetres, its spacing counts as 1", scan.name)
    if scan.is_sheared:
        log.warning("%s: its axes are not at right angles, but count as if they were", scan.name)
    orientation = choose_orientation(scan, options.plane)
    segments = segments_around(label_map.voxels)
    values = np.array([one.value for one in segments], np.uint16)
    numbers = np.zeros(int(values[-1]) + 1, label_dtype(len(values)))
    numbers[values] = np.arange(len(values)) + 1
    numbered = numbers[label_map.voxels]
    case = case_of(scan, segments, orientation, modality, options.window)
    path = options.out / f"{3 if case.is_volume else 2}DBox_{modality.name}_{stem}.npz"
    if why := why_not_writable(path):
        raise ScanError(f"{scan.name}: the case cannot be written to {path} ({why})")
    if path.exists() and not _is_made(path):
        raise ScanError(
            f"{scan.name}: {path} exists; name another folder (it is no case of a scan)"
        )
    with atomic_file(path) as stream:
        np.savez_compressed(stream, **case_arrays(case, numbered, values, scan, orientation))
    log.info("%s: written %s, %d boxes", scan.name, path, len(values))


def _is_made(path: Path) -> bool:
    """Whether a file is a case that `make` wrote."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return set(KEYS) <= set(archive.files)
    except (*UNREADABLE, ValueError):
        return False


def _read(path: Path, *keys: str, memory_limit: int) -> list[npt.NDArray[Any]]:
    """Read arrays of an npz file.

    Raises:
        ScanError: the file cannot be read, a key is missing, or the arrays would need more than
            `memory_limit` bytes.
    """
    name = printable(path.name)
    try:
        with np.load(path, allow_pickle=False) as archive:
            if lacking := [key for key in keys if key not in archive]:
                raise ScanError(f"{name}: key '{lacking[0]}' is missing, found {archive.files}")
            members = archive.zip.infolist()
            sizes = {one.filename.removesuffix(".npy"): one.file_size for one in members}
            size = sum(sizes[key] for key in keys)
            what = f"{size} bytes of {', '.join(keys)}"
            require_peak(name, what, SCAN_PROGRAM_BYTES + size, MemoryLimit(memory_limit))
            return [archive[key] for key in keys]
    except ScanError:
        raise
    except (*UNREADABLE, ValueError) as error:
        raise ScanError(f"{name}: not a readable npz file ({one_line(error)})") from error


def _wrong_labels(labels: npt.NDArray[Any], shape: tuple[int, ...], most: int) -> str:
    """The fault of labels that should have this shape and values of 0..`most`; "" if none."""
    found = f"{labels.shape} {labels.dtype}"
    if labels.shape == shape and labels.dtype.kind in "iu":
        low, high = labels.min(), labels.max()
        if 0 <= low <= high <= most:
            return ""
        found += f" of {low}..{high}"
    return f"should be {shape} of 0..{most}, got {found}"


def back(
    case_path: Path, segs_path: Path, scan_path: Path, inputs: Sequence[Path],
    options: argparse.Namespace,
) -> None:  # fmt: skip
    """Write the output of a case on the grid of its scan, with the values of the label map.

    `inputs` are all scans of the run; none of them is overwritten.

    Raises:
        CaseError: the files do not belong together, or one cannot be used or does not fit into
            memory.
        OSError: the labels cannot be written.
    """
    left = options.memory_limit or available_memory()
    image, gts, values, axes, flips = _read(case_path, *KEYS, memory_limit=left)
    left -= image.nbytes + gts.nbytes
    (segs,) = _read(segs_path, "segs", memory_limit=left)
    left -= segs.nbytes
    scan = read_scan(scan_path, options.volume, options.series, memory_limit=left)
    name = printable(case_path.name)
    if sorted(axes.tolist()) != [0, 1, 2] or flips.shape != (3,):
        raise ScanError(f"{name}: 'grid_axes' and 'grid_flips' should be of D, H and W")
    (d, h, w), (up, down, across) = axes.tolist(), flips.tolist()
    orientation = Orientation("", (d, h, w), (up, down, across), scan.grid)
    if gts.shape != orientation.shape[-gts.ndim :]:
        raise ScanError(f"{name}: was made of another scan than {scan.name}, {scan.grid}")
    if values.dtype != np.uint16 or values.ndim != 1 or len(values) == 0:
        raise ScanError(
            f"{name}: 'label_values' should be (N,) uint16, got {values.shape} {values.dtype}"
        )
    for key, labels in (("gts", gts), ("segs", segs)):
        if wrong := _wrong_labels(labels, gts.shape, len(values)):
            raise ScanError(f"{name}: '{key}' {wrong}")
    value_of = np.append(0, values).astype(label_dtype(int(values.max())))
    segments = segments_around(to_grid(value_of[gts], orientation))
    outputs = outputs_of(scan_path, options.out)
    refuse_inputs(outputs.all(), [*inputs, *scan.files])
    check_places(outputs, scan.name)
    refuse_foreign_outputs(outputs, scan.name)
    check_encoding(outputs, scan, segments)
    shown = Case(scan.name, image.astype(np.uint8, copy=False), np.zeros((0, 6)), gts.ndim == 3)
    write(outputs, to_grid(value_of[segs], orientation), scan, segments, orientation, shown)
    log.info("%s: written %s", scan.name, outputs.labels)


def _shared(one: dict[str, Path], other: dict[str, Path], options: argparse.Namespace) -> list[str]:
    """The names that both have; one warning lists the others, which are ignored.

    Raises:
        ScanError: they have no name in common.
    """
    shared = [name for name in one if name in other]
    if not shared:
        raise ScanError(f"{options.command}: expected files of the same names, found none")
    if alone := sorted(set(one) ^ set(other)):
        log.warning("left alone (without a partner): %s", ", ".join(map(printable, alone)))
    return shared


def making(options: argparse.Namespace) -> dict[str, Step]:
    """A call of `make` for each scan with a label map of the same stem, by the scan's name.

    Raises:
        OSError: a folder cannot be read.
        ScanError: no scan has a label map.
    """
    if options.labels.is_dir():
        scans, labels = by_stem(options.scans), by_stem(options.labels)
    else:  # one scan; the label map may have any name
        stem = stem_of(options.scans).removesuffix(NNUNET_CHANNEL)
        scans, labels = {stem: options.scans}, {stem: options.labels}
    return {
        scans[stem].name: functools.partial(make, stem, scans[stem], labels[stem], options)
        for stem in _shared(scans, labels, options)
    }


def going_back(options: argparse.Namespace) -> dict[str, Step]:
    """A call of `back` for each case that has an output and a scan, by the case's name.

    Raises:
        OSError: a folder cannot be read.
        ScanError: no case has both.
    """
    cases, segs = (
        {path.name: path for path in sorted(folder.iterdir()) if is_case_name(path.name)}
        for folder in (options.cases, options.segs)
    )
    # The stem of the scan is the part of a case's name after dimension and modality.
    made = {
        Path(name).stem.partition("_")[2].partition("_")[2]: name
        for name in _shared(cases, segs, options)
    }
    own = stem_of(options.scans).removesuffix(NNUNET_CHANNEL)
    scans = {own: options.scans} if own in made else by_stem(options.scans)
    made_of = {stem: cases[name] for stem, name in made.items()}
    inputs = list(scans.values())
    return {
        made[stem]: functools.partial(
            back, made_of[stem], segs[made[stem]], scans[stem], inputs, options
        )
        for stem in _shared(made_of, scans, options)
    }  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    path = as_option(local_path)
    parser = argparse.ArgumentParser(
        "swiftmedsam cases",
        description="Scans with label maps to cases of the challenge, and outputs back.",
        epilog="Exit status: 0 when every file was written, 1 when one was not, 2 on wrong usage.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("make", help="cases of scans and label maps of the same names")
    one.add_argument("scans", type=path, help="folder of scans; one, if LABELS is a file")
    one.add_argument(
        "labels",
        type=path,
        help="folder of label maps on the scans' grids; or one",
    )
    one.add_argument("out", type=path, help="folder for the cases")
    one.add_argument(
        "--modality", type=as_option(parse_modality), metavar="NAME", help="CT, MR, ..."
    )
    one.add_argument(
        "--window", type=as_option(parse_window), default=DEFAULT_WINDOW,
        help="for CT (default soft)",
    )  # fmt: skip
    one.add_argument("--plane", choices=(ACQUIRED, *ANATOMICAL), default=ACQUIRED)
    one.set_defaults(steps=making)
    other = commands.add_parser("back", help="outputs of such cases to labels of the scans")
    other.add_argument("cases", type=path, help="folder that `make` wrote to")
    other.add_argument("segs", type=path, help="folder of outputs, npz with 'segs'")
    other.add_argument("scans", type=path, help="what `make` was given")
    other.add_argument("out", type=path, help="folder for the labels")
    other.set_defaults(steps=going_back)
    for command in (one, other):
        add_choices(command)
        add_memory_limit(command)
        add_part(command)
        command.add_argument(
            "--verbose", action="store_true",
            help="also show where an unforeseen error arose",
        )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    set_part(parser, options)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("swiftmedsam.program.jobs").setLevel(
        logging.DEBUG if options.verbose else logging.INFO
    )
    try:
        steps: dict[str, Step] = options.steps(options)
        make_folder(options.out)
        if options.part is None:
            remove_partials(options.out)
        else:  # see `main.remove_all_partials`
            steps = {name: steps[name] for name in options.part.take(list(steps), str)}
    except (ScanError, OSError) as error:
        log.error("%s", printable(words_of(error)))
        return 1
    failures: dict[str, str] = {}
    for name, step in steps.items():
        attempt(step, name, failures, "the output")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

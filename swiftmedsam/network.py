"""The network on this CPU: an IR pair loaded by its manifest. The only file that names OpenVINO."""

import hashlib
import io
import json
import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

# OpenVINO's package reports every import of it to Google Analytics, from a thread, and leaves files
# in HOME. Without its reporting package, which is not in the image, it does neither.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino as ov  # noqa: E402

from swiftmedsam.atomic import whole_file  # noqa: E402

log = logging.getLogger(__name__)

HERE = Path(__file__).resolve().parent
# A wheel has the weights inside the package, a checkout beside it.
INSTALLED_WEIGHTS = HERE / "weights"
WEIGHTS = INSTALLED_WEIGHTS if INSTALLED_WEIGHTS.is_dir() else HERE.parent / "weights"
DEFAULT_FILE = "DEFAULT"  # in WEIGHTS: the name of the folder that is used when none is named
MANIFEST = "manifest.json"
COMPILED = "compiled"  # in a weights folder: models as `Network.precompile` left them
BLOB_DIGITS = 16  # of a sha256 in their names
MANIFEST_FORMAT = 2  # 1: the decoder took an embedding (1, C, 64, 64) and no cells
PARTS = ("encoder", "decoder")

# --precision: the IR it needs, the first one that the manifest has.
PRECISIONS = {"f32": ("fp32", "fp16"), "bf16": ("fp16", "fp32"), "int8": ("int8",)}
AUTO = "auto"  # the fastest that suits this CPU
# Flags of which a CPU has one, if the precision suits it: in AVX-512 without VNNI, INT8 takes two
# steps, and is faster than f32 and as good all the same (docs/decisions.md).
SUITED = {
    "int8": {"avx512bw", "avx512_vnni", "avx_vnni"},
    "bf16": {"avx512_bf16", "amx_bf16"},
}
MATRIX_UNITS = "amx_bf16"  # with them bf16 is faster than INT8 (benchmarks/NOTES.md)
CPU_INFO = Path("/proc/cpuinfo")
# What oneDNN, and so OpenVINO, may use of a CPU, by the names that bound it (ONEDNN_MAX_CPU_ISA);
# each with what /proc/cpuinfo says of it beyond those before.
INSTRUCTION_SETS: dict[str, set[str]] = {
    "SSE41": set(),
    "AVX": set(),
    "AVX2": {"avx2", "fma"},
    "AVX512_CORE": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "AVX512_CORE_VNNI": {"avx512_vnni"},
    "AVX512_CORE_BF16": {"avx512_bf16"},
    "AVX512_CORE_FP16": {"avx512_fp16"},
    "AVX512_CORE_AMX": {"amx_tile", "amx_int8", "amx_bf16"},
    "ALL": {"avx_vnni"},
}
CGROUP_QUOTAS = (  # (file with the quota, file with the period or None if both are in the first)
    ("/sys/fs/cgroup/cpu.max", None),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]


class WeightsError(ValueError):
    """A weights folder that cannot be used; the message names the file and what is wrong."""


def available_threads() -> int:
    """Threads this process may keep busy: its affinity, cut to the container's CPU quota."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for quota_file, period_file in CGROUP_QUOTAS:
        try:
            words = Path(quota_file).read_text().split()
            if period_file:
                words.append(Path(period_file).read_text().strip())
            quota, period = float(words[0]), float(words[1])
        except (OSError, ValueError, IndexError):  # no such cgroup, or "max": no limit
            continue
        if quota > 0:
            return max(1, min(threads or 1, round(quota / period)))
    return threads or 1


def _cpu_flags() -> set[str]:
    """Flags of `INSTRUCTION_SETS` that OpenVINO may use here; none where nobody says them."""
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:  # not Linux
        return set()
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    names = list(INSTRUCTION_SETS)
    most = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    sets = names[: names.index(most) + 1] if most in names else names
    return flags & set().union(*(INSTRUCTION_SETS[name] for name in sets))


def _suited_precisions(flags: set[str]) -> set[str]:
    """Those of `PRECISIONS` that suit a CPU of these flags; only "f32" where there are none."""
    return {"f32", *(name for name, any_of in SUITED.items() if any_of & flags)}


def floating_precision(flags: set[str] | None = None) -> str:
    """The faster type for what is not quantized, "bf16" or "f32", of this CPU or one of `flags`."""
    flags = _cpu_flags() if flags is None else flags
    return "bf16" if "bf16" in _suited_precisions(flags) else "f32"


def default_weights() -> Path:
    """The folder that `weights/DEFAULT` names."""
    try:
        return WEIGHTS / (WEIGHTS / DEFAULT_FILE).read_text().strip()
    except OSError as error:
        raise WeightsError(f"{WEIGHTS}: no default weights ({error.strerror})") from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a weights folder.

    Raises:
        WeightsError: it is missing, not JSON, of another format, or incomplete.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except OSError as error:
        raise WeightsError(f"{path}: no weights here ({error.strerror})") from error
    except ValueError as error:
        raise WeightsError(f"{path}: not JSON ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != MANIFEST_FORMAT:
        raise WeightsError(f"{path}: expected a manifest of format {MANIFEST_FORMAT}")
    for key in ("variant", "models"):
        if key not in manifest:
            raise WeightsError(f"{path}: key '{key}' is missing")
    for kind, parts in manifest["models"].items():
        for part in PARTS:
            if not any(name.endswith(".xml") for name in parts.get(part, ())):
                raise WeightsError(f"{path}: 'models' has no {part} .xml for {kind}")
    return manifest


def _verified(folder: Path, name: str, sha256: str) -> Path:
    path = folder / name
    try:
        with path.open("rb") as file:
            found = hashlib.sha256(file.read()).hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    if found != sha256:
        raise WeightsError(f"{path}: sha256 is {found}, the manifest says {sha256}")
    return path


def _last_line(error: Exception) -> str:
    """The line that says why, which is the last one of OpenVINO's."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def _settings(computed: str, threads: int) -> dict[str, Any]:
    """What OpenVINO is told about every model."""
    return {
        "INFERENCE_PRECISION_HINT": computed,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        # else programs side by side are bound to the same cores (docs/limits.md)
        "ENABLE_CPU_PINNING": False,
    }


def compile_model(
    core: ov.Core, model: ov.Model | Path, computed: str, threads: int, **more: object
) -> ov.CompiledModel:
    """`model`, or the IR at that path, as the program compiles its own; `more` are OpenVINO's.

    Args:
        computed: "f32" or "bf16", the type of what is not quantized.

    Raises:
        RuntimeError: OpenVINO cannot run it, or has no such type on this CPU.
    """
    compiled = core.compile_model(model, "CPU", {**_settings(computed, threads), **more})
    if computed == "bf16" and compiled.get_property("INFERENCE_PRECISION_HINT") != ov.Type.bf16:
        raise RuntimeError("it has no AVX-512: OpenVINO would take f32")
    return compiled


def _blob_start(files: dict[str, str], computed: str, flags: set[str]) -> str:
    """How the name of a compiled model begins that fits these files, OpenVINO and flags."""
    facts = [ov.__version__, sorted(flags), sorted(files.items()), computed]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:BLOB_DIGITS]


def _ready(
    core: ov.Core,
    folder: Path,
    files: dict[str, str],
    computed: str,
    threads: int,
    flags: set[str],
) -> tuple[ov.InferRequest, bool]:
    """A request to the model of `files` (sha256 by name), and whether `precompile` had left it.

    Raises:
        WeightsError: it cannot be read, was altered, or does not run here.
    """
    paths = [_verified(folder, name, sha) for name, sha in files.items()]
    for path in (folder / COMPILED).glob(f"{_blob_start(files, computed, flags)}-*.blob"):
        try:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest()[:BLOB_DIGITS] == path.stem.partition("-")[2]:
                settings = _settings(computed, threads)
                kept = core.import_model(io.BytesIO(content), "CPU", settings)
                return kept.create_infer_request(), True
        except Exception as error:  # whatever is wrong with it: there is the IR
            log.warning("%s: compiled anew (%s)", path, _last_line(error))
    xml = next(p for p in paths if p.suffix == ".xml")
    try:
        return compile_model(core, xml, computed, threads).create_infer_request(), False
    except RuntimeError as error:  # OpenVINO's only one
        raise WeightsError(
            f"{xml}: OpenVINO cannot run it in {computed} on this CPU ({_last_line(error)})"
        ) from error


class Network:
    """Encoder and decoder, compiled for this machine. Made by `load`.

    Several threads may share one: `encode` and `decode` each run for one thread at a time, with
    all `threads` of the network, and the other threads wait. A request for each thread would be
    no faster, since the cores are busy, and would take 150 MB more each.
    """

    def __init__(self, folder: Path, precision: str, threads: int) -> None:
        """Begin to make them ready, in threads of their own; `wait` says when they are."""
        manifest = read_manifest(folder)
        models = manifest["models"]
        flags = _cpu_flags()
        floating = floating_precision(flags)
        if precision == AUTO:
            suited = "int8" in _suited_precisions(flags) and MATRIX_UNITS not in flags
            quantized = suited and "int8" in models
            precision = "int8" if quantized else floating
        stored = PRECISIONS[precision]
        kind = next((k for k in stored if k in models), None)
        if kind is None:
            raise WeightsError(
                f"{folder}: precision {precision} needs a model in {' or '.join(stored)}, "
                f"found {', '.join(models)}"
            )
        computed = floating if precision == "int8" else precision  # of what is not quantized
        self.variant: str = manifest["variant"]
        self.precision = f"int8+{computed}" if precision == "int8" else precision
        self.threads = threads
        # To infer and to read the result are two steps on one request: no other thread in between.
        self._encoding, self._decoding = Lock(), Lock()
        core = ov.Core()
        pool = ThreadPoolExecutor()  # compiling keeps one core busy, there are two models
        self._loading = {
            part: pool.submit(_ready, core, folder, models[kind][part], computed, threads, flags)
            for part in PARTS
        }
        pool.shutdown(wait=False)
        self._folder, self._computed, self._flags = folder, computed, flags
        self._files: dict[str, dict[str, str]] = models[kind]

    @cached_property
    def _encoder(self) -> ov.InferRequest:
        return self._loading["encoder"].result()[0]

    @cached_property
    def _decoder(self) -> ov.InferRequest:
        return self._loading["decoder"].result()[0]

    def wait(self) -> None:
        """Return when the network is ready.

        Raises:
            WeightsError: a file cannot be read, was altered, or does not run here.
        """
        for loading in self._loading.values():
            loading.result()

    def encode(self, pixels: FloatArray) -> FloatArray:
        """Embedding (1, 4096, C), its 64 x 64 cells by row, of `pixels` (1, 3, 256, 256), 0..1."""
        with self._encoding:
            self._encoder.infer([pixels], share_inputs=True)
            # a copy: the next inference writes to the same memory
            embedding: FloatArray = self._encoder.get_output_tensor(0).data.copy()
        return embedding

    def precompile(self) -> None:
        """Leave the compiled models in the weights folder, for a quicker start on CPUs like this.

        Like this are those with the same `INSTRUCTION_SETS`.

        One that was read from there stays as it is: what OpenVINO exports of it cannot be read.

        Raises:
            OSError: they cannot be written.
        """
        compiled = self._folder / COMPILED
        compiled.mkdir(exist_ok=True)
        for part, loading in self._loading.items():
            request, kept = loading.result()
            if kept:
                continue
            start = _blob_start(self._files[part], self._computed, self._flags)
            content = io.BytesIO()
            request.get_compiled_model().export_model(content)
            digest = hashlib.sha256(content.getvalue()).hexdigest()[:BLOB_DIGITS]
            path = compiled / f"{start}-{digest}.blob"
            with whole_file(path) as stream:
                stream.write(content.getvalue())
            for other in set(compiled.glob(f"{start}-*.blob")) - {path}:
                other.unlink()

    def release_encoder(self) -> None:
        """Give back the 150 MB that wait for the next `encode`, which takes them again."""
        with self._encoding:
            self._encoder.get_compiled_model().release_memory()

    def decode(
        self, embedding: FloatArray, prompts: FloatArray, cells: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        """Logits (N, 4 h, 4 w) and predicted IoU (N,) of `prompts` (N, 4) in one slice.

        `embedding` is what `encode` returned; prompts are boxes in input pixels; `cells` (N, h, w)
        are the numbers of the embedding's cells, a rectangle for each prompt, whose 4 x 4 pixels
        are wanted.
        """
        with self._decoding:
            self._decoder.infer([embedding, prompts, cells], share_inputs=True)
            logits, iou = (self._decoder.get_output_tensor(i).data.copy() for i in range(2))
        return logits, iou


def load(
    weights: Path | str | None = None,
    *,
    precision: str = AUTO,
    threads: int | None = None,
    wait: bool = True,
) -> Network:
    """The network of a weights folder, ready to run.

    Args:
        weights: a folder with a manifest; None is the default that comes with the program.
        precision: "f32" (the most exact), "bf16", "int8", or "auto": the fastest that suits this
            CPU and that the folder has a model for.
        threads: None uses what affinity and container quota allow.
        wait: False returns at once, and what is wrong with a model `Network.wait` raises.

    Raises:
        WeightsError: the folder is missing, incomplete, altered, or has no such precision.
        ValueError: there is no precision of that name.
    """
    choices = (AUTO, *PRECISIONS)
    if precision not in choices:
        raise ValueError(f"precision should be one of {', '.join(choices)}, got '{precision}'")
    folder = default_weights() if weights is None else Path(weights)
    network = Network(folder, precision, threads or available_threads())
    if wait:
        network.wait()
    log.info("%s, %s, %d threads", network.variant, network.precision, network.threads)
    return network

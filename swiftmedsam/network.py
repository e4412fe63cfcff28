"""The network on this CPU: two OpenVINO models. The only file that names OpenVINO."""

import io
import logging
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

# On import, OpenVINO's package sends a report to Google Analytics from a thread, and writes files
# to HOME. Without its package `openvino_telemetry` it does neither.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
# It also imports its converter, which only the export of checkpoints uses: a quarter of the time of
# all our imports. It goes on without a converter that cannot be imported.
_CONVERTER = "openvino.tools.ovc"
_hidden = "openvino" not in sys.modules
if _hidden:
    sys.modules[_CONVERTER] = None  # type: ignore[assignment]

import openvino as ov  # noqa: E402

if _hidden:
    del sys.modules[_CONVERTER]
    # for whoever uses OpenVINO in this process: the same function, imported when it is called
    ov.convert_model = lambda *arguments, **options: import_module(_CONVERTER).convert_model(
        *arguments, **options
    )

from swiftmedsam.atomic import atomic_file  # noqa: E402
from swiftmedsam.cpu import (  # noqa: E402
    AUTO,
    PRECISIONS,
    auto_precision,
    cpu_flags,
    floating_precision,
)
from swiftmedsam.manifest import (  # noqa: E402
    MANY,
    PARTS,
    WeightsError,
    auto_of,
    default_weights,
    parts_of,
    read_manifest,
    settings_of,
    sha256_of,
    verified,
)
from swiftmedsam.memory import MANY_PROMPTS  # noqa: E402
from swiftmedsam.settings import Settings  # noqa: E402
from swiftmedsam.system import available_threads  # noqa: E402

log = logging.getLogger(__name__)

COMPILED = "compiled"  # subfolder of a weights folder, with the models that `precompile` made
BLOB_DIGITS = 16  # of a sha256 in the names of these models

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]


def _last_line(error: Exception) -> str:
    """The last line of an error of OpenVINO, which has the reason."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def _openvino_options(computed: str, threads: int) -> dict[str, Any]:
    """OpenVINO's options, the same for every model."""
    return {
        "INFERENCE_PRECISION_HINT": computed,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        # with pinning, programs side by side are bound to the same cores (docs/limits.md)
        "ENABLE_CPU_PINNING": False,
    }


def compile_model(
    core: ov.Core, model: ov.Model | Path, computed: str, threads: int, **more: object
) -> ov.CompiledModel:
    """Compile `model`, or the IR at that path, with the program's options.

    Args:
        core: OpenVINO's.
        model: the model, or the path of its .xml.
        computed: "f32" or "bf16", the type of unquantized layers.
        threads: how many OpenVINO may use.
        more: further options of OpenVINO.

    Raises:
        RuntimeError: OpenVINO cannot run the model, or has no such type on this CPU.
    """
    compiled = core.compile_model(model, "CPU", {**_openvino_options(computed, threads), **more})
    if computed == "bf16" and compiled.get_property("INFERENCE_PRECISION_HINT") != ov.Type.bf16:
        raise RuntimeError("it has no AVX-512: OpenVINO would take f32")
    return compiled


def _blob_start(files: dict[str, str], computed: str, flags: set[str]) -> str:
    """The start of a compiled model's file name: a hash of all that the model depends on."""
    facts = [ov.__version__, sorted(flags), sorted(files.items()), computed]
    return sha256_of(repr(facts).encode())[:BLOB_DIGITS]


def _compiled_request(
    core: ov.Core,
    folder: Path,
    files: dict[str, str],
    computed: str,
    threads: int,
    flags: set[str],
) -> tuple[ov.InferRequest, bool]:
    """A request to the model of `files` (sha256 by name), and whether it was precompiled.

    Raises:
        WeightsError: a file cannot be read, was altered, or does not run here.
    """
    paths = [verified(folder, name, sha) for name, sha in files.items()]
    for path in (folder / COMPILED).glob(f"{_blob_start(files, computed, flags)}-*.blob"):
        try:
            content = path.read_bytes()
            if sha256_of(content)[:BLOB_DIGITS] == path.stem.partition("-")[2]:
                options = _openvino_options(computed, threads)
                precompiled = core.import_model(io.BytesIO(content), "CPU", options)
                return precompiled.create_infer_request(), True
        except Exception as error:  # any fault: the IR can be compiled instead
            log.warning("%s: compiled anew (%s)", path, _last_line(error))
    xml = next(p for p in paths if p.suffix == ".xml")
    try:
        return compile_model(core, xml, computed, threads).create_infer_request(), False
    except RuntimeError as error:  # OpenVINO raises no other
        raise WeightsError(
            f"{xml}: OpenVINO cannot run it in {computed} on this CPU ({_last_line(error)})"
        ) from error


def chosen_precision(
    folder: Path, manifest: dict[str, Any], precision: str, flags: set[str]
) -> tuple[str, str]:
    """Which of the manifest's models a CPU with these flags uses, and how it computes.

    The second is "f32", "bf16", or like "int8+f32", with the type of layers that are not quantized.

    Raises:
        WeightsError: there is no model for `precision`, or the manifest's 'auto' is wrong.
    """
    floating, models = floating_precision(flags), manifest["models"]
    if precision == AUTO:
        precision = auto_precision(flags, auto_of(folder, manifest))
        if precision == "int8" and "int8" not in models:
            precision = floating
    stored = PRECISIONS[precision]
    kind = next((k for k in stored if k in models), None)
    if kind is None:
        raise WeightsError(
            f"{folder}: precision {precision} needs a model in {' or '.join(stored)}, "
            f"found {', '.join(models)}"
        )
    return kind, f"int8+{floating}" if precision == "int8" else precision


class Network:
    """Encoder and decoder, compiled for this machine. Made by `load`.

    Several threads may share one network. `encode` and `decode` each serve one caller at a time,
    with all `threads` of the network; other callers wait. One request per caller would be no
    faster, since all cores are busy, and would take 150 MB more for each.
    """

    def __init__(self, folder: Path, precision: str, threads: int) -> None:
        """Begin to load the encoder, in a thread of its own; `wait` returns when all is ready.

        The decoder follows when `wait` or a first use asks for it. A program that starts has both
        cores busy until then, with its imports and the encoder.

        Raises:
            WeightsError: the manifest is wrong, or has no model for this precision.
        """
        manifest = read_manifest(folder)
        models = manifest["models"]
        flags = cpu_flags()
        kind, self.precision = chosen_precision(folder, manifest, precision, flags)
        computed = self.precision.rpartition("+")[2]  # the type of unquantized layers
        self.variant: str = manifest["variant"]
        self.settings: Settings = settings_of(folder, manifest)
        self.threads = threads
        # To infer and to read the result are two steps on one request: a lock keeps them together.
        self._encoding, self._decoding = Lock(), Lock()
        self._beginning = Lock()
        self._folder, self._computed, self._flags = folder, computed, flags
        self._files: dict[str, dict[str, str]] = models[kind]
        self._core, self._pool = ov.Core(), ThreadPoolExecutor()
        self._loading: dict[str, Future[tuple[ov.InferRequest, bool]]] = {}
        self._parts = parts_of(self._files)
        self._begin("encoder")  # it takes the longest; the decoder is begun by `wait`

    def __str__(self) -> str:
        """What a log says of it, such as "v3, int8+bf16, 2 threads"."""
        return f"{self.variant}, {self.precision}, {self.threads} threads"

    def _begin(self, part: str) -> Future[tuple[ov.InferRequest, bool]]:
        """Begin to load a part, if this was not done; one core compiles it."""
        with self._beginning:
            if part not in self._loading:
                self._loading[part] = self._pool.submit(
                    _compiled_request, self._core, self._folder, self._files[part],
                    self._computed, self.threads, self._flags,
                )  # fmt: skip
                if len(self._loading) == len(self._parts):
                    self._pool.shutdown(wait=False)
            return self._loading[part]

    @cached_property
    def _encoder(self) -> ov.InferRequest:
        return self._begin("encoder").result()[0]

    @cached_property
    def _decoder(self) -> ov.InferRequest:
        return self._begin("decoder").result()[0]

    @cached_property
    def _decoder_many(self) -> ov.InferRequest:
        return self._begin(MANY).result()[0]

    def expect(self, prompts: int) -> None:
        """Begin to load what `prompts` prompts in one slice need, if it is not there."""
        if prompts >= MANY_PROMPTS and MANY in self._parts:
            self._begin(MANY)

    def wait(self) -> None:
        """Return when the network is ready; the decoder for many boxes is loaded at its first use.

        Raises:
            WeightsError: a file cannot be read, was altered, or does not run here.
        """
        for loading in [self._begin(part) for part in PARTS]:
            loading.result()

    def encode(self, pixels: FloatArray) -> FloatArray:
        """Embedding (1, 4096, C) of `pixels` (1, 3, 256, 256), 0..1; 64 x 64 cells, row by row."""
        with self._encoding:
            self._encoder.infer([pixels], share_inputs=True)
            # a copy: the next inference writes to the same memory
            embedding: FloatArray = self._encoder.get_output_tensor(0).data.copy()
        return embedding

    def precompile(self) -> None:
        """Write the compiled models to the weights folder, so that the next start is quicker.

        They serve CPUs with the same flags of `INSTRUCTION_SETS`. A model that was read from there
        is not written again: OpenVINO could not read what it exports of such a model.

        Raises:
            OSError: a file cannot be written.
        """
        compiled = self._folder / COMPILED
        compiled.mkdir(exist_ok=True)
        for part in self._parts:
            request, precompiled = self._begin(part).result()
            if precompiled:
                continue
            start = _blob_start(self._files[part], self._computed, self._flags)
            content = io.BytesIO()
            request.get_compiled_model().export_model(content)
            digest = sha256_of(content.getvalue())[:BLOB_DIGITS]
            path = compiled / f"{start}-{digest}.blob"
            with atomic_file(path) as stream:
                stream.write(content.getvalue())
            for other in set(compiled.glob(f"{start}-*.blob")) - {path}:
                other.unlink()

    def release_encoder(self) -> None:
        """Free 150 MB of the encoder; the next `encode` takes them again."""
        with self._encoding:
            self._encoder.get_compiled_model().release_memory()

    def decode(
        self, embedding: FloatArray, prompts: FloatArray, cells: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        """Logits (N, 4 h, 4 w) and predicted IoU (N,) of `prompts` (N, 4) in one slice.

        Args:
            embedding: (1, 4096, C), from `encode`.
            prompts: (N, 4) x_min, y_min, x_max, y_max in input pixels.
            cells: (N, h, w), for each prompt a rectangle of the embedding's cells, by number,
                row * 64 + column; each gives 4 x 4 logits.
        """
        with self._decoding:
            many = len(prompts) >= MANY_PROMPTS and MANY in self._parts
            decoder = self._decoder_many if many else self._decoder
            decoder.infer([embedding, prompts, cells], share_inputs=True)
            logits, iou = (decoder.get_output_tensor(i).data.copy() for i in range(2))
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
        weights: a folder with a manifest; None: the default weights of the program.
        precision: "f32" (the most exact), "bf16", "int8", or "auto": the fastest that suits this
            CPU and that the folder has a model for.
        threads: None: as many as the CPU affinity and the container's quota allow.
        wait: False: return before the models are compiled, and log nothing; `Network.wait` then
            raises their errors.

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
        log.info("%s", network)
    return network

"""Time encoders in turns, by precision and by the instructions that the CPU may use.

    python -m benchmarks.speed.encoders [WEIGHTS ...] [--beside IR.xml ...]
        [--isa AVX2 AVX512_CORE ...] [--rounds N] [--threads N]

WEIGHTS are weights folders (the default one if none is named). `--beside` names encoders of other
programs as OpenVINO models, of input (1, 3, 256, 256); they are timed in floats alone. Each value
of `--isa` is a limit for oneDNN (ONEDNN_MAX_CPU_ISA) and stands for an older CPU; each is measured
in a process of its own. In such a process all encoders run in turns, one inference each, so that a
slow machine slows all of them.

The tables have medians in milliseconds. In brackets is the part of the time of the first encoder of
`--beside` in its own fastest precision. At the end are the words that make the fastest precisions
the default of the weights: options of `python -m swiftmedsam.convert.measured`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import openvino as ov

from swiftmedsam import WeightsError
from swiftmedsam.cpu import (
    AUTO_PRECISIONS,
    INSTRUCTION_SETS,
    PRECISIONS,
    cpu_flags,
    floating_precision,
)
from swiftmedsam.manifest import default_weights, read_manifest
from swiftmedsam.network import compile_model, load
from swiftmedsam.system import available_threads

LIMIT = "ONEDNN_MAX_CPU_ISA"
# Limits that differ in the fastest precision, and the flag by which a manifest knows such a CPU.
FLAGS = {
    "AVX2": "avx2",
    "AVX512_CORE": "avx512bw",
    "AVX512_CORE_VNNI": "avx512_vnni",
    "AVX512_CORE_BF16": "avx512_bf16",
    "AVX512_CORE_AMX": "amx_bf16",
}
Times = dict[str, dict[str, list[float]]]  # milliseconds by encoder and precision


def runs_here(limit: str) -> bool:
    """Whether this CPU has the instructions that the limit adds to the one before it."""
    return INSTRUCTION_SETS[limit] <= cpu_flags()


def named(paths: Sequence[Path]) -> dict[str, Path]:
    """Return the paths by the name of their folder, with their own name where it is a file's.

    Raises:
        ValueError: two have one name.
    """
    found = {p.resolve().name if p.is_dir() else f"{p.resolve().parent.name}/{p.stem}": p
             for p in paths}  # fmt: skip
    if len(found) < len(paths):
        raise ValueError(f"the names of the encoders should differ, got {', '.join(found)}")
    return found


def tasks(path: Path, threads: int) -> dict[str, Callable[[np.ndarray], object]]:
    """Return ways to run the encoder of a weights folder, or an OpenVINO model, by precision.

    Raises:
        WeightsError: `path` is a folder without weights.
        RuntimeError: OpenVINO cannot run the model.
    """
    floats = ["f32", "bf16"] if floating_precision() == "bf16" else ["f32"]
    if path.is_dir():
        models = read_manifest(path)["models"]
        able = [p for p in (*floats, "int8") if set(PRECISIONS[p]) & set(models)]
        return {p: load(path, precision=p, threads=threads).encode for p in able}
    core = ov.Core()
    requests = {p: compile_model(core, path, p, threads).create_infer_request() for p in floats}
    return {
        p: lambda pixels, request=request: request.infer([pixels], share_inputs=True)
        for p, request in requests.items()
    }


def measure(encoders: dict[str, Path], rounds: int, threads: int) -> Times:
    """Run every encoder in every precision once a round; return milliseconds.

    Raises: as `tasks`.
    """
    pixels = np.random.default_rng(0).random((1, 3, 256, 256), np.float32)
    ways = {name: tasks(path, threads) for name, path in encoders.items()}
    found: Times = {name: defaultdict(list) for name in ways}
    for number in range(rounds + 1):
        for name, by_precision in ways.items():
            for precision, run in by_precision.items():
                began = time.perf_counter()
                run(pixels)
                if number:  # the first inference of each is slower
                    found[name][precision].append(1e3 * (time.perf_counter() - began))
    return found


def fastest(times: dict[str, list[float]]) -> tuple[float, str]:
    """Return the smallest median, and its precision."""
    return min((float(np.median(values)), precision) for precision, values in times.items())


def table(found: Times, beside: str | None) -> str:
    """Return a Markdown table of medians; in brackets parts of the fastest of `beside`."""
    unit = fastest(found[beside])[0] if beside else None
    lines = [f"| encoder | {' | '.join(PRECISIONS)} |", "|---" * (1 + len(PRECISIONS)) + "|"]
    for name, times in found.items():
        medians = [float(np.median(times[p])) if p in times else None for p in PRECISIONS]
        cells = ["" if m is None else f"{m:.1f} ({m / unit:.2f})" if unit else f"{m:.1f}"
                 for m in medians]  # fmt: skip
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def table_of(chosen: dict[str, str]) -> dict[str, str]:
    """Return the precisions by flag as a manifest has them, of those that were measured.

    A CPU with AMX gets the usual one if it was not measured. A CPU with VNNI and no AVX-512 gets
    what VNNI got here. With AVX2 alone f32 needs no word.
    """
    amx = "amx_bf16"
    found = {amx: AUTO_PRECISIONS[amx]} | chosen if len(chosen) > 1 else dict(chosen)
    last = found.pop("avx2", "f32")
    if "avx512_vnni" in found:
        found["avx_vnni"] = found["avx512_vnni"]
    return found | ({} if last == "f32" else {"avx2": last})


def measured_under(limit: str, options: argparse.Namespace) -> Times:
    """Measure in a process that may use the instructions of `limit` alone.

    Raises:
        RuntimeError: it failed; its own message is on stderr.
    """
    command = [sys.executable, "-m", "benchmarks.speed.encoders", "--raw"]
    counts = ["--rounds", str(options.rounds), "--threads", str(options.threads)]
    words = [*command, *map(str, options.weights), *counts]
    if options.beside:
        words += ["--beside", *map(str, options.beside)]
    done = subprocess.run(words, env=os.environ | {LIMIT: limit}, stdout=subprocess.PIPE)
    if done.returncode:
        raise RuntimeError(f"{LIMIT}={limit}: exit status {done.returncode}")
    return json.loads(done.stdout)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.speed.encoders", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("weights", nargs="*", type=Path)
    parser.add_argument("--beside", nargs="+", type=Path, default=[], metavar="IR.xml")
    parser.add_argument("--isa", nargs="+", choices=FLAGS, help="default: all that run here")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--raw", action="store_true", help=argparse.SUPPRESS)  # as JSON, unlimited
    options = parser.parse_args(argv)
    options.weights = options.weights or [default_weights()]
    try:
        encoders = named([*options.beside, *options.weights])
        if options.raw:
            print(json.dumps(measure(encoders, options.rounds, options.threads)))
            return 0
        first = next(iter(encoders)) if options.beside else None
        best: dict[str, dict[str, str]] = defaultdict(dict)
        cpu = ov.Core().get_property("CPU", "FULL_DEVICE_NAME")
        version = ov.__version__.split("-")[0]
        print(f"{cpu}; {options.threads} threads; OpenVINO {version}; milliseconds, medians of "
              f"{options.rounds} in turns")  # fmt: skip
        for limit in reversed(options.isa or [name for name in FLAGS if runs_here(name)]):
            found = measured_under(limit, options)
            print(f"\n{limit}\n\n{table(found, first)}", flush=True)
            for path in options.weights:
                name = next(n for n, p in encoders.items() if p == path)
                best[str(path)][FLAGS[limit]] = fastest(found[name])[1]
    except (OSError, RuntimeError, ValueError, WeightsError) as error:
        print(error, file=sys.stderr)
        return 1
    print()
    for path, chosen in best.items():
        words = " ".join(f"{flag}={precision}" for flag, precision in table_of(chosen).items())
        if words:
            print(f"python -m swiftmedsam.convert.measured {path} --auto {words}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

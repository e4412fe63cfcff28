"""Measure how much two runs slow each other: `python -m benchmarks.limits.side_by_side INPUTS`.

One run alone and two runs at the same time take turns. The result is the median seconds until all
are done, and their ratio. The ratio is 2 if two runs share the cores without loss. `--command` is
any command with {inputs} and {outputs}, for example

    docker run --rm -v {inputs}:/workspace/inputs:ro -v {outputs}:/workspace/outputs swiftmedsam
"""

import argparse
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from swiftmedsam.system import available_threads

DEFAULT = f"{sys.executable} -m app {{inputs}} {{outputs}} --quiet"


def start(command: str, inputs: Path, outputs: Path) -> subprocess.Popen[bytes]:
    """Start a command with {inputs} and {outputs} in it; the folder `outputs` is made."""
    outputs.mkdir()
    outputs.chmod(0o777)  # the container has another user
    return subprocess.Popen(
        [word.format(inputs=inputs.resolve(), outputs=outputs) for word in shlex.split(command)]
    )


def seconds(command: str, inputs: Path, runs: int) -> float:
    """Return the seconds of `runs` runs at the same time, each with outputs of its own.

    Raises:
        RuntimeError: a run failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        processes = [start(command, inputs, Path(folder, str(i))) for i in range(runs)]
        status = [process.wait() for process in processes]
        took = time.perf_counter() - began
    if any(status):
        raise RuntimeError(f"exit status {status} of {command}")
    return took


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.limits.side_by_side", description=__doc__
    )
    parser.add_argument("inputs", type=Path)
    parser.add_argument("--command", default=DEFAULT)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rounds = [
        [seconds(options.command, options.inputs, runs) for runs in (1, 2)]
        for _ in range(options.rounds)
    ]
    alone, both = (statistics.median(times) for times in zip(*rounds, strict=True))
    print(f"{available_threads()} threads, medians of {options.rounds}: alone {alone:.1f} s, "
          f"two at a time {both:.1f} s, {both / alone:.2f} times")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How soon does a stopped run end? `python -m benchmarks.limits.stopping INPUTS [--instants N]`.

One run is not stopped. N others are each stopped at another instant, evenly spaced from the start
of a run to its end. For each the command prints when it was stopped, how long it took to end, its
exit status, and the number of whole and broken outputs. No output may be broken. For containers:

    --command "docker run --rm --name stopped -v {inputs}:/workspace/inputs:ro
               -v {outputs}:/workspace/outputs swiftmedsam"   --stop "docker stop -t 20 stopped"
"""

import argparse
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.limits.side_by_side import DEFAULT, start

# Exit statuses: done before the stop; stopped; stopped before Python could handle signals.
ENDED = {0, 130, 143, -signal.SIGTERM}


@dataclass(frozen=True)
class Stop:
    """How a stopped run ended."""

    after: float  # seconds from its start
    took: float | None  # seconds from the stop to the end; None if it had ended before
    status: int
    whole: int  # number of whole outputs
    broken: int

    def row(self) -> str:
        """Return the row of the table."""
        took = "-" if self.took is None else f"{self.took:.2f}"
        return (f"| {self.after:.2f} | {took} | {self.status} "
                f"| {self.whole} | {self.broken} |")  # fmt: skip


def is_whole(path: Path) -> bool:
    """Whether an output is a whole npz file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def stop_after(after: float, command: str, stop: str, inputs: Path) -> Stop:
    """Run `command`; stop it after `after` seconds with the command `stop`, or with SIGTERM."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder, "outputs")
        process = start(command, inputs, outputs)
        time.sleep(after)
        began = time.perf_counter()
        if stop:  # it fails if the container has not started, or has ended
            stopped = subprocess.run(shlex.split(stop), capture_output=True).returncode == 0
        else:
            stopped = process.poll() is None
            process.terminate()
        status = process.wait()
        took = time.perf_counter() - began if stopped else None
        files = [is_whole(path) for path in outputs.iterdir()]
    return Stop(after, took, status, sum(files), len(files) - sum(files))


def main() -> int:
    """Run the command; return 1 if a run ended with another status or a broken output."""
    parser = argparse.ArgumentParser("python -m benchmarks.limits.stopping", description=__doc__)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("--command", default=DEFAULT)
    parser.add_argument("--stop", default="", help="default: SIGTERM to the command")
    parser.add_argument("--instants", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        if start(options.command, options.inputs, Path(folder, "outputs")).wait():
            raise SystemExit(f"{options.command}: failed, though nobody stopped it")
        whole_run = time.perf_counter() - began
    print(f"undisturbed: {whole_run:.2f} s\n")
    print("| stopped after s | over s later | exit status | whole outputs | broken ones |\n"
          "|---|---|---|---|---|")  # fmt: skip
    stops = []
    for i in range(options.instants):
        after = whole_run * (i + 0.5) / options.instants
        stops.append(stop_after(after, options.command, options.stop, options.inputs))
        print(stops[-1].row(), flush=True)
    took = [stop.took for stop in stops if stop.took is not None]
    print(f"\nmedian {statistics.median(took):.2f} s, longest {max(took):.2f} s")
    return int(any(stop.status not in ENDED or stop.broken for stop in stops))


if __name__ == "__main__":
    sys.exit(main())

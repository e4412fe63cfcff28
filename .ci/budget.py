"""Run the demo cases in the container; fail if a case takes more work than it did.

    python .ci/budget.py container.sh -c . -i examples/inputs -o OUT -w WORK

Two limits are checked for each case. Other programs on the machine hardly change them:

- The CPU seconds of its container (a cgroup), measured in slices on this machine now. A slice is
  one encoding and one decoding of 7 boxes. The limit is `FACTOR` times the number in the table
  below.
- The seconds in which no thread of the container could run, although it had not ended: the program
  waited for something.

A case runs twice (with the organisers' command, then under tighter rules), and the better run
counts. Seconds, and peak memory as a part of the organisers' 8 GB, are printed only.
"""

import re
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# The work of the demo cases, in CPU seconds: START imports of the libraries, and some slices.
# Imports stand for work that does not depend on the network (Python, reading weights). Measured
# with int8+bf16 on two cores, with models compiled when the image was built. With f32 (AVX2) and
# INT8 without bf16 the numbers are lower by up to a third, so one table is enough for all CPUs.
START = 1.0
SLICES = {
    "2DBox_Fundus_disc.npz": 3.0,
    "2DBox_MR_liver.npz": 6.0,
    "2DBox_Microscope_nuclei.npz": 7.5,
    "2DBox_US_bladder.npz": 3.5,
    "3DBox_CT_abdomen.npz": 54.0,
    "3DBox_CT_kidneys.npz": 44.0,
    "3DBox_MR_abdomen.npz": 40.0,
}
FACTOR = 1.5
MOST_WAITING = 0.25  # seconds
MEMORY = 8 * 2**30  # bytes of the organisers' container

LOOK_EVERY = 0.02  # seconds between two looks at the states of threads
CGROUPS = Path("/sys/fs/cgroup")
RECORD = re.compile(
    r"(organisers|hardened),(?P<case>[^,]+),\d+,(?P<seconds>[\d.]+),(?P<peak>\w+),0"
)
IMPORTS = "import numpy, cv2, openvino"
REPEATS = 5
# The network without the program around it, since the program may be what takes too much. Both
# halves count, since their shares depend on the CPU: an encoding is quick with bf16 and AMX.
SLICE = f"""
import statistics, time
import numpy as np
from swiftmedsam.network import compile_model, load, ov
from swiftmedsam.manifest import default_weights, read_manifest
network = load()
computed = network.precision.rpartition("+")[2]
models = read_manifest(default_weights())["models"]
stored = {{"int8": ["int8"], "bf16": ["fp16", "fp32"], "f32": ["fp32", "fp16"]}}
kind = next(k for k in stored[network.precision.partition("+")[0]] if k in models)
name = next(n for n in models[kind]["encoder"] if n.endswith(".xml"))
encoder = compile_model(ov.Core(), default_weights() / name, computed, network.threads)
request = encoder.create_infer_request()
pixels = np.random.default_rng(0).random((1, 3, 256, 256), np.float32)
embedding = np.array(request.infer([pixels])[0])
boxes = np.array([[64, 64, 128, 128]] * 7, np.float32)
side = np.arange(16, 32, dtype=np.int32)
cells = np.broadcast_to(side[:, None] * 64 + side, (len(boxes), 16, 16)).copy()
network.decode(embedding, boxes, cells)
seconds = []
for _ in range({REPEATS}):
    began = time.process_time()
    request.infer([pixels])
    network.decode(embedding, boxes, cells)
    seconds.append(time.process_time() - began)
print(statistics.median(seconds), network.precision)
"""


@dataclass(frozen=True)
class Units:
    """CPU seconds of one slice and of the imports, on this machine now."""

    slice: float
    imports: float


@dataclass(frozen=True)
class Run:
    """The measurements of one container."""

    case: str  # name of its file
    cpu: float  # seconds of all its threads
    waiting: float  # seconds in which no thread could run
    seconds: float  # wall clock, with the time of the engine
    peak: int | None  # bytes


def children_cpu() -> float:
    """Return the CPU seconds of all ended child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def python(code: str) -> str:
    """Run `code` with this interpreter; return what it prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def measure_units() -> Units:
    """Measure the units."""
    one_slice = float(python(SLICE).split()[0])
    imports = []
    for _ in range(REPEATS):
        began = children_cpu()
        python(IMPORTS)
        imports.append(children_cpu() - began)
    return Units(one_slice, statistics.median(imports))


class Cgroup:
    """The parent cgroup of the containers: CPU time, and seconds in which no thread could run."""

    def __init__(self, name: str) -> None:
        """Find the group `name`, in cgroup v2 or in cpuacct of v1."""
        v1 = CGROUPS / "cpuacct"
        self._v1 = v1.is_dir()
        self._folder = (v1 if self._v1 else CGROUPS) / name
        self.waiting = 0.0

    def cpu(self) -> float:
        """Return the CPU seconds of all containers so far, also ended ones; 0 before the first."""
        try:
            if self._v1:
                return int((self._folder / "cpuacct.usage").read_text()) / 1e9
            words = (self._folder / "cpu.stat").read_text().split()
            return int(words[words.index("usage_usec") + 1]) / 1e6
        except FileNotFoundError:
            return 0.0

    def _states(self) -> Iterator[str]:
        """Yield the states of all threads in containers, as in /proc; R: runs or could run."""
        for tasks in self._folder.glob(f"*/{'tasks' if self._v1 else 'cgroup.threads'}"):
            for thread in tasks.read_text().split():
                name, state = Path("/proc", thread, "stat").read_text().rpartition(")")[::2]
                # a process of the engine, which waits in the container for the start
                yield "R" if "(runc" in name else state.split()[0]

    def watch(self, ended: threading.Event) -> None:
        """Add up `waiting` until `ended`."""
        last = time.monotonic()
        while not ended.wait(LOOK_EVERY):
            now = time.monotonic()
            try:
                states = set(self._states())
            except OSError:  # a thread, or the container, has just ended
                states = set()
            if states == {"S"}:  # all sleep
                self.waiting += min(
                    now - last, 2 * LOOK_EVERY
                )  # if this loop was delayed, count two intervals at most
            last = now


def run_container(command: list[str]) -> tuple[int, list[Run]]:
    """Run container.sh; return its exit status and what each case took."""
    runs = []
    with subprocess.Popen(["bash", *command], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        group, ended = (
            Cgroup(f"bar-{process.pid}"),
            threading.Event(),
        )  # container.sh uses this name
        watcher = threading.Thread(target=group.watch, args=[ended])
        watcher.start()
        cpu, waiting = 0.0, 0.0
        for (
            line
        ) in process.stdout:  # at least one line before the first case, and one after each case
            print(line, end="", flush=True)
            before, cpu = (cpu, waiting), group.cpu()
            waiting = group.waiting
            if found := RECORD.match(line):
                peak = int(found["peak"]) if found["peak"].isdecimal() else None
                runs.append(Run(found["case"], cpu - before[0], waiting - before[1],
                                float(found["seconds"]), peak))  # fmt: skip
        ended.set()
        watcher.join()
    return process.returncode, runs


def judge(runs: list[Run], units: Units) -> tuple[list[str], list[str]]:
    """Return a line about each case, and a line about each fault."""
    lines, wrong = [], []
    for case, slices in SLICES.items():
        own = [run for run in runs if run.case == case]
        cpu = min((run.cpu for run in own), default=0.0)
        if cpu == 0:
            wrong.append(f"{case}: expected the CPU seconds of its container, found none")
            continue
        waiting = min(run.waiting for run in own)
        allowed = FACTOR * (START * units.imports + slices * units.slice)
        lines.append(
            f"{case:28} {cpu:6.2f} of {allowed:6.2f} CPU s = {cpu / units.slice:5.1f} of "
            f"{allowed / units.slice:5.1f} slices; waited {waiting:.2f} of {MOST_WAITING} s; "
            f"{min(run.seconds for run in own):6.2f} s"
            + "".join(f"; {run.peak / MEMORY:.1%} of 8 GB" for run in own[:1] if run.peak)
        )
        if cpu > allowed:
            wrong.append(f"{case}: {cpu:.2f} CPU s, {allowed:.2f} allowed: more work than before")
        if waiting > MOST_WAITING:
            wrong.append(f"{case}: waited {waiting:.2f} s, {MOST_WAITING} allowed")
    return lines, wrong


def main() -> int:
    """Run, print and judge; return the exit status."""
    before = measure_units()
    status, runs = run_container(sys.argv[1:])
    after = measure_units()
    units = Units(*(max(getattr(one, name) for one in (before, after))
                    for name in ("slice", "imports")))  # fmt: skip
    print(f"one slice {units.slice:.3f} CPU s, imports {units.imports:.3f} CPU s")
    lines, wrong = judge(runs, units)
    print(*lines, sep="\n")
    for line in wrong:
        print(line, file=sys.stderr)
    return status or int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())

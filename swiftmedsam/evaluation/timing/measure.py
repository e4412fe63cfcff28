"""One run of a program on one case, in a fresh process or container: seconds, memory, its split."""

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

SPAWN = Path(__file__).with_name("spawn.py")
# The steps that `python -m app` names in its line about a case, as in swiftmedsam/program/jobs.py
STEPS = ("read", "encode", "decode", "write")
PARTS = ("start", *STEPS, "rest")  # of a run
# `3DBox_CT_1.npz  40x256x256  6 boxes  12.30 s (read 0.10, encode 9.00, ...)`
CASE_LINE = re.compile(r"  (?P<seconds>\d+\.\d+) s \((?P<steps>\w+ \d+\.\d+(?:, \w+ \d+\.\d+)*)\)$")
RUN_LINE = re.compile(r"(?P<variant>\w+), (?P<precision>[\w+]+), \d+ threads")
PEAK_LINE = re.compile(r"peak_bytes (?P<bytes>\d+)")

# The challenge's limits and its command, followed by what says the container's peak.
ENGINE_WORDS = ("container", "run", "-m", "8G", "--rm")
CONTAINER_PEAK = (
    "status=$?; for file in memory.peak memory/memory.max_usage_in_bytes; do "
    '[ -r "/sys/fs/cgroup/$file" ] && echo "peak_bytes $(cat "/sys/fs/cgroup/$file")"; '
    "done; exit $status"
)


class RunError(RuntimeError):
    """A command that cannot be run; the message names it."""


@dataclass(frozen=True)
class Program:
    """A command; `{inputs}` and `{outputs}` in its words stand for the folders.

    `python` as the first word is the interpreter that runs this.
    """

    name: str
    words: tuple[str, ...]
    contained: bool = False  # in a container, which says its peak memory itself

    def command(self, inputs: Path, outputs: Path) -> list[str]:
        """The words with the folders put in, and with this interpreter for `python`."""
        words = [sys.executable if self.words[0] == "python" else self.words[0], *self.words[1:]]
        return [
            word.replace("{inputs}", str(inputs)).replace("{outputs}", str(outputs))
            for word in words
        ]


@dataclass
class Said:
    """What a program said of itself."""

    seconds: float | None = None  # by its own clock, the case alone
    steps: dict[str, float] = field(default_factory=dict)  # of `STEPS`
    ran_as: str = ""  # variant, precision, threads
    container_peak: int | None = None  # bytes
    last_words: str = ""


@dataclass(frozen=True)
class ProgramRun:
    """One run on one case."""

    seconds: float  # wall time, from start to end of the process or container
    peak_bytes: int | None
    status: int
    written: bool  # whether the output is there
    said: Said

    @property
    def ok(self) -> bool:
        """Whether it did what it should."""
        return self.status == 0 and self.written

    @property
    def split(self) -> dict[str, float]:
        """Seconds by part, `seconds` in all. Empty where the program says nothing of itself.

        "start" is before and after the case: start of process or container, imports, weights, end.
        "rest" is in the case, but in none of `STEPS`: resizing masks, painting labels.
        """
        if self.said.seconds is None:
            return {}
        start = self.seconds - self.said.seconds
        # not below 0, since the program rounds each of its figures
        rest = max(0.0, self.said.seconds - sum(self.said.steps.values()))
        return {"start": start, **self.said.steps, "rest": rest}


def python_program(name: str, command: str) -> Program:
    """A program of a command line to which the folders are added where it does not name them.

    Raises:
        ValueError: there is no command, or a quote is left open.
    """
    words = shlex.split(command)
    if not words:
        raise ValueError("no command")
    if not any(mark in word for word in words for mark in ("{inputs}", "{outputs}")):
        words += ["{inputs}", "{outputs}"]
    return Program(name, tuple(words))


def container_program(name: str, engine: str, image: str, shell: str) -> Program:
    """The challenge's container: 8 GB, its two folders, `shell` in `/bin/bash -c`."""
    return Program(
        name,
        (
            engine, *ENGINE_WORDS, "-v", "{inputs}/:/workspace/inputs/",
            "-v", "{outputs}/:/workspace/outputs/", image, "/bin/bash", "-c", shell,
        ),
        contained=True,
    )  # fmt: skip


def app_program(name: str, engine: str | None, image: str, options: Sequence[str]) -> Program:
    """This repository's program, in a process or, given an engine, in a container of `image`."""
    if engine is None:
        return python_program(name, shlex.join(["python", "-m", "app", *options]))
    shell = f"{shlex.join(['sh', 'predict.sh', *options])}; {CONTAINER_PEAK}"
    return container_program(name, engine, image, shell)


def nothing_program(engine: str | None, image: str) -> Program:
    """What does nothing in a process or container: its time is that of the machinery."""
    if engine is None:
        return Program("nothing", ("true",))
    return container_program("nothing", engine, image, "true")


def _read_log(text: str) -> Said:
    """What is to be known from a program's output; of several cases the last one's."""
    said = Said()
    for line in text.splitlines():
        if found := PEAK_LINE.fullmatch(line):
            said.container_peak = int(found["bytes"])
            continue
        said.last_words = line.strip() or said.last_words
        if found := CASE_LINE.search(line):
            said.seconds = float(found["seconds"])
            pairs = (pair.split(" ") for pair in found["steps"].split(", "))
            said.steps = {step: float(seconds) for step, seconds in pairs if step in STEPS}
        elif RUN_LINE.fullmatch(line):
            said.ran_as = line
    return said


def run(program: Program, case: Path | None) -> ProgramRun:
    """Run a program on one case, its output thrown away; without a case on an empty folder.

    Raises:
        RunError: there is no such command, or this is not Linux.
        OSError: the case cannot be copied.
    """
    if not sys.platform.startswith("linux"):  # others count memory in other ways
        raise RunError("time and memory of programs are measured on Linux only")
    with tempfile.TemporaryDirectory(prefix="runtime-") as folder:
        root = Path(folder)
        inputs, outputs, log = root / "inputs", root / "outputs", root / "log"
        for each in (root, inputs, outputs):
            each.mkdir(exist_ok=True)
            each.chmod(0o777)  # a container's user is another one
        if case is not None:
            shutil.copyfile(case, inputs / case.name)
        command = program.command(inputs, outputs)
        if shutil.which(command[0]) is None:
            raise RunError(f"{program.name}: there is no command {command[0]}")
        done = subprocess.run(
            [sys.executable, "-I", "-S", SPAWN, log, *command],
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        seconds, peak, status = done.stdout.split()
        said = _read_log(log.read_text(errors="replace"))
        written = case is None or (outputs / case.name).exists()
    return ProgramRun(
        float(seconds), said.container_peak if program.contained else int(peak), int(status),
        written, said,
    )  # fmt: skip

"""Run a program on one case, in a fresh process or container; measure seconds and memory."""

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
PARTS = ("start", *STEPS, "rest")  # the parts of a run
# `3DBox_CT_1.npz  40x256x256  6 boxes  12.30 s (read 0.10, encode 9.00, ...)`
CASE_LINE = re.compile(r"  (?P<seconds>\d+\.\d+) s \((?P<steps>\w+ \d+\.\d+(?:, \w+ \d+\.\d+)*)\)$")
RUN_LINE = re.compile(r"(?P<variant>\w+), (?P<precision>[\w+]+), \d+ threads")
PEAK_LINE = re.compile(r"peak_bytes (?P<bytes>\d+)")

# The limits and the command of the challenge, then a command that prints the peak of the container.
ENGINE_WORDS = ("container", "run", "-m", "8G", "--rm")
CONTAINER_PEAK = (
    "status=$?; for file in memory.peak memory/memory.max_usage_in_bytes; do "
    '[ -r "/sys/fs/cgroup/$file" ] && echo "peak_bytes $(cat "/sys/fs/cgroup/$file")"; '
    "done; exit $status"
)


class RunError(RuntimeError):
    """A command cannot be run; the message names it."""


@dataclass(frozen=True)
class Program:
    """A command to time. `{inputs}` and `{outputs}` in its words are replaced by the folders.

    If the first word is `python`, it is replaced by the interpreter that runs this.
    """

    name: str
    words: tuple[str, ...]
    contained: bool = False  # runs in a container, which prints its peak memory

    def command(self, inputs: Path, outputs: Path) -> list[str]:
        """Return the words with the folders and this interpreter filled in."""
        words = [sys.executable if self.words[0] == "python" else self.words[0], *self.words[1:]]
        return [
            word.replace("{inputs}", str(inputs)).replace("{outputs}", str(outputs))
            for word in words
        ]


@dataclass
class Said:
    """The numbers that a program printed about its run."""

    seconds: float | None = None  # of the case, by the clock of the program
    steps: dict[str, float] = field(default_factory=dict)  # by name, of `STEPS`
    ran_as: str = ""  # variant, precision, threads
    container_peak: int | None = None  # bytes
    last_words: str = ""


@dataclass(frozen=True)
class ProgramRun:
    """One run on one case."""

    seconds: float  # wall time, from start to end of the process or container
    peak_bytes: int | None
    status: int
    written: bool  # whether there is an output
    said: Said

    @property
    def ok(self) -> bool:
        """Whether it succeeded and wrote an output."""
        return self.status == 0 and self.written

    @property
    def split(self) -> dict[str, float]:
        """Seconds by part, `seconds` in all; empty if the program prints no times.

        "start" is the time before and after the case: process or container, imports, weights.
        "rest" is the time of the case outside `STEPS`: resizing masks, painting labels.
        """
        if self.said.seconds is None:
            return {}
        start = self.seconds - self.said.seconds
        # at least 0, since the program rounds its numbers
        rest = max(0.0, self.said.seconds - sum(self.said.steps.values()))
        return {"start": start, **self.said.steps, "rest": rest}


def python_program(name: str, command: str) -> Program:
    """Make a program of a command line; the folders are added if it does not name them.

    Raises:
        ValueError: the command is empty, or a quote is not closed.
    """
    words = shlex.split(command)
    if not words:
        raise ValueError("no command")
    if not any(mark in word for word in words for mark in ("{inputs}", "{outputs}")):
        words += ["{inputs}", "{outputs}"]
    return Program(name, tuple(words))


def container_program(name: str, engine: str, image: str, shell: str) -> Program:
    """Make a program in a container as in the challenge: 8 GB, two folders, `/bin/bash -c`."""
    return Program(
        name,
        (
            engine, *ENGINE_WORDS, "-v", "{inputs}/:/workspace/inputs/",
            "-v", "{outputs}/:/workspace/outputs/", image, "/bin/bash", "-c", shell,
        ),
        contained=True,
    )  # fmt: skip


def app_program(name: str, engine: str | None, image: str, options: Sequence[str]) -> Program:
    """Make our program: in a process, or with an `engine` in a container of `image`."""
    if engine is None:
        return python_program(name, shlex.join(["python", "-m", "app", *options]))
    shell = f"{shlex.join(['sh', 'predict.sh', *options])}; {CONTAINER_PEAK}"
    return container_program(name, engine, image, shell)


def nothing_program(engine: str | None, image: str) -> Program:
    """Make a program that does nothing, to time the start of a process or container."""
    if engine is None:
        return Program("nothing", ("true",))
    return container_program("nothing", engine, image, "true")


def _read_log(text: str) -> Said:
    """Read the numbers from the output of a program; of several cases, those of the last."""
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
    """Run a program on one case, or on an empty folder; the output is deleted.

    Raises:
        RunError: the command does not exist, or this is not Linux.
        OSError: the case cannot be copied.
    """
    if not sys.platform.startswith("linux"):  # other systems count memory differently
        raise RunError("time and memory of programs are measured on Linux only")
    with tempfile.TemporaryDirectory(prefix="runtime-") as folder:
        root = Path(folder)
        inputs, outputs, log = root / "inputs", root / "outputs", root / "log"
        for each in (root, inputs, outputs):
            each.mkdir(exist_ok=True)
            each.chmod(0o777)  # the container has another user
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

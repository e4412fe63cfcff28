"""Runs of a fuzzer in a process of its own, so that one that ends the process is a finding, too.

Each run has a number, from which, with the seed of all, its change follows.
"""

import argparse
import contextlib
import multiprocessing
import os
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

DIED = "ended the process"
# What no message may have: addresses, paths, and lines of source code.
LEAK = re.compile(r"0x[0-9a-f]{6,}|Traceback|/tmp/|\.cpp|\.cxx|\.hxx|itk::")
MOST_MESSAGE = 600  # characters

# Does runs: numbers, seed of all, kinds, a folder for files, and the pipe to `run`. Before a run it
# sends (number, kind, change), and after it (outcome, what is wrong or "").
Work = Callable[[Sequence[int], int, Sequence[str], Path, Connection], None]


@dataclass(frozen=True)
class Finding:
    """A run with a bad result."""

    number: int
    change: str
    what: str


class Everywhere:
    """A network whose masks fill each box."""

    def encode(self, pixels):
        """Return an embedding without content."""
        return np.zeros((1, 4096, 1), np.float32)

    def decode(self, embedding, prompts, cells):
        """Return logits (N, 4 h, 4 w) of 1, and a predicted IoU (N,) of 1."""
        count, height, width = cells.shape
        return np.ones((count, 4 * height, 4 * width), np.float32), np.ones(count, np.float32)

    def release_encoder(self):
        """Do nothing: there is no encoder."""


def is_good(message: str) -> bool:
    """Whether a message is one line for users."""
    short = len(message) <= MOST_MESSAGE
    return bool(message) and message.isprintable() and short and not LEAK.search(message)


@contextlib.contextmanager
def stderr_kept() -> Iterator[list[str]]:
    """Collect lines on stderr, also those of C++ libraries; Python's warnings become errors."""
    lines: list[str] = []
    before = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                yield lines
        finally:
            os.dup2(before, 2)
            os.close(before)
            kept.seek(0)
            lines += kept.read().decode(errors="replace").splitlines()


def run(
    work: Work, numbers: Sequence[int], root_seed: int, folder: Path, kinds: Sequence[str] = ()
) -> tuple[Counter[str], list[Finding]]:
    """Do the runs `numbers`; return the number of each outcome, and the findings.

    What ends the process, through a fault in a C library, is a finding.
    """
    outcomes: Counter[str] = Counter()
    findings: list[Finding] = []
    left = list(numbers)
    context = multiprocessing.get_context("spawn")
    while left:
        hear, tell = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(left, root_seed, kinds, folder, tell))
        process.start()
        tell.close()
        number, kind, change = left[0], "", ""
        done = 0
        with contextlib.suppress(EOFError):
            while True:
                number, kind, change = hear.recv()
                done += 1
                outcome, wrong = hear.recv()
                outcomes[f"{kind}: {outcome}"] += 1
                if wrong:
                    findings.append(Finding(number, change, wrong))
        process.join()
        if process.exitcode:
            if not done:
                raise RuntimeError(f"the runs could not begin: {process.exitcode}")
            outcomes[f"{kind}: {DIED}"] += 1
            findings.append(Finding(number, change, f"exit status {process.exitcode}"))
        left = left[done:]
    return outcomes, findings


def command(work: Work, name: str, description: str, kinds: str, argv: Sequence[str] | None) -> int:
    """Run the command `python -m NAME`; return its exit status, 1 if there is a finding."""
    parser = argparse.ArgumentParser(f"python -m {name}", description=description)
    parser.add_argument("--runs", type=int, default=1000, help="(default %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=1, help="seed of the changes (default %(default)s)"
    )
    parser.add_argument("--kind", action="append", default=[], help=kinds)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="do one run only")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="an empty folder for the files of the run"
    )
    options = parser.parse_args(argv)
    numbers = range(options.runs) if options.only is None else [options.only]
    with tempfile.TemporaryDirectory() as made:
        folder = options.keep or Path(made)
        folder.mkdir(exist_ok=True)
        outcomes, findings = run(work, numbers, options.seed, folder, options.kind)
    for finding in findings:
        print(f"{finding.number}  {finding.change}\n    {finding.what}")
    print(*(f"{count:6} {outcome}" for outcome, count in sorted(outcomes.items())), sep="\n")
    print(f"{len(findings)} findings in {outcomes.total()} runs")
    return 1 if findings else 0

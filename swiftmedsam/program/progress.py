"""The progress bar of the terminal, and the timeout of a case."""

import math
import sys
import time

from swiftmedsam.program.signals import Stopper
from swiftmedsam.result import Progress

BAR_WIDTH = 24
CLEAR_LINE = "\r\033[K"


class OutOfTime(Exception):
    """A case took longer than --timeout; the message has the file and its progress."""


class ProgressBar:
    """A progress bar of one line on a terminal; it shows nothing unless `enabled`."""

    def __init__(self, cases: int, *, enabled: bool) -> None:
        self._cases, self._enabled = cases, enabled

    def show(self, case: int, name: str, done: int, total: int) -> None:
        """Draw the bar: `done` of `total` slices of case number `case`, counted from 1."""
        if self._enabled:
            part = (case - 1 + done / total) / self._cases
            bar = ("#" * round(part * BAR_WIDTH)).ljust(BAR_WIDTH, ".")
            sys.stderr.write(f"{CLEAR_LINE}[{bar}] {case}/{self._cases} {name} {done}/{total}")
            sys.stderr.flush()


def watched(show: Progress, stopper: Stopper, timeout: float | None, name: str) -> Progress:
    """A Progress that calls `show`, and ends the case on a signal or after `timeout` seconds.

    The time counts from now on. A case whose last slice is done is not given up: it only has to be
    written.

    The returned function raises:
        Stopped: a signal came.
        OutOfTime: the time is over.
    """
    deadline = math.inf if timeout is None else time.perf_counter() + timeout

    def progress(done: int, total: int) -> None:
        stopper.check()
        show(done, total)
        if done < total and time.perf_counter() > deadline:
            where = f"after {done} of {total} slices" if done else "before its first slice was done"
            raise OutOfTime(f"{name}: given up {where}, --timeout is {timeout:g} s")

    return progress

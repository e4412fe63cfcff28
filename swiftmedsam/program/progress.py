"""What the terminal shows while cases are segmented, and what ends a case that takes too long."""

import math
import sys
import time

from swiftmedsam.program.signals import Stopper
from swiftmedsam.result import Progress

BAR_WIDTH = 24
CLEAR_LINE = "\r\033[K"


class OutOfTime(Exception):
    """A case takes longer than --timeout; the message names the file and how far it came."""


class ProgressBar:
    """One line on a terminal; nothing at all elsewhere."""

    def __init__(self, cases: int, *, enabled: bool) -> None:
        self._cases, self._enabled = cases, enabled

    def show(self, case: int, name: str, done: int, total: int) -> None:
        """Draw the state: `done` of `total` slices of the `case`-th case."""
        if self._enabled:
            part = (case - 1 + done / total) / self._cases
            bar = ("#" * round(part * BAR_WIDTH)).ljust(BAR_WIDTH, ".")
            sys.stderr.write(f"{CLEAR_LINE}[{bar}] {case}/{self._cases} {name} {done}/{total}")
            sys.stderr.flush()


def watched(show: Progress, stopper: Stopper, timeout: float | None, name: str) -> Progress:
    """`show`, which ends the case when a signal has come or `timeout` seconds are over from now on.

    A case whose last slice is done is never given up: what is left is to write it.

    Raises, when it is called:
        Stopped: a signal has come.
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

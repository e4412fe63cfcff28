"""SIGTERM and SIGINT: the program stops where it is, tidies up and says what was done.

On Windows, where nobody sends SIGTERM, SIGBREAK does the same (`system.STOP_SIGNALS`).

The handler raises, as Python's own does for SIGINT. Python calls it between two of its own
instructions in the main thread, so never inside an inference of OpenVINO: that one ends first
(0.1 to 0.5 s), whole and reusable. A flag alone, looked at between slices, would be simpler, but
reading and writing a large volume takes seconds without a slice.

What is raised can be lost: Python swallows it in a `__del__`, and a library might turn it into an
error of its own. So the flag is there as well, and `Stopper.check` is called at every slice.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from swiftmedsam.system import STOP_SIGNALS


def _keep_quiet(_: object) -> None:
    """Of what was torn apart in the middle, its `__del__` need not complain to the user."""


def _leave(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)  # nothing has been begun


def end_at_once() -> None:
    """Let a signal end the process at once: for the seconds in which a program loads its modules.

    The kernel drops SIGTERM for process 1 of a container that has no handler: `docker stop` would
    wait for nothing. A signal that is ignored stays so.
    """
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)


def leave(status: int) -> NoReturn:
    """End the process at once: taking the libraries apart would need another 60 ms."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, AttributeError):  # nobody listens any more, or never did
            stream.flush()
    os._exit(status)


class Stopped(BaseException):
    """The program should end; no `Exception`, so that nothing takes it for a failed case."""


class Stopper:
    """Takes the signals while it is entered; only the first one counts.

    A signal that the parent process told this one to ignore is left ignored, as a shell does for
    what it starts with `&`. Outside the main thread, where Python allows no handlers, none is set.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._raises = False

    def __enter__(self) -> "Stopper":
        self._former = {}
        self._former_hook = sys.unraisablehook
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                former = signal.getsignal(number)
                if former is not signal.SIG_IGN:
                    self._former[number] = former
                    signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        sys.unraisablehook = self._former_hook
        for number, former in self._former.items():
            signal.signal(number, former)

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self.received is None:  # a second one would interrupt the tidying up
            self.received = signal.Signals(number)
            sys.unraisablehook = _keep_quiet
            if self._raises:
                raise Stopped

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Inside, a signal raises; outside, it is only kept in `received`.

        Raises:
            Stopped: a signal has come.
        """
        self._raises = True
        try:
            self.check()
            yield
        finally:
            self._raises = False

    def check(self) -> None:
        """Raise if a signal has come.

        Raises:
            Stopped: it has.
        """
        if self.received is not None:
            raise Stopped

    @property
    def status(self) -> int | None:
        """The exit status of a program that a signal stopped: 143 or 130; None if none came."""
        return None if self.received is None else 128 + self.received

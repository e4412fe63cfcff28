"""SIGTERM and SIGINT: the program stops at once, removes its partial file and logs a summary.

On Windows, where SIGTERM is not used, SIGBREAK does the same (`system.STOP_SIGNALS`).

The handler raises an exception, as Python's own handler of SIGINT does. Python calls it in the main
thread between two bytecode instructions, so never inside an inference of OpenVINO: the inference
ends first (0.1 to 0.5 s), and the network stays usable. A flag that is tested between slices would
be simpler, but to read or write a large volume takes seconds without a slice.

The exception can be lost: Python swallows it in a `__del__`, and a library might replace it by an
error of its own. So there is a flag as well, which `Stopper.check` tests at every slice.
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
    """An unraisable hook that prints nothing: a `__del__` may fail after an interruption."""


def _leave(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)  # nothing was begun, so there is nothing to remove


def end_at_once() -> None:
    """Let a signal end the process at once, while a program loads its modules (seconds).

    Process 1 of a container needs a handler: without one the kernel drops SIGTERM, and
    `docker stop` waits in vain. A signal that is ignored stays ignored.
    """
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)


def leave(status: int) -> NoReturn:
    """End the process at once: Python's normal exit would take another 60 ms."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, AttributeError):  # the reader is gone, or there was none
            stream.flush()
    os._exit(status)


class Stopped(BaseException):
    """A signal came and the program must end; no `Exception`, so no job takes it for a failure."""


class Stopper:
    """Handles the signals inside its `with`; only the first one counts.

    A signal that the process inherited as ignored stays ignored; a shell does this for a command
    started with `&`. Outside the main thread Python allows no handlers, so none is set.
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
        if self.received is None:  # a second one would interrupt the clean-up
            self.received = signal.Signals(number)
            sys.unraisablehook = _keep_quiet
            if self._raises:
                raise Stopped

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Inside this `with`, a signal raises; outside, it is only kept in `received`.

        Raises:
            Stopped: a signal came.
        """
        self._raises = True
        try:
            self.check()
            yield
        finally:
            self._raises = False

    def check(self) -> None:
        """Raise if a signal came.

        Raises:
            Stopped: a signal came.
        """
        if self.received is not None:
            raise Stopped

    @property
    def status(self) -> int | None:
        """The exit status of a program that a signal stopped: 143 or 130; None if none came."""
        return None if self.received is None else 128 + self.received

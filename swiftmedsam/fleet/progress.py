"""The progress of a whole fleet: on a terminal a bar, else a line now and then."""

import logging
import sys
import time
from collections.abc import Callable, Sequence

from swiftmedsam.program.progress import BAR_WIDTH, CLEAR_LINE

EVERY = 60.0  # seconds between two lines

log = logging.getLogger(__name__)


def duration(seconds: float) -> str:
    """A rough duration in words, like "2 h 05 min"."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


class FleetProgress:
    """Shows how far the cases of a run are, and how long the others will take."""

    def __init__(
        self, cases: int, *, bar: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cases, self._bar, self._clock = cases, bar, clock
        self._began: float | None = None  # when the first case was begun
        self._said = clock()

    def begin(self) -> None:
        """Note that a case is begun: the time left is estimated from the first one on."""
        if self._began is None:
            self._began = self._clock()

    def line(
        self, skipped: int, finished: int, running: Sequence[tuple[int, int]], workers: int
    ) -> str:
        """The line of progress.

        Args:
            skipped: cases that were there.
            finished: cases that were written or have failed.
            running: of each running case the slices that are done and all; (0, 0) if not known.
            workers: that are ready.
        """
        parts = [f"{skipped + finished} of {self._cases} cases"]
        if total := sum(total for _, total in running):
            parts.append(f"{sum(done for done, _ in running)} of {total} slices of running ones")
        parts.append(f"{workers} workers")
        done = finished + sum(done / total for done, total in running if total)
        if self._began is not None and finished:
            left = self._cases - skipped - done
            parts.append(f"{duration((self._clock() - self._began) / done * left)} left")
        return ", ".join(parts)

    def show(
        self, skipped: int, finished: int, running: Sequence[tuple[int, int]], workers: int
    ) -> None:
        """Draw the bar, or log a line once a minute; the arguments are those of `line`."""
        if self._bar:
            share = (skipped + finished) / self._cases
            bar = ("#" * round(share * BAR_WIDTH)).ljust(BAR_WIDTH, ".")
            text = self.line(skipped, finished, running, workers)
            sys.stderr.write(f"{CLEAR_LINE}[{bar}] {text}")
            sys.stderr.flush()
        elif self._clock() - self._said >= EVERY:
            self._said = self._clock()
            log.info("%s", self.line(skipped, finished, running, workers))

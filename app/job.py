"""What the program does one by one: a file in, its labels out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.case import Case
from app.network import Network
from app.segment import Clock, Progress

LOADING = "loading"  # on the clock: waiting for the network, which loads while a file is read


@dataclass(frozen=True)
class Job:
    """One case of a run."""

    file: str  # its name
    output: Path  # of the labels
    # Reads, segments and writes; returns the case, for the log. Calls Progress before the first
    # slice, too, and lets through whatever it raises.
    run: Callable[[Network, Clock, Progress], Case]

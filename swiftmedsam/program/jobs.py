"""What the program does one by one: a file in, its labels out; and what a failed one says."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2

from swiftmedsam.case import Case, CaseError, one_line, printable
from swiftmedsam.network import Network, WeightsError
from swiftmedsam.segment import Clock, Progress

LOADING = "loading"  # on the clock: waiting for the network, which loads while a file is read

log = logging.getLogger(__name__)


class OutOfTime(Exception):
    """A case takes longer than --timeout; the message names the file and how far it came."""


@dataclass(frozen=True)
class Job:
    """One case of a run."""

    file: str  # its name
    output: Path  # of the labels
    # Reads, segments and writes; returns the case, for the log. Calls Progress before the first
    # slice, too, and lets through whatever it raises.
    run: Callable[[Network, Clock, Progress], Case]
    removes_older: bool = False  # whether an older output is removed when the job fails


def attempt(
    step: Callable[[], object], file: str, failures: dict[str, str], what: str = "the labels"
) -> bool:
    """Do one step of a run; whether it is done. If not, a line of `failures` and the log says why.

    No file may end a run of others: so this is the one place that catches every exception. The
    traceback of one that nobody foresaw is logged, too, at level DEBUG.

    Args:
        step: what to do.
        file: the name of the file that it is done for.
        failures: messages by file; gets that of this one, before it is logged.
        what: is written by the step, for the message.

    Raises:
        WeightsError: the network cannot be loaded, which is no file's fault.
    """
    name = printable(file)
    traceback = None
    try:
        step()
    except WeightsError:
        raise
    except (CaseError, OutOfTime) as error:
        message = str(error)
    except OSError as error:
        message = f"{name}: {what} could not be written ({one_line(error)})"
    except Exception as error:
        traceback = error
        if _is_lack_of_memory(error):
            message = f"{name}: not enough memory"
        else:
            message = (
                f"{name}: an error that was not foreseen ({type(error).__name__}), "
                "--verbose shows where"
            )
    else:
        return True
    message = printable(message)  # one line, whatever it quotes
    failures[file] = message
    log.error("%s", message)
    if traceback is not None:
        log.debug("%s", name, exc_info=traceback)
    return False


def words_of(error: Exception) -> str:
    """The line for what ends a run of many files; of an OSError the file and the reason."""
    if isinstance(error, OSError):
        return f"{error.filename}: {one_line(error)}" if error.filename else one_line(error)
    return str(error)


def _is_lack_of_memory(error: Exception) -> bool:
    """OpenCV has an exception of its own for it."""
    no_memory = getattr(cv2.Error, "StsNoMem", None)
    return isinstance(error, MemoryError) or (
        isinstance(error, cv2.error) and getattr(error, "code", None) == no_memory
    )

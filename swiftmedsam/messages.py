"""Makes one safe line of any text: without line breaks, and without codes a terminal would obey."""

from pathlib import Path

from swiftmedsam.urls import shown

MAX_FOUND = 200  # characters of foreign text in a message; an archive may have 65,535 long names


def printable(name: str) -> str:
    """`name` with line breaks, escape codes and undecodable bytes written as backslash codes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def one_line(error: BaseException) -> str:
    """The message of an error as one safe line; of an OSError without number and path."""
    reason = getattr(error, "strerror", None) or error
    return shortened(printable(" ".join(str(reason).split())))  # it may quote bytes of a file


def shortened(text: str) -> str:
    """`text`, cut after `MAX_FOUND` characters."""
    return f"{text[:MAX_FOUND]}..." if len(text) > MAX_FOUND else text


def words_of(error: Exception) -> str:
    """The message of an error that ends a whole run; of an OSError the file and the reason."""
    if isinstance(error, OSError):
        name = error.filename
        return f"{shown(Path(str(name)))}: {one_line(error)}" if name else one_line(error)
    return str(error)

"""Text for messages of one line: names and errors of others, without what a terminal would obey."""

MAX_FOUND = 200  # characters of what was found in a message; an archive may hold 65,535 long names


def printable(name: str) -> str:
    """`name` for a message: line breaks, escapes and bytes that are no text as backslash codes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def one_line(error: BaseException) -> str:
    """What an error says, for a message of one line."""
    reason = getattr(error, "strerror", None) or error  # an OSError's without number and path
    return shortened(printable(" ".join(str(reason).split())))  # it may quote the file: no escapes


def shortened(text: str) -> str:
    """`text`, cut after `MAX_FOUND` characters."""
    return f"{text[:MAX_FOUND]}..." if len(text) > MAX_FOUND else text

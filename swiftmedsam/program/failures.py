"""The file of --failures: each failed case with its message, as JSON."""

import json
from pathlib import Path

from swiftmedsam.atomic import atomic_file


def write_failures(path: Path, failures: dict[str, str]) -> None:
    """Write a JSON list of {"file", "message"}, one entry per failed case, atomically.

    `failures` are messages by file name. The JSON is ASCII, so that it can hold any file name,
    even one that is not valid text.

    Raises:
        OSError: the file cannot be written.
    """
    entries = [{"file": name, "message": message} for name, message in failures.items()]
    with atomic_file(path) as stream:
        stream.write(json.dumps(entries, indent=1).encode() + b"\n")


def read_failures(path: Path) -> dict[str, str]:
    """Messages by file name of a file of --failures.

    Raises:
        OSError: it cannot be read.
        ValueError: it is something else.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(entries, list):
            raise TypeError
        return {str(entry["file"]): str(entry["message"]) for entry in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is no file of --failures") from error

"""The file of --log: what a run set out to do and has done, one JSON object a line.

The first line is about the run, then there is a line for each case to come, and a line whenever a
case is begun, skipped, written or has failed. The last line says how the run ended; it is missing
if the run was killed. So `swiftmedsam merge` can tell what is missing of a run in parts.
"""

import contextlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swiftmedsam.manifest import sha256_of
from swiftmedsam.messages import one_line
from swiftmedsam.program.parts import Part

PLANNED, BEGUN, SKIPPED, WRITTEN, FAILED = "planned", "begun", "skipped", "written", "failed"

log = logging.getLogger(__name__)


def digest_of(names: Sequence[str]) -> str:
    """The same for the same names in any order: whether two parts saw the same cases."""
    joined = "\0".join(sorted(names))
    return sha256_of(joined.encode("utf-8", "surrogatepass"))


class RunLog:
    """Writes the file while the run goes on. If a line cannot be written, no more are tried."""

    def __init__(
        self, path: Path, part: Part | None, network: str, names: Sequence[str],
        outputs: Mapping[str, object],
    ) -> None:  # fmt: skip
        """Begin the file; one that is there is replaced.

        Args:
            path: of the file.
            part: that the run is of all cases; None if it does all.
            network: its variant and precision.
            names: of all cases.
            outputs: of the labels, by the name of each case of this run.

        Raises:
            OSError: the file cannot be written.
        """
        self._path = path
        self._began = time.perf_counter()
        self._is_whole = True
        self._stream = path.open("w", encoding="ascii")
        index, count = (0, 1) if part is None else (part.index, part.count)
        self._write({
            "part": index, "parts": count, "cases": len(outputs), "cases_of_all_parts": len(names),
            "names_sha256": digest_of(names), "network": network,
        })  # fmt: skip
        for name, output in outputs.items():
            self._write({"file": name, "state": PLANNED, "output": str(output)})

    def case(self, name: str, state: str, message: str | None = None) -> None:
        """Write what has become of a case; `message` says why it failed."""
        self._write({"file": name, "state": state} | ({"message": message} if message else {}))

    def close(self, status: int) -> int:
        """Write the last line, with the exit status of the run; return the one to end with."""
        self._write({"status": status})
        with contextlib.suppress(OSError):  # said when it was written
            self._stream.close()
        return status if self._is_whole else status or 1

    def _write(self, entry: dict[str, Any]) -> None:
        if not self._is_whole:
            return
        entry["seconds"] = round(time.perf_counter() - self._began, 3)
        try:
            self._stream.write(json.dumps(entry) + "\n")  # ASCII: any name survives
            self._stream.flush()
        except OSError as error:
            self._is_whole = False
            log.error("%s: the log could not be written (%s)", self._path, one_line(error))


@dataclass
class PartLog:
    """What the file of one part says."""

    head: dict[str, Any]
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)  # all said of each, by name
    status: int | None = None  # None if the run did not end

    @property
    def part(self) -> Part:
        """The part."""
        return Part(self.head["part"], self.head["parts"])

    def of_state(self, *states: str) -> list[str]:
        """Names of the cases that are in one of `states`."""
        return [name for name, case in self.cases.items() if case["state"] in states]


def read_log(path: Path) -> PartLog:
    """What a run wrote with `--log`; a last line that was cut does not count.

    Raises:
        OSError: it cannot be read.
        ValueError: it is something else.
    """
    try:
        # what follows the last line break was cut, or is ""
        *lines, _ = path.read_text(encoding="utf-8").split("\n")
        head, *entries = [dict(json.loads(line)) for line in lines]
        keys = ("part", "parts", "cases", "cases_of_all_parts")
        texts = ("names_sha256", "network")
        if not all(type(head[key]) is int for key in keys) or not all(
            isinstance(head[key], str) for key in texts
        ):
            raise ValueError
        found = PartLog(head)
        for entry in entries:
            if "status" in entry:
                found.status = int(entry["status"])
            else:
                name, state = str(entry["file"]), str(entry["state"])
                before = found.cases.setdefault(name, {"output": str(entry.get("output", ""))})
                before.update(entry | {"state": state})
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is no file of --log") from error
    return found

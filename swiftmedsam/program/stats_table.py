"""The file of --stats while a run goes on: the rows of the scans so far."""

from collections.abc import Sequence
from pathlib import Path

from swiftmedsam.atomic import atomic_file
from swiftmedsam.case import CaseError
from swiftmedsam.messages import one_line, printable

Rows = list[dict[str, object]]


class StatsTable:
    """The rows of a run, and the file that holds them."""

    def __init__(self, path: Path, rows: Rows) -> None:
        """Begin with `rows` of an earlier run; nothing is written yet."""
        self._path, self._rows = path, rows

    def add(self, rows: Rows) -> None:
        """Add the rows of a scan."""
        self._rows += rows

    def put_in_order(self, scans: Sequence[str]) -> None:
        """Put the rows in the order of their scans in `scans`; rows of one scan stay in order.

        Rows of other scans come last: an older table of this part may have them, if since then
        there are more scans, and they are shared out in another way.
        """
        place = {printable(scan): i for i, scan in enumerate(scans)}
        self._rows.sort(key=lambda row: place.get(str(row["scan"]), len(place)))

    def write(self, name: str) -> None:
        """Write the table so far, after the rows of the scan `name`.

        Raises:
            CaseError: it cannot be written; the labels of the scan are.
        """
        try:
            self.save()
        except OSError as error:
            raise CaseError(
                f"{name}: the labels are written, {self._path} could not be ({one_line(error)})"
            ) from error

    def save(self) -> None:
        """Write the table so far.

        Raises:
            OSError: it cannot be written.
        """
        # loaded here: runs of the challenge's files do without it
        from swiftmedsam.scans.stats import table

        with atomic_file(self._path) as stream:
            stream.write(table(self._rows))

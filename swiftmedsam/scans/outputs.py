"""Where the labels of a scan go, what lies beside them, and what may be replaced there."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swiftmedsam.atomic import same_files, why_not_writable
from swiftmedsam.messages import printable
from swiftmedsam.scans import provenance
from swiftmedsam.scans.dicom import seg
from swiftmedsam.scans.formats import itk
from swiftmedsam.scans.formats.by_suffix import WRITTEN, default_suffix, stem_of, suffix_of
from swiftmedsam.scans.scan import ScanError

# Of a new folder called like "2024.11.30" or "out.v2" this is no end of a file's name.
NUMBER = re.compile(r"\.v?[0-9]+", re.IGNORECASE)


@dataclass(frozen=True)
class Outputs:
    """Where the labels of a scan go, and what lies beside them."""

    labels: Path
    is_named: bool = False  # whether somebody gave this name, and not its folder or nothing

    @property
    def names(self) -> Path | None:
        """JSON of names; None if the label file itself has them."""
        if self.labels.name.lower().endswith((itk.SEGMENTATION, seg.SUFFIX)):
            return None
        return self.labels.with_name(f"{stem_of(self.labels)}.labels.json")

    @property
    def overlay(self) -> Path | None:
        """Picture with the labels on it; only beside labels that are a PNG."""
        if self.labels.suffix.lower() != ".png":
            return None
        return self.labels.with_name(f"{stem_of(self.labels)}_overlay.png")

    def picture(self, value: int) -> Path:
        """PNG of a box as it was understood, for --dry-run."""
        return self.labels.with_name(f"{stem_of(self.labels)}_box{value}.png")

    def all(self) -> list[Path]:
        """Every file that is written."""
        return [path for path in (self.labels, self.names, self.overlay) if path is not None]


def outputs_of(path: Path, asked: Path | None) -> Outputs:
    """Where the labels of a scan go: `asked` is a file, a folder, or None for beside the scan.

    Raises:
        ScanError: it is a file of a kind that labels cannot be written as.
    """
    if asked is not None and not asked.is_dir():
        if suffix_of(asked, WRITTEN):
            return Outputs(asked, is_named=True)
        if asked.suffix and not NUMBER.fullmatch(asked.suffix):
            raise ScanError(
                f"{printable(asked.name)}: cannot be written as {printable(asked.suffix)}, "
                f"expected a folder or a name ending in {', '.join(WRITTEN)}"
            )
    folder = path.parent if asked is None else asked
    return Outputs(folder / f"{stem_of(path)}_labels{default_suffix(path)}")


def refuse_inputs(outputs: Sequence[Path], inputs: Sequence[Path]) -> None:
    """Nothing that was read may be written.

    Raises:
        ScanError: an output is one of `inputs`, by whatever name.
    """
    for output in same_files(outputs, inputs):
        raise ScanError(f"{printable(output.name)}: is an input, and is not overwritten")


def check_places(outputs: Outputs, name: str) -> None:
    """Whether the outputs of the scan `name` can be written: their folder is tried, no content.

    Raises:
        ScanError: one cannot be written.
    """
    for path in outputs.all():
        if why := why_not_writable(path):
            raise ScanError(f"{name}: the labels cannot be written to {path} ({why})")


def refuse_foreign_outputs(outputs: Outputs, name: str) -> None:
    """Nothing but what this program wrote is replaced under a name that nobody gave.

    Raises:
        ScanError: one would be; `name` is that of the scan.
    """
    for path in outputs.all():
        if not (outputs.is_named and path == outputs.labels):
            refuse_foreign(path, name, outputs.names)


def refuse_foreign(path: Path, name: str, names: Path | None = None) -> None:
    """Whether the file at `path`, if there is one, is this program's own; see `provenance.is_own`.

    Raises:
        ScanError: it is somebody's own, or cannot be read; `name` is that of the scan.
    """
    try:
        is_free = not path.exists() or provenance.is_own(path, names)
    except OSError:
        is_free = False
    if not is_free:
        raise ScanError(
            f"{name}: {printable(str(path))} exists; name an output (this program did not write "
            "that file, or it was changed since)"
        )

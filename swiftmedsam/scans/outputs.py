"""The output files of a scan: the labels and the files beside them; and which may be replaced."""

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
from swiftmedsam.urls import shown

# Not a suffix: a new folder may be named "2024.11.30" or "out.v2".
NUMBER = re.compile(r"\.v?[0-9]+", re.IGNORECASE)


@dataclass(frozen=True)
class Outputs:
    """The output files of a scan."""

    labels: Path
    is_named: bool = False  # whether the user named this file, and not just its folder

    @property
    def names(self) -> Path | None:
        """The JSON file of names; None if the label file itself has names, as all DICOM has."""
        if self.labels.name.lower().endswith((itk.SEGMENTATION, seg.SUFFIX)):
            return None
        return self.labels.with_name(f"{stem_of(self.labels)}.labels.json")

    @property
    def overlay(self) -> Path | None:
        """The picture with the labels drawn on it; None unless the labels are a PNG."""
        if self.labels.suffix.lower() != ".png":
            return None
        return self.labels.with_name(f"{stem_of(self.labels)}_overlay.png")

    def picture(self, value: int) -> Path:
        """The PNG that --dry-run writes for a box."""
        return self.labels.with_name(f"{stem_of(self.labels)}_box{value}.png")

    def all(self) -> list[Path]:
        """All files that are written."""
        return [path for path in (self.labels, self.names, self.overlay) if path is not None]


def outputs_of(path: Path, target: Path | None) -> Outputs:
    """The output files of a scan: `target` is a file, a folder, or None for the scan's folder.

    Raises:
        ScanError: `target` is a file of a kind that labels cannot be written as.
    """
    if target is not None and not target.is_dir():
        if suffix_of(target, WRITTEN):
            return Outputs(target, is_named=True)
        if target.suffix and not NUMBER.fullmatch(target.suffix):
            raise ScanError(
                f"{printable(target.name)}: cannot be written as {printable(target.suffix)}, "
                f"expected a folder or a name ending in {', '.join(WRITTEN)}"
            )
    folder = path.parent if target is None else target
    return Outputs(folder / f"{stem_of(path)}_labels{default_suffix(path)}")


def refuse_inputs(outputs: Sequence[Path], inputs: Sequence[Path]) -> None:
    """Protect the inputs from being overwritten.

    Raises:
        ScanError: an output is the same file as one of `inputs`, also by another name.
    """
    for output in same_files(outputs, inputs):
        raise ScanError(f"{printable(output.name)}: is an input, and is not overwritten")


def check_places(outputs: Outputs, name: str) -> None:
    """Check that the output files of the scan `name` can be made; nothing is encoded yet.

    Raises:
        ScanError: one cannot be written.
    """
    for path in outputs.all():
        if why := why_not_writable(path):
            raise ScanError(f"{name}: the labels cannot be written to {shown(path)} ({why})")


def refuse_foreign_outputs(outputs: Outputs, name: str) -> None:
    """Protect files that this program did not write, except the one that the user named.

    Raises:
        ScanError: such a file would be replaced; `name` is that of the scan.
    """
    for path in outputs.all():
        if not (outputs.is_named and path == outputs.labels):
            refuse_foreign(path, name, outputs.names)


def refuse_foreign(path: Path, name: str, names: Path | None = None) -> None:
    """Refuse to replace a file that this program did not write; see `provenance.is_own`.

    Raises:
        ScanError: `path` is such a file, or cannot be read; `name` is that of the scan.
    """
    try:
        is_free = not path.exists() or provenance.is_own(path, names)
    except OSError:
        is_free = False
    if not is_free:
        raise ScanError(
            f"{name}: {printable(shown(path))} exists; name an output (this program did not write "
            "that file, or it was changed since)"
        )

"""Labels on the scan's own grid, their names, and for pictures an overlay to look at."""

import io
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swiftmedsam.atomic import same_files, why_not_writable, write_together
from swiftmedsam.case import Case, label_dtype, printable
from swiftmedsam.scans import provenance as own
from swiftmedsam.scans.dicom import seg as dicom_seg
from swiftmedsam.scans.formats import itk, nifti, pictures
from swiftmedsam.scans.formats.by_suffix import WRITTEN, stem_of, suffix_of
from swiftmedsam.scans.orientation import Walk
from swiftmedsam.scans.preview import picture_of_labels
from swiftmedsam.scans.scan import Scan, ScanError, Segment
from swiftmedsam.segment import Labels

PICTURE_LABELS = 65535  # the most that a pixel of 16 bits can say


@dataclass(frozen=True)
class Outputs:
    """Where the labels of a scan go, and what lies beside them."""

    labels: Path
    is_named: bool = False  # whether somebody gave this name, and not its folder or nothing

    @property
    def names(self) -> Path | None:
        """JSON of names; None if the label file itself has them."""
        if self.labels.name.lower().endswith((itk.SEGMENTATION, dicom_seg.SUFFIX)):
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
    """Whether the file at `path`, if there is one, is this program's own; see `own.is_own`.

    Raises:
        ScanError: it is somebody's own, or cannot be read; `name` is that of the scan.
    """
    try:
        is_free = not path.exists() or own.is_own(path, names)
    except OSError:
        is_free = False
    if not is_free:
        raise ScanError(
            f"{name}: {printable(str(path))} exists; name an output (this program did not write "
            "that file, or it was changed since)"
        )


def _names(scan: Scan, segments: list[Segment], digests: dict[str, str]) -> bytes:
    entries = [
        {
            "value": segment.value,
            "name": segment.name,
            "colour": segment.colour,
            "box": [*segment.first, *segment.last],
        }
        for segment in segments
    ]
    content = {
        "program": own.PROGRAM,
        "scan": scan.name,
        own.FILES: digests,
        "box": "first and last voxel (i, j, k) of the file's grid, both inclusive",
        "labels": entries,
    }
    return json.dumps(content, indent=1).encode() + b"\n"


def _encoded(path: Path, labels: Labels, scan: Scan, segments: list[Segment]) -> bytes:
    """The content of `path`, by the end of its name."""
    suffix = suffix_of(path, WRITTEN)
    if suffix in nifti.SUFFIXES:
        return nifti.encoded(labels, scan, path)
    if suffix in (".png", *pictures.TIFF):
        return pictures.encoded(labels, path)
    if suffix == dicom_seg.SUFFIX:
        return dicom_seg.encoded(labels, scan, segments, path)
    if suffix == ".npz":
        stream = io.BytesIO()
        np.savez_compressed(stream, segs=labels.T if scan.grid[2] > 1 else labels[:, :, 0].T)
        return stream.getvalue()
    try:
        content = itk.encoded(labels, scan, path, segments)
    except RuntimeError as error:  # SimpleITK's only one
        raise ScanError(
            f"{printable(path.name)}: could not be written by way of {tempfile.gettempdir()}, "
            "which may be full"
        ) from error
    return own.sealed(content) if suffix == itk.SEGMENTATION else content


def check_encoding(outputs: Outputs, scan: Scan, segments: list[Segment]) -> None:
    """Try it with labels of one voxel: what cannot be written is known before it is reckoned.

    Takes no longer for a large scan than for a small one.

    Raises:
        ScanError: labels of this scan do not fit into that kind of file, or its library is missing.
    """
    path = outputs.labels
    suffix = suffix_of(path, WRITTEN)
    most = max((one.value for one in segments), default=0)
    if suffix == dicom_seg.SUFFIX:
        dicom_seg.check(scan, segments, path)
        return
    if suffix in (".png", *pictures.TIFF):
        if suffix == ".png" and scan.grid[2] > 1:
            raise pictures.too_many_slices(scan.grid[2], path)
        if most > PICTURE_LABELS:
            raise ScanError(
                f"{printable(path.name)}: label {most} does not fit into a picture of 16 bits, "
                "expected an output ending in .nii.gz, .seg.nrrd or .mha"
            )
    _encoded(path, np.ones((1, 1, 1), label_dtype(most)), scan, segments)


def write(
    outputs: Outputs, labels: Labels, scan: Scan, segments: list[Segment], walk: Walk, case: Case
) -> None:
    """Write labels (I, J, K) on the grid of `scan`, and what goes with them: all or nothing.

    The overlay is made of `case`, what the network saw of the scan in the slices of `walk`.

    Raises:
        OSError: the folder cannot be written to, or is full.
        ScanError: what `check_encoding` finds.
    """
    contents = {outputs.labels: _encoded(outputs.labels, labels, scan, segments)}
    if outputs.overlay is not None:
        contents[outputs.overlay] = pictures.png(picture_of_labels(labels, segments, walk, case))
    if outputs.names is not None:
        contents[outputs.names] = _names(scan, segments, own.digests(contents))
    write_together(contents)  # the labels last: where they are, there is the rest

"""Labels on the scan's own grid, their names, and for pictures an overlay to look at."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from app import __version__
from app.case import label_dtype, printable
from app.scans import dicom_seg, itk, nifti, pictures
from app.scans.files import WRITTEN, stem_of, suffix_of
from app.scans.scan import Scan, ScanError, Segment
from app.segment import Labels
from app.whole import whole_file


@dataclass(frozen=True)
class Outputs:
    """Where the labels of a scan go, and what lies beside them."""

    labels: Path

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
    read = {_identity(path) for path in inputs if path.exists()}
    for output in outputs:
        if output.exists() and _identity(output) in read:
            raise ScanError(f"{printable(output.name)}: is an input, and is not overwritten")


def _identity(path: Path) -> tuple[int, int]:
    """The same for every name of a file."""
    found = path.stat()
    return found.st_dev, found.st_ino


def _names(scan: Scan, segments: list[Segment]) -> bytes:
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
        "program": f"SwiftMedSAM {__version__}",
        "scan": scan.name,
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
    return itk.encoded(labels, scan, path, segments)


def check_writable(outputs: Outputs, scan: Scan, segments: list[Segment]) -> None:
    """Try it with labels of one voxel: what cannot be written is known before it is reckoned.

    Raises:
        ScanError: labels of this scan do not fit into that kind of file, or its library is missing.
    """
    if suffix_of(outputs.labels, WRITTEN) == dicom_seg.SUFFIX:
        dicom_seg.warn_of_names(segments, outputs.labels)
    labels = np.zeros(scan.grid, label_dtype(len(segments)))
    labels[0, 0, 0] = 1
    _encoded(outputs.labels, labels, scan, segments)


def write(
    outputs: Outputs,
    labels: Labels,
    scan: Scan,
    segments: list[Segment],
    page: npt.NDArray[np.uint8],
) -> None:
    """Write labels (I, J, K) on the grid of `scan`, and what goes with them.

    `page` (H, W[, 3]) uint8 is what the overlay is made of, a picture as the network saw it.

    Raises:
        OSError: the folder cannot be written to.
        ScanError: what `check_writable` finds.
    """
    contents = {outputs.labels: _encoded(outputs.labels, labels, scan, segments)}
    if outputs.names is not None:
        contents[outputs.names] = _names(scan, segments)
    if outputs.overlay is not None:
        shown = pictures.overlay(page, labels[:, :, 0].T, segments)
        contents[outputs.overlay] = pictures.png(shown)
    for path, content in contents.items():
        with whole_file(path) as stream:
            stream.write(content)

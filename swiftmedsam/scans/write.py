"""Writes labels on the scan's own grid, their names, and an overlay of pictures."""

import io
import json
import tempfile
from pathlib import Path

import numpy as np

from swiftmedsam.atomic import write_together
from swiftmedsam.case import Case
from swiftmedsam.messages import printable
from swiftmedsam.result import Labels, label_dtype
from swiftmedsam.scans import provenance
from swiftmedsam.scans.dicom import rtstruct, seg
from swiftmedsam.scans.formats import itk, nifti, pictures
from swiftmedsam.scans.formats.by_suffix import WRITTEN, suffix_of
from swiftmedsam.scans.orientation import Orientation
from swiftmedsam.scans.outputs import Outputs
from swiftmedsam.scans.preview import picture_of_labels
from swiftmedsam.scans.scan import MAX_LABELS, Scan, ScanError, Segment


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
        "program": provenance.PROGRAM,
        "scan": scan.name,
        provenance.FILES: digests,
        "box": "first and last voxel (i, j, k) of the file's grid, both inclusive",
        "labels": entries,
    }
    return json.dumps(content, indent=1).encode() + b"\n"


def _encoded(path: Path, labels: Labels, scan: Scan, segments: list[Segment]) -> bytes:
    """The content of `path`, in the format of its suffix."""
    suffix = suffix_of(path, WRITTEN)
    if suffix in nifti.SUFFIXES:
        return nifti.encoded(labels, scan, path)
    if suffix in (".png", *pictures.TIFF):
        return pictures.encoded(labels, path)
    if suffix == seg.SUFFIX:
        return seg.encoded(labels, scan, segments, path)
    if suffix == rtstruct.SUFFIX:
        return rtstruct.encoded(labels, scan, segments, path)
    if suffix == ".npz":
        stream = io.BytesIO()
        np.savez_compressed(stream, segs=labels.T if scan.grid[2] > 1 else labels[:, :, 0].T)
        return stream.getvalue()
    try:
        content = itk.encoded(labels, scan, path, segments)
    except RuntimeError as error:  # SimpleITK raises no other
        raise ScanError(
            f"{printable(path.name)}: could not be written by way of {tempfile.gettempdir()}, "
            "which may be full"
        ) from error
    return provenance.sealed(content) if suffix == itk.SEGMENTATION else content


def check_encoding(outputs: Outputs, scan: Scan, segments: list[Segment]) -> None:
    """Encode labels of one voxel, so that an unsuitable output format fails before segmentation.

    This takes as long for a large scan as for a small one.

    Raises:
        ScanError: the format cannot hold labels of this scan, or its library is missing.
    """
    path = outputs.labels
    suffix = suffix_of(path, WRITTEN)
    most = max((one.value for one in segments), default=0)
    if suffix == seg.SUFFIX:
        seg.check(scan, segments, path)
        return
    if suffix == rtstruct.SUFFIX:
        rtstruct.check(scan, segments, path)
        return
    if suffix in (".png", *pictures.TIFF):
        if suffix == ".png" and scan.grid[2] > 1:
            raise pictures.too_many_slices(scan.grid[2], path)
        if most > MAX_LABELS:
            raise ScanError(
                f"{printable(path.name)}: label {most} does not fit into a picture of 16 bits, "
                "expected an output ending in .nii.gz, .seg.nrrd or .mha"
            )
    _encoded(path, np.ones((1, 1, 1), label_dtype(most)), scan, segments)


def write(
    outputs: Outputs,
    labels: Labels,
    scan: Scan,
    segments: list[Segment],
    orientation: Orientation,
    case: Case,
) -> None:
    """Write labels (I, J, K) on the grid of `scan`, and the files beside them: all or none.

    The overlay is drawn on the image of `case`, whose slices have the `orientation`.

    Raises:
        OSError: the folder cannot be written to, or is full.
        ScanError: the format cannot hold the labels.
    """
    contents = {outputs.labels: _encoded(outputs.labels, labels, scan, segments)}
    if outputs.overlay is not None:
        contents[outputs.overlay] = pictures.png(
            picture_of_labels(labels, segments, orientation, case)
        )
    if outputs.names is not None:
        contents[outputs.names] = _names(scan, segments, provenance.digests(contents))
    write_together(contents)  # the labels last: if they are there, the others are, too

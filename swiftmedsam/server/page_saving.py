"""Saves what a page has drawn: labels in a format that fits the image, or the table of --stats."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swiftmedsam.atomic import atomic_file
from swiftmedsam.messages import printable
from swiftmedsam.result import Labels, label_dtype
from swiftmedsam.scans.dicom import rtstruct
from swiftmedsam.scans.formats.by_suffix import WRITTEN, default_suffix, suffix_of
from swiftmedsam.scans.orientation import choose_orientation
from swiftmedsam.scans.scan import Scan, Segment
from swiftmedsam.scans.stats import measure, table
from swiftmedsam.server.planes import SessionError
from swiftmedsam.server.region import around
from swiftmedsam.server.session import Session

TABLE = ".csv"
WORDS = {
    ".nii.gz": "NIfTI",
    ".seg.nrrd": "3D Slicer segmentation",
    ".dcm": "DICOM SEG",
    rtstruct.SUFFIX: "DICOM structure set",
    ".mha": "MetaImage",
    ".png": "picture",
    ".tif": "TIFF",
    TABLE: "table of sizes",
}


@dataclass(frozen=True, eq=False)
class Drawn:
    """What is to be saved: labels 1..N, and the object of each."""

    labels: Labels  # (K, J, I)
    segments: list[Segment]
    left_out: tuple[str, ...]  # names of objects without a voxel of their own


def formats_of(scan: Scan) -> list[dict[str, str]]:
    """The formats that labels of a scan can be saved in, the usual one of its own first.

    Each has its `suffix`, and `words` for the user.
    """
    is_dicom, is_picture = bool(scan.sources), scan.grid[2] == 1 and not scan.sources
    fits = {
        ".dcm": is_dicom, rtstruct.SUFFIX: is_dicom and scan.has_mm, ".png": is_picture,
        ".tif": not scan.has_mm,
    }  # fmt: skip
    own = default_suffix(scan.path)
    suffixes = sorted((one for one in WORDS if fits.get(one, True)), key=lambda one: one != own)
    return [{"suffix": one, "words": f"{WORDS[one]} ({one})"} for one in suffixes]


def drawn(session: Session, numbers: Sequence[int], *, later_wins: bool) -> Drawn:
    """The objects of these numbers, as labels 1..N in the order of the numbers.

    Raises:
        SessionError: there is no such object, or nothing to save.
    """
    chosen = [number for number in sorted(set(numbers)) if session[number].box is not None]
    kept = session.label_map(chosen, later_wins=later_wins)
    new = np.zeros(max(chosen, default=0) + 1, label_dtype(len(chosen)))
    segments: list[Segment] = []
    left_out = []
    for number in chosen:
        one = session[number]
        box = one.box
        found = None
        if box is not None:
            k, j, i = (slice(start, end) for start, end in box)
            found = around(kept[k, j, i] == number, tuple(start for start, _ in box))
        if found is None:
            left_out.append(one.name)
            continue
        (k0, k1), (j0, j1), (i0, i1) = found
        value = new[number] = len(segments) + 1
        segments.append(
            Segment(value, one.name, (i0, j0, k0), (i1 - 1, j1 - 1, k1 - 1), one.colour)
        )
    if not segments:
        raise SessionError("there is nothing to save yet: no object has a voxel")
    return Drawn(new[kept], segments, tuple(left_out))


def write_to(path: Path, session: Session, what: Drawn) -> None:
    """Write labels, or the table, in the format of the path's suffix.

    Raises:
        OSError: the file cannot be written.
        ScanError: the format cannot hold these labels, or would replace a file that is not ours.
        SessionError: the format is unknown.
    """
    scan = session.image.scan
    if path.name.lower().endswith(TABLE):
        orientation = choose_orientation(scan)
        unknown = {box: [float("nan")] for box in range(len(what.segments))}
        rows = measure(what.labels.T, scan, orientation, what.segments, unknown)
        for row in rows:
            row["predicted_iou_mean"] = ""  # masks may be drawn by hand
        with atomic_file(path) as stream:
            stream.write(table(rows))
        return
    if not suffix_of(path, WRITTEN):
        raise SessionError(
            f"{printable(path.name)}: expected a name ending in {', '.join((*WRITTEN, TABLE))}"
        )
    shape = session.image.shape
    session.image.write_segments(path, what.labels.reshape(shape), what.segments)

"""Chooses the format of a file by its suffix: its reader, and the suffix of its labels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from swiftmedsam.messages import one_line, printable
from swiftmedsam.scans.dicom import reader as dicom
from swiftmedsam.scans.formats import itk, nifti, pictures
from swiftmedsam.scans.scan import MemoryLimit, Scan, ScanError

Reader = Callable[[Path, int | None, MemoryLimit | None], Scan]  # path, volume number, limit


@dataclass(frozen=True)
class Format:
    """A file format of scans."""

    read: Reader
    labels: Mapping[str, str]  # by suffix of the scan: the default suffix of its labels


FORMATS = (
    Format(nifti.read, {suffix: suffix for suffix in nifti.SUFFIXES}),
    Format(
        itk.read,
        {suffix: itk.SEGMENTATION if suffix in itk.NRRD else ".mha" for suffix in itk.SUFFIXES},
    ),
    Format(
        pictures.read,
        {suffix: suffix if suffix in pictures.TIFF else ".png" for suffix in pictures.SUFFIXES},
    ),
    Format(dicom.read, {suffix: ".dcm" for suffix in dicom.SUFFIXES}),
)
READERS = {suffix: one.read for one in FORMATS for suffix in one.labels}
LABELS = {suffix: labels for one in FORMATS for suffix, labels in one.labels.items()}
# Suffixes that labels can be written with; a longer one comes before a shorter one that it ends in.
WRITTEN = (
    itk.SEGMENTATION, ".nii.gz", ".nii", ".nrrd", ".mha", ".rtstruct.dcm", ".dcm", ".png", ".tif",
    ".tiff", ".npz",
)  # fmt: skip


def suffix_of(path: Path, known: tuple[str, ...]) -> str:
    """The longest of the `known` suffixes that a file's name has, in any case; "" for none."""
    name = path.name.lower()
    return max((suffix for suffix in known if name.endswith(suffix)), key=len, default="")


def stem_of(path: Path) -> str:
    """The file's name without its suffix."""
    suffix = suffix_of(path, (*READERS, *WRITTEN))
    return path.name[: len(path.name) - len(suffix)]


def read_scan(
    path: Path,
    volume: int | None = None,
    series: str | None = None,
    *,
    memory_limit: int | MemoryLimit | None = None,
    as_labels: bool = False,
) -> Scan:
    """Read the scan of a file, or of a folder of DICOM files.

    Args:
        path: the file or folder.
        volume: which volume, counted from 0, if the file has several.
        series: number or UID of the series, if a DICOM folder has several.
        memory_limit: in bytes; None is no limit.
        as_labels: a picture is a label map, whose values may be the indices of a palette.

    Raises:
        ScanError: the file cannot be read, is broken or of an unknown kind, has several volumes and
            none is chosen, or would need more than `memory_limit` bytes by its header.
    """
    limit = MemoryLimit(memory_limit) if isinstance(memory_limit, int) else memory_limit
    suffix = suffix_of(path, tuple(READERS))
    try:
        if path.is_dir() or suffix in dicom.SUFFIXES or (not suffix and dicom.is_dicom(path)):
            if not path.exists():
                raise ScanError(f"{printable(path.name)}: expected a file, found none")
            return dicom.read(path, volume, limit, series)
        if not suffix:
            found = printable(path.name)
            raise ScanError(f"{found}: expected DICOM or a name ending in {', '.join(READERS)}")
        if not path.is_file():
            raise ScanError(f"{printable(path.name)}: expected a file, found none")
        if as_labels and suffix in pictures.SUFFIXES:
            return pictures.read_labels(path, limit)
        return READERS[suffix](path, volume, limit)
    except OSError as error:  # it names the file, if `path` is a folder
        found = printable(Path(error.filename or path).name)
        raise ScanError(f"{found}: cannot be read ({one_line(error)})") from error


def default_suffix(path: Path) -> str:
    """The default suffix of a scan's labels, by the format of the scan."""
    return LABELS.get(suffix_of(path, tuple(READERS)), ".dcm")  # a folder, or no suffix: DICOM

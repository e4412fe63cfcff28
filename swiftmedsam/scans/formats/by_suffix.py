"""File formats by the suffix of a file: who reads it, and what its labels are written as."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from swiftmedsam.messages import one_line, printable
from swiftmedsam.scans.dicom import reader as dicom
from swiftmedsam.scans.formats import itk, nifti, pictures
from swiftmedsam.scans.scan import MemoryLimit, Scan, ScanError

Reader = Callable[[Path, int | None, MemoryLimit | None], Scan]  # of a file, and which volume


@dataclass(frozen=True)
class Format:
    """A file format that scans may have."""

    read: Reader
    labels: Mapping[str, str]  # by suffix of the scan: the suffix of its labels, by default


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
# Ends of names that labels can be written as. Longer ones first: the end of a.seg.nrrd is no .nrrd.
WRITTEN = (
    itk.SEGMENTATION, ".nii.gz", ".nii", ".nrrd", ".mha", ".dcm", ".png", ".tif", ".tiff", ".npz"
)  # fmt: skip


def suffix_of(path: Path, known: tuple[str, ...]) -> str:
    """The longest of `known` that the file's name ends in, however it is written; "" for none."""
    name = path.name.lower()
    return max((suffix for suffix in known if name.endswith(suffix)), key=len, default="")


def stem_of(path: Path) -> str:
    """The file's name without the end that says its kind."""
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
    """The scan of a file, or of a folder of DICOM files.

    `volume` is which one of a file that has several, `series` which one of a DICOM folder.
    `as_labels`, a picture is a label map, whose values may be the indices of a palette.

    Raises:
        ScanError: the file cannot be read, is broken, of no known kind, has several volumes and
            none is chosen, or would take more than `memory_limit` bytes, as its header says.
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
    except OSError as error:  # it knows which file of a folder
        found = printable(Path(error.filename or path).name)
        raise ScanError(f"{found}: cannot be read ({one_line(error)})") from error


def default_suffix(path: Path) -> str:
    """The suffix of a scan's labels by default: of the format of the scan."""
    return LABELS.get(suffix_of(path, tuple(READERS)), ".dcm")  # a folder, or no suffix: DICOM

"""Read scan files with readers that the program does not use for them.

NIfTI and DICOM are read with SimpleITK (niftilib, GDCM), pictures with Pillow. The program reads
NRRD and MetaImage with SimpleITK, so there are simple readers for them here.
"""

import gzip
import math
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import SimpleITK as sitk
from PIL import Image

RAS_OF_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
NRRD_TYPES = {"short": "i2", "int16": "i2", "unsigned char": "u1", "uchar": "u1", "uint8": "u1"}
SOP_CLASSES = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1")  # CT, enhanced CT
META_TYPES = {"MET_SHORT": "i2", "MET_FLOAT": "f4", "MET_UCHAR": "u1", "MET_USHORT": "u2"}


class Refused(ValueError):
    """A reader refuses the file; the message says why."""


class NoOpinion(Exception):
    """There is no other reader for such a file."""


@dataclass(frozen=True)
class Reading:
    """Voxels (I, J, K[, 3]), and the affine to mm in RAS; None if the file has no affine."""

    voxels: npt.NDArray[np.generic]
    affine: npt.NDArray[np.float64] | None


def read(kind: str, path: Path) -> Reading:
    """Read a file, or a folder of DICOM files.

    Raises:
        NoOpinion: there is no other reader for this file.
        Refused: the other reader refuses it.
    """
    readers = {"nifti": _nifti, "dicom": _dicom, "nrrd": _nrrd, "metaimage": _metaimage}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return readers.get(kind, _picture)(path)


def _reading(image: sitk.Image) -> Reading:
    array = sitk.GetArrayFromImage(image)
    axes = image.GetDimension()
    if axes == 4 and image.GetSize()[3] == 1:
        return _reading(image[:, :, :, 0])
    if axes > 3:
        raise NoOpinion
    colour = image.GetNumberOfComponentsPerPixel() > 1
    order = (*range(axes - 1, -1, -1), axes)[: axes + colour]
    array = array.transpose(order)
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(axes, axes)
    affine[:axes, :axes] = direction * np.array(image.GetSpacing())
    affine[:axes, 3] = image.GetOrigin()
    return Reading(array if axes == 3 else array[:, :, np.newaxis], RAS_OF_LPS @ affine)


def _by_sitk(path: Path | str | list[str]) -> Reading:
    try:
        return _reading(sitk.ReadImage(path if isinstance(path, list) else str(path)))
    except RuntimeError as error:
        raise Refused(" ".join(str(error).split())[-200:]) from None


def _nifti(path: Path) -> Reading:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as stream:  # noqa: PTH123
        if stream.read(12)[4:] in (b"n+2\0\r\n\x1a\n", b"ni2\0\r\n\x1a\n"):
            raise NoOpinion  # SimpleITK does not read NIfTI-2
    return _by_sitk(path)


def _dicom(path: Path) -> Reading:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    headers = [pydicom.dcmread(file, stop_before_pixels=True, force=True) for file in files]
    if any(one.get("PhotometricInterpretation") == "MONOCHROME1" for one in headers):
        raise NoOpinion  # the program turns them, SimpleITK does not
    if len(files) == 1:
        return _placed(_by_sitk(files[0] if path.is_dir() else path), headers)
    try:
        series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(path))
    except RuntimeError:
        raise NoOpinion from None
    if len(series) != 1:
        raise NoOpinion
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path), series[0])
    whole = _by_sitk(list(names))
    # SimpleITK cuts the values of a series to the type of its first file, so each is read alone
    each = [_by_sitk(one).voxels for one in names]
    if whole.voxels.shape[2] != len(each) or any(one.shape[2] != 1 for one in each):
        return _placed(whole, headers)
    return _placed(Reading(np.concatenate(each, axis=2), whole.affine), headers)


def _placed(found: Reading, headers: list[pydicom.Dataset]) -> Reading:
    """Remove the affine where GDCM does not read it; this depends on the SOP class."""
    known = all(one.file_meta.get("MediaStorageSOPClassUID") in SOP_CLASSES for one in headers)
    return found if known else Reading(found.voxels, None)


def _values(content: bytes, dtype: str, big: bool, size: list[int]) -> npt.NDArray[np.generic]:
    stored = np.dtype(dtype).newbyteorder(">" if big else "<")
    wanted = math.prod(size) * stored.itemsize
    if any(side < 1 for side in size) or len(content) < wanted:
        raise Refused(f"{len(content)} bytes for {size} of {dtype}")
    return np.frombuffer(content[:wanted], stored).reshape(size[::-1]).T


def _nrrd(path: Path) -> Reading:
    head, found, content = path.read_bytes().partition(b"\n\n")
    lines = head.decode("latin1").split("\n")
    if not found or not re.fullmatch(r"NRRD000[1-5]\s*", lines[0]):
        raise Refused("no NRRD")
    fields: dict[str, str] = {}
    for line in lines[1:]:
        key, colon, value = line.partition(":")
        if colon and not value.startswith("=") and not line.startswith("#"):
            if key in fields:
                raise NoOpinion  # a key is there twice, and no rule says which one counts
            fields[key.strip()] = value.strip()
    known = {"type", "dimension", "space", "sizes", "space directions", "kinds", "endian",
             "encoding", "space origin"}  # fmt: skip
    if not {"space directions", "space origin"} <= set(fields):
        raise NoOpinion  # without them SimpleITK assumes a place
    if set(fields) - known or fields.get("encoding") != "raw" or fields.get("dimension") != "3":
        raise NoOpinion
    try:
        size = [int(word) for word in fields["sizes"].split()]
        dtype = NRRD_TYPES[fields["type"]]
        numbers = re.sub(r"[(),]", " ", fields["space directions"] + " " + fields["space origin"])
        columns = np.array([float(word) for word in numbers.split()]).reshape(4, 3).T
    except (KeyError, ValueError) as error:
        raise Refused(f"{error}") from None
    if fields.get("space") != "left-posterior-superior" or len(size) != 3:
        raise NoOpinion
    affine = np.eye(4)
    affine[:3] = columns
    values = _values(content, dtype, fields.get("endian") == "big", size)
    return Reading(values, RAS_OF_LPS @ affine)


def _metaimage(path: Path) -> Reading:
    head, found, content = path.read_bytes().partition(b"ElementDataFile = LOCAL\n")
    if not found:
        raise NoOpinion
    fields: dict[str, str] = {}
    for line in head.decode("latin1").split("\n"):
        key, equals, value = line.partition(" = ")
        if equals:
            if key in fields:
                raise NoOpinion
            fields[key] = value.strip()
    usual = {"ObjectType": "Image", "NDims": "3", "BinaryData": "True", "CompressedData": "False"}
    if any(fields.get(key) != value for key, value in usual.items()):
        raise NoOpinion
    if fields.get("BinaryDataByteOrderMSB") not in ("True", "False"):
        raise NoOpinion
    known = {*usual, "BinaryDataByteOrderMSB", "TransformMatrix", "Offset", "CenterOfRotation",
             "ElementSpacing", "DimSize", "ElementType", "AnatomicalOrientation"}  # fmt: skip
    if set(fields) - known or not {"Offset", "ElementSpacing"} <= set(fields):
        raise NoOpinion  # without place or spacing SimpleITK assumes one
    try:
        size = [int(word) for word in fields["DimSize"].split()]
        dtype = META_TYPES[fields["ElementType"]]
        matrix = np.array(fields["TransformMatrix"].split(), float).reshape(3, 3)
        affine = np.eye(4)
        affine[:3, :3] = matrix.T * np.array(fields["ElementSpacing"].split(), float).reshape(3)
        affine[:3, 3] = np.array(fields["Offset"].split(), float).reshape(3)
    except (KeyError, ValueError) as error:
        raise Refused(f"{error}") from None
    if len(size) != 3:
        raise Refused(f"{len(size)} sizes")
    values = _values(content, dtype, fields.get("BinaryDataByteOrderMSB") == "True", size)
    return Reading(values, RAS_OF_LPS @ affine)


def _picture(path: Path) -> Reading:
    try:
        with Image.open(path) as image:
            pages = []
            for number in range(getattr(image, "n_frames", 1)):
                image.seek(number)
                if image.mode not in ("L", "I;16", "I;16B", "RGB"):
                    raise NoOpinion
                if image.mode != "L" and getattr(image, "tag_v2", {}).get(262) == 0:
                    raise NoOpinion  # 0 is white: Pillow inverts this for 8-bit values only
                pages.append(np.asarray(image))
    except NoOpinion:
        raise
    except Exception as error:  # Pillow raises many kinds
        raise Refused(f"{type(error).__name__} {error}"[:200]) from None
    if len({page.shape for page in pages}) > 1:
        raise Refused("pages of several sizes")
    if pages[0].ndim == 3:
        if len(pages) > 1:
            raise NoOpinion
        return Reading(pages[0].swapaxes(0, 1)[:, :, np.newaxis], None)
    return Reading(np.stack(pages).T, None)

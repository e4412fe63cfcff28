"""Small valid files of each kind, and random changes of their headers.

A change sets one field of the header to an odd value, removes or doubles it, or changes bytes of
the header. The fields of each kind of file are known, so that readers do not reject the file at
once.
"""

import gzip
import io
import random
import re
import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

Change = Callable[
    [bytes, random.Random], tuple[bytes, str]
]  # new content, and a text on the change

GRID = (7, 6, 4)  # voxels along i, j, k: all different
AFFINE = np.array([[-1.5, 0, 0, 20], [0, -2, 0, 30], [0, 0, 3, -40], [0, 0, 0, 1]])
ODD_WHOLE = (0, 1, -1, 2, 3, 127, 255, 256, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**63 - 1)
ODD_REAL = (0.0, 1.0, -1.0, 0.5, 1e-30, -1e30, 3.4e38, float("nan"), float("inf"), -float("inf"))
ODD_TEXT = ("", " ", "0", "-1", "1", "2", "nan", "inf", "1e400", "x" * 300, "1\\2\\3", "\x00",
            "é", "9" * 20, "1 2 3", "(1,0,0) (0,1,0) (0,0,1)", "none", "1.5")  # fmt: skip
UID = "1.2.826.0.1.3680043.8.498."


@dataclass(frozen=True)
class Seed:
    """A valid scan: its files by name, the change of one of them, and the path to read."""

    kind: str
    files: dict[str, bytes]
    change: Change
    scan: str  # name of the file to read; "" is the folder

    def changed(self, chance: random.Random) -> tuple[dict[str, bytes], str]:
        """Return the files with a changed header, and a text on the change."""
        name = chance.choice(sorted(self.files))
        content, what = self.change(self.files[name], chance)
        return {**self.files, name: content}, f"{name}: {what}"


def voxels(dtype: str) -> np.ndarray:
    """Return voxels (I, J, K) of a gradient in the range of `dtype`, all different."""
    count = int(np.prod(GRID))
    return np.arange(count).reshape(GRID[::-1]).T.astype(dtype)


def flipped(content: bytes, chance: random.Random, most: int) -> tuple[bytes, str]:
    """Change one to four of the first `most` bytes of `content`."""
    found, where = bytearray(content), []
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(min(most, len(found)))
        found[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, found[at] ^ (1 << chance.randrange(8))))
        where.append(f"byte {at} = {found[at]}")
    return bytes(found), ", ".join(where)


def _odd(dtype: np.dtype[Any], chance: random.Random) -> Any:
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return chance.choice([one for one in ODD_WHOLE if limits.min <= one <= limits.max])
    if dtype.kind == "f":
        return np.float32(chance.choice(ODD_REAL))
    return chance.choice(ODD_TEXT).encode("utf-8")[: dtype.itemsize]


def change_nifti(content: bytes, chance: random.Random) -> tuple[bytes, str]:
    """Change a field or bytes of a NIfTI header, also inside gzip."""
    if content[:2] == b"\x1f\x8b":
        changed, what = change_nifti(gzip.decompress(content), chance)
        return gzip.compress(changed, mtime=0), what
    two = content[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c")
    kind = nibabel.Nifti2Header if two else nibabel.Nifti1Header
    dtype = kind.template_dtype if content[1:2] != b"\0" else kind.template_dtype
    if content[:2] == b"\0\0":
        dtype = dtype.newbyteorder(">")
    if chance.random() < 0.3:
        return flipped(content, chance, dtype.itemsize + 4)
    header = np.frombuffer(content[: dtype.itemsize], dtype).copy()
    name = chance.choice(dtype.names)
    field = header[name][0]
    with np.errstate(all="ignore"):
        if field.ndim:
            index = chance.randrange(field.size)
            field[index] = _odd(field.dtype, chance)
            what = f"{name}[{index}] = {field[index]}"
        else:
            header[name][0] = _odd(dtype[name], chance)
            what = f"{name} = {header[name][0]}"
    return header.tobytes() + content[dtype.itemsize :], what


def change_text(separator: str, end: bytes) -> Change:
    """Return changes of a text header with lines `key<separator>value`, which ends with `end`."""

    def change(content: bytes, chance: random.Random) -> tuple[bytes, str]:
        at = content.index(end) + len(end)
        if chance.random() < 0.3:
            return flipped(content, chance, at)
        lines = content[:at].decode("latin1").split("\n")
        fields = [i for i, line in enumerate(lines) if separator in line]
        number = chance.choice(fields)
        key, _, value = lines[number].partition(separator)
        kind = chance.choice(("set", "set", "number", "number", "drop", "double"))
        if kind == "set":
            lines[number] = f"{key}{separator}{chance.choice(ODD_TEXT)}"
        elif kind == "number":
            parts = re.split(r"(-?[\d.]+)", value)
            if len(parts) > 1:
                odd = chance.choice((*ODD_WHOLE, *ODD_REAL))
                parts[chance.randrange(1, len(parts), 2)] = str(odd)
            lines[number] = f"{key}{separator}{''.join(parts)}"
        elif kind == "drop":
            lines[number : number + 1] = []
            return "\n".join(lines).encode("latin1", "replace") + content[at:], f"without {key}"
        else:
            lines.insert(number, f"{key}{separator}{chance.choice(ODD_TEXT)}")
        what = f"{kind} {lines[number]!r}"
        return "\n".join(lines).encode("latin1", "replace") + content[at:], what

    return change


def _elements(dataset: Dataset) -> list[tuple[Dataset, Any]]:
    found = []
    for element in dataset:
        if element.tag.group == 0x7FE0:
            continue  # pixels are not header
        found.append((dataset, element.tag))
        if element.VR == "SQ":
            for item in element.value:
                found += _elements(item)
    return found


def _saved(dataset: Dataset) -> bytes:
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, dataset, enforce_file_format=False)
    return stream.getvalue()


def change_dicom(content: bytes, chance: random.Random) -> tuple[bytes, str]:
    """Change a tag of a DICOM file: set it, remove it, change its VR; or change header bytes."""
    end = content.index(b"\xe0\x7f\x10\x00")
    if chance.random() < 0.3:
        head, what = flipped(content[128:], chance, end - 128)
        return content[:128] + head, what
    dataset = pydicom.dcmread(io.BytesIO(content))
    holder, tag = chance.choice(_elements(dataset) + _elements_of_meta(dataset))
    element = holder[tag]
    name = element.keyword or str(tag)
    if chance.random() < 0.15:
        del holder[tag]
        what = f"without {name}"
    else:
        vr = chance.choice([element.VR] * 4 + ["UN", "LO", "US", "DS"])
        if vr == "SQ":
            value: Any = chance.choice(([], [Dataset()]))
        elif vr in ("US", "UL", "SS", "SL"):
            value = chance.choice((0, 1, 2, 7, 8, 12, 16, 32, 255, 65535))
        elif vr in ("FD", "FL"):
            value = chance.choice(ODD_REAL)
        elif vr in ("UN", "OB", "OW"):
            value = chance.choice((b"", b"\0\0", b"12345678", b"x" * 300))
        else:
            value = chance.choice(ODD_TEXT)
            if element.VM > 1 and chance.random() < 0.7:  # change one of several numbers
                parts = [str(part) for part in element.value]
                parts[chance.randrange(len(parts))] = value.partition("\\")[0]
                value = "\\".join(parts)
        what = f"{name} ({vr}) = {value!r}"[:120]
        try:
            ignored = pydicom.config.IGNORE
            holder[tag] = pydicom.DataElement(tag, "LO" if vr in TEXT_VRS else vr, value, ignored)
        except Exception:  # pydicom does not accept the value: change bytes instead
            return flipped(content, chance, end)
    try:
        return _revised(_saved(dataset), tag, vr if "=" in what else ""), what
    except Exception:  # pydicom cannot write it: change bytes instead
        return flipped(content, chance, end)


TEXT_VRS = ("DS", "IS", "UI", "CS", "LO", "SH", "PN", "DA", "TM", "DT", "AS", "LT", "ST", "UT")


def _revised(content: bytes, tag: Any, vr: str) -> bytes:
    """Restore the VR of a value that was written as text; pydicom would not write it otherwise."""
    if vr not in TEXT_VRS or vr in ("UT", "LO"):
        return content
    key = struct.pack("<HH", tag.group, tag.element)
    return content.replace(key + b"LO", key + vr.encode())


def _elements_of_meta(dataset: Dataset) -> list[tuple[Dataset, Any]]:
    return [(dataset.file_meta, element.tag) for element in dataset.file_meta]


def change_tiff(content: bytes, chance: random.Random) -> tuple[bytes, str]:
    """Change type, count or value of a tag of a little-endian TIFF, or bytes of its directory."""
    (offset,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, offset)
    found = bytearray(content)
    if chance.random() < 0.3:
        at = chance.choice((chance.randrange(8), offset + chance.randrange(12 * count + 6)))
        found[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
        return bytes(found), f"byte {at} = {found[at]}"
    entry = offset + 2 + 12 * chance.randrange(count)
    (tag,) = struct.unpack_from("<H", content, entry)
    where, form = chance.choice(((2, "<H"), (4, "<I"), (8, "<I"), (8, "<I"), (8, "<H")))
    value = chance.choice((0, 1, 2, 3, 4, 5, 8, 16, 32, 255, 65535))
    struct.pack_into(form, found, entry + where, value)
    return bytes(found), f"tag {tag} at {where} = {value}"


def change_png(content: bytes, chance: random.Random) -> tuple[bytes, str]:
    """Change the header of a PNG, and correct its checksum."""
    found = bytearray(content)
    at = chance.randrange(16, 29)
    found[at] = chance.choice((0, 1, 2, 3, 4, 6, 8, 16, 0x7F, 0xFF))
    struct.pack_into(">I", found, 29, zlib.crc32(found[12:29]))
    return bytes(found), f"byte {at} = {found[at]}"


def _nifti(kind: type, dtype: str, order: str = "<", shape: tuple[int, ...] = GRID) -> bytes:
    array = np.broadcast_to(voxels(dtype).reshape(*GRID, *[1] * (len(shape) - 3)), shape)
    image = kind(np.asfortranarray(array), AFFINE, dtype=dtype)
    image.header.set_xyzt_units("mm")
    image.set_qform(AFFINE, 1)
    header = image.header.as_byteswapped(order) if order == ">" else image.header
    swapped = kind(image.dataobj, None, header)
    return bytes(swapped.to_bytes())


def _by_sitk(suffix: str, dtype: str) -> bytes:
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels(dtype).T))
    image.SetSpacing((1.5, 2.0, 3.0))
    image.SetOrigin((-20.0, -30.0, -40.0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"scan{suffix}"
        sitk.WriteImage(image, str(path), useCompression=False)
        return path.read_bytes()


def _header(sop_class: str, number: int) -> Dataset:
    dataset = Dataset()
    dataset.preamble, dataset.file_meta = bytes(128), FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
    uid = generate_uid(UID, entropy_srcs=[str(number)])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = uid
    dataset.SeriesInstanceUID = generate_uid(UID, entropy_srcs=["series"])
    dataset.StudyInstanceUID = generate_uid(UID, entropy_srcs=["study"])
    dataset.FrameOfReferenceUID = generate_uid(UID, entropy_srcs=["frame"])
    dataset.Modality, dataset.PatientID, dataset.SeriesNumber = "CT", "fuzz", 3
    dataset.AcquisitionNumber, dataset.InstanceNumber = 1, number
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Rows, dataset.Columns = GRID[1], GRID[0]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = 1
    return dataset


def _classic(k: int, **more: Any) -> bytes:
    dataset = _header(CTImageStorage, k + 1)
    dataset.ImagePositionPatient = [-20, -30, -40 + 3 * k]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [2, 1.5], 3
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    for key, value in more.items():
        setattr(dataset, key, value)
    dataset.PixelData = np.ascontiguousarray(voxels("<i2")[:, :, k].T).tobytes()
    return _saved(dataset)


def _colour() -> bytes:
    dataset = _header("1.2.840.10008.5.1.4.1.1.7", 1)
    dataset.Modality = "OT"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
    dataset.PlanarConfiguration = 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation = 0
    plane = voxels("u1")[:, :, 0].T
    dataset.PixelData = np.stack([plane, 255 - plane, plane * 2], axis=-1).tobytes()
    return _saved(dataset)


def _enhanced() -> bytes:
    def item(**values: Any) -> Dataset:
        found = Dataset()
        for key, value in values.items():
            setattr(found, key, value)
        return found

    dataset = _header(EnhancedCTImageStorage, 1)
    dataset.NumberOfFrames = GRID[2]
    dataset.SharedFunctionalGroupsSequence = [item(
        PixelMeasuresSequence=[item(PixelSpacing=[2, 1.5], SliceThickness=3)],
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        PixelValueTransformationSequence=[
            item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")
        ],
    )]  # fmt: skip
    dataset.PerFrameFunctionalGroupsSequence = [item(
        FrameContentSequence=[item(StackID="1", InStackPositionNumber=k + 1,
                                   DimensionIndexValues=[1, k + 1])],
        PlanePositionSequence=[item(ImagePositionPatient=[-20, -30, -40 + 3 * k])],
    ) for k in range(GRID[2])]  # fmt: skip
    dataset.PixelData = np.ascontiguousarray(voxels("<i2").T).tobytes()
    return _saved(dataset)


def _tiff(dtype: str, pages: int) -> bytes:
    """Return an uncompressed little-endian TIFF with its directory first."""
    width, height = GRID[:2]
    planes = [np.ascontiguousarray(voxels(dtype)[:, :, k].T).tobytes() for k in range(pages)]
    size, bits = len(planes[0]), 8 * np.dtype(dtype).itemsize
    form = 2 if np.dtype(dtype).kind == "i" else 1
    tags = 10
    each = 2 + 12 * tags + 4
    out = b"II*\0" + struct.pack("<I", 8)
    data = 8 + pages * each
    for k in range(pages):
        entries = ((256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, 1),
                   (273, 4, data + k * size), (277, 3, 1), (278, 3, height), (279, 4, size),
                   (339, 3, form))  # fmt: skip
        out += struct.pack("<H", tags)
        for tag, kind, value in entries:
            out += struct.pack("<HHII", tag, kind, 1, value)
        out += struct.pack("<I", 8 + (k + 1) * each if k + 1 < pages else 0)
    return out + b"".join(planes)


def _png() -> bytes:
    width, height = GRID[:2]
    rows = b"".join(b"\0" + bytes(row) for row in voxels("u1")[:, :, 1].T.tolist())

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
            + chunk(b"IEND", b""))  # fmt: skip


def seeds() -> list[Seed]:
    """Return all seeds; they are the same in each call."""
    nrrd, mha = change_text(":", b"\n\n"), change_text(" = ", b"ElementDataFile = LOCAL\n")
    one, two = nibabel.Nifti1Image, nibabel.Nifti2Image
    series = {f"{k}.dcm": _classic(k) for k in range(GRID[2])}
    alone = (
        ("nifti", "int16.nii", _nifti(one, "int16"), change_nifti),
        ("nifti", "float.nii", _nifti(one, "float32"), change_nifti),
        ("nifti", "big.nii", _nifti(one, "int16", ">"), change_nifti),
        ("nifti", "time.nii", _nifti(one, "uint8", shape=(*GRID, 1)), change_nifti),
        ("nifti", "second.nii.gz", gzip.compress(_nifti(two, "uint16"), mtime=0), change_nifti),
        ("nrrd", "int16.nrrd", _by_sitk(".nrrd", "int16"), nrrd),
        ("nrrd", "byte.nrrd", _by_sitk(".nrrd", "uint8"), nrrd),
        ("metaimage", "int16.mha", _by_sitk(".mha", "int16"), mha),
        ("metaimage", "float.mha", _by_sitk(".mha", "float32"), mha),
        ("dicom", "slice.dcm", _classic(1), change_dicom),
        ("dicom", "padded.dcm", _classic(1, PixelPaddingValue=-2000), change_dicom),
        ("dicom", "colour.dcm", _colour(), change_dicom),
        ("dicom", "enhanced.dcm", _enhanced(), change_dicom),
        ("tiff", "byte.tif", _tiff("u1", 1), change_tiff),
        ("tiff", "pages.tif", _tiff("<u2", 3), change_tiff),
        ("png", "grey.png", _png(), change_png),
    )
    single = [Seed(kind, {name: content}, change, name) for kind, name, content, change in alone]
    return [*single, *[Seed("dicom", series, change_dicom, "")] * 2]

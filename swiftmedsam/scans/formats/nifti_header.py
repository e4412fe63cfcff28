"""Reads and checks the header of a NIfTI file, field by field.

Source: nifti1.h and nifti2.h of the NIfTI Data Format Working Group.
"""

import math
import struct
import sys
from dataclasses import dataclass
from itertools import product
from typing import Any, BinaryIO

import numpy as np

from swiftmedsam.scans.scan import Float64Array, ScanError, extra

HEADER_BYTES = {348: b"n+1\0", 540: b"n+2\0\r\n\x1a\n"}  # magic of NIfTI-1 and 2, by header size
PAIRS = (b"ni1\0", b"ni2\0\r\n\x1a\n")  # magic of headers whose voxels are in another file
MOST_OFFSET = 1 << 40  # of the voxels; larger than any file
EXTENDER = 4  # bytes after the header that say whether extensions follow
TO_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # xyzt_units: none, metre, millimetre, micrometre
SPACE_BITS = 7  # mask of the unit of length in xyzt_units
# Bits per voxel, by datatype.
REAL = {2: 8, 4: 16, 8: 32, 16: 32, 64: 64, 128: 24, 256: 8, 512: 16, 768: 32, 1024: 64,
        1280: 64, 2304: 32}  # fmt: skip
UNREAL = {1: "bits", 32: "complex numbers", 1536: "floats of 128 bits", 1792: "complex numbers",
          2048: "complex numbers"}  # fmt: skip
MOST_EXTENSION = 1000  # codes of extensions are registered; the last one so far is 44
CIFTI = range(3000, 3100)  # intent codes of CIFTI matrices, which are no grid of voxels
LEAST_SLOPE = sys.float_info.epsilon  # no unit needs a smaller slope
MOST_CODE = 5  # of qform_code and sform_code
FORMS_AGREE_MM = 0.01  # a smaller difference of sform and qform is rounding
SPACINGS_AGREE = 0.01  # a smaller difference of voxel sizes, as a fraction, is rounding
LEAST_VOLUME = 1e-3  # of three unit vectors; below, they count as lying in a plane


@dataclass(frozen=True)
class Header:
    """A checked header."""

    fields: Any  # nibabel's header
    image: Any  # nibabel's class of images with such a header
    shape: tuple[int, ...]  # 3 axes or more
    affine: Float64Array  # (4, 4), voxels to mm
    offset: int  # bytes before the voxels
    slope: float | None  # None: the stored values are the values
    inter: float
    slice_axis: int | None
    doubts: tuple[str, ...]  # warnings for the user, one line each


def read_header(stream: BinaryIO, name: str) -> Header:
    """The checked header at the start of a NIfTI file.

    Raises:
        OSError, EOFError, zlib.error: the file cannot be read.
        ScanError: it is no NIfTI file, or declares a property that is not supported.
    """
    nibabel = extra("nibabel", name)
    start = stream.read(max(HEADER_BYTES) + EXTENDER)
    (little,), (big,) = (struct.unpack(f"{order}i", start[:4].ljust(4, b"\0")) for order in "<>")
    size = little if little in HEADER_BYTES else big
    if size not in HEADER_BYTES or len(start) < size:
        raise ScanError(
            f"{name}: not a readable NIfTI file (expected a header of 348 or 540 bytes at its "
            f"start, found {len(start)} bytes that begin with {start[:4].hex(' ') or 'none'})"
        )
    kind = nibabel.Nifti1Header if size == min(HEADER_BYTES) else nibabel.Nifti2Header
    order = "<" if little == size else ">"
    fields = kind(start[:size], endianness=order, check=False)
    magic = start[344:348] if size == min(HEADER_BYTES) else start[4:12]
    if magic in PAIRS:
        raise ScanError(f"{name}: its magic says that voxels are in a .img file, which is not read")
    if magic != HEADER_BYTES[size]:
        raise ScanError(
            f"{name}: not a readable NIfTI file (magic should be {HEADER_BYTES[size]!r}, found "
            f"{magic!r})"
        )
    shape = _shape(fields, name)
    doubts: list[str] = []
    _check_values(fields, name, doubts)
    slope, inter = _scaling(fields, name)
    offset = _offset(fields, size, stream, start, name, doubts)
    affine = TO_MM[_unit(fields, doubts)] * _affine(fields, shape[:3], name, doubts)
    affine[3, 3] = 1
    image = nibabel.Nifti1Image if size == min(HEADER_BYTES) else nibabel.Nifti2Image
    axis = int(fields["dim_info"]) >> 4 & 3  # 1 to 3, or 0 where it is not known
    return Header(
        fields, image, shape, affine, offset, slope, inter, axis - 1 if axis else None,
        tuple(doubts),
    )  # fmt: skip


def _shape(fields: Any, name: str) -> tuple[int, ...]:
    """The sizes of the axes, each at least 1; at least 3 axes."""
    axes = int(fields["dim"][0])
    if not 2 <= axes <= 7:
        raise ScanError(f"{name}: dim[0] should be 2..7 axes, found {axes}")
    shape = tuple(int(size) for size in fields["dim"][1 : axes + 1])
    if min(shape) < 1:
        raise ScanError(f"{name}: dim should have sizes of 1 or more, found {shape}")
    return shape + (1,) * (3 - axes)


def _check_values(fields: Any, name: str, doubts: list[str]) -> None:
    """Raise ScanError if the type of the values is not supported."""
    code, bits = int(fields["datatype"]), int(fields["bitpix"])
    intent = int(fields["intent_code"])
    if intent in CIFTI:
        raise ScanError(f"{name}: expected voxels on a grid, found CIFTI-2 (intent_code {intent})")
    if code not in REAL:
        found = UNREAL.get(code, "unknown")
        raise ScanError(f"{name}: voxels should be real numbers, found datatype {code} ({found})")
    if bits == 0:
        doubts.append(f"bitpix is 0, the {REAL[code]} bits of datatype {code} count")
    elif bits != REAL[code]:
        raise ScanError(f"{name}: bitpix should be {REAL[code]} for datatype {code}, found {bits}")


def _scaling(fields: Any, name: str) -> tuple[float | None, float]:
    """Slope and intercept; None if the slope is 0, or NaN, which nibabel writes for none.

    A slope that is nearly 0 is refused: some readers (ITK) ignore it, others apply it.
    """
    slope, inter = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0 or math.isnan(slope):
        return None, 0.0
    if not (math.isfinite(slope) and math.isfinite(inter)):
        raise ScanError(
            f"{name}: scl_slope and scl_inter should be finite, found {slope} and {inter}"
        )
    if abs(slope) < LEAST_SLOPE:
        raise ScanError(
            f"{name}: scl_slope should be 0 (none) or at least {LEAST_SLOPE:.3g} in size, found "
            f"{slope:.3g}"
        )
    return (None, 0.0) if (slope, inter) == (1, 0) else (slope, inter)


def _offset(
    fields: Any, size: int, stream: BinaryIO, start: bytes, name: str, doubts: list[str]
) -> int:
    """The byte where voxels begin: after the header and its extensions."""
    declared = float(fields["vox_offset"])
    least = size + EXTENDER
    has_extensions = start[size : size + 1] not in (b"", b"\0")
    if declared == 0 and not has_extensions:  # not set; ITK and FSL do the same
        doubts.append(f"vox_offset is 0, voxels are taken from byte {least}")
        return least
    if not (least <= declared < MOST_OFFSET and declared == int(declared)):
        raise ScanError(f"{name}: vox_offset should be {least} or more, found {declared:g}")
    offset = int(declared)
    at = least
    if has_extensions:  # each begins with its size and a code
        stream.seek(least)
        while at + 8 <= offset or at == least:
            head = stream.read(8)
            if len(head) < 8:
                break
            (length, code) = struct.unpack(fields.endianness + "ii", head)
            if length < 16 or length % 16 or not 0 <= code < MOST_EXTENSION:
                break  # not an extension, but unused bytes
            at += length
            if at > offset:
                raise ScanError(
                    f"{name}: vox_offset says that voxels begin at byte {offset}, which is inside "
                    f"an extension that ends at {at}"
                )
            stream.seek(at)
    return offset


def _unit(fields: Any, doubts: list[str]) -> int:
    unit = int(fields["xyzt_units"]) & SPACE_BITS
    if unit not in TO_MM:
        doubts.append(f"xyzt_units has no unit of length ({unit}), mm are assumed")
        return 0
    return unit


def _affine(fields: Any, grid: tuple[int, ...], name: str, doubts: list[str]) -> Float64Array:
    """The affine (4, 4), voxel to world in the file's unit: the sform, else qform, else pixdim.

    A form without an inverse is ignored, and its code becomes 0, so that labels do not get it.
    """
    pixdim = fields["pixdim"]
    for axis, size in enumerate(grid, start=1):
        if size == 1 and pixdim[axis] == 0:
            pixdim[axis] = 1  # the thickness of the only slice is unknown
    if pixdim[0] == 0:
        pixdim[0] = 1  # as nifti1.h says
    damaged = extra("nibabel", name).spatialimages.HeaderDataError
    forms: dict[str, Float64Array] = {}
    reasons: dict[str, str] = {}
    for form in ("sform", "qform"):
        code = int(fields[f"{form}_code"])
        if not 0 <= code <= MOST_CODE:
            raise ScanError(f"{name}: {form}_code should be 0..{MOST_CODE}, found {code}")
        if code == 0:
            continue
        try:
            with np.errstate(all="ignore"):  # a matrix with infinity or NaN has no inverse
                matrix = np.array(getattr(fields, f"get_{form}")(), np.float64)
        except (ValueError, damaged):
            reasons[form] = _why_no_qform(fields)
            continue
        if not _has_inverse(matrix):
            all_zero = not matrix[:3, :3].any()
            reasons[form] = "is zero" if all_zero else _why_no_inverse(form, fields)
            continue
        forms[form] = matrix
    if reasons and not forms:
        faults = ", ".join(f"{form} {reason}" for form, reason in reasons.items())
        raise ScanError(f"{name}: the affine should have an inverse, but {faults}")
    for form, reason in reasons.items():
        (other,) = forms
        doubts.append(f"{form} {reason}, the {other} counts")
        fields[f"{form}_code"] = 0
    if not forms:
        sides = pixdim[1:4]
        if not (np.isfinite(sides) & (sides > 0)).all():
            raise ScanError(f"{name}: pixdim should be lengths above 0, found {sides.tolist()}")
        doubts.append("neither sform nor qform is set, left and right are not certain")
        return np.array(fields.get_base_affine(), np.float64)
    if len(forms) == 2:
        doubts += _difference(forms["sform"], forms["qform"], grid)
    if "sform" in forms:
        doubts += _other_spacing(forms["sform"], pixdim[1:4])
    return forms.get("sform", forms.get("qform", np.eye(4)))


def _why_no_qform(fields: Any) -> str:
    """The fault of a qform that nibabel refuses."""
    sides, qfac = fields["pixdim"][1:4], float(fields["pixdim"][0])
    if not (np.isfinite(sides) & (sides > 0)).all():
        return f"has pixdim {sides.tolist()}"
    if qfac not in (-1, 1):
        return f"has pixdim[0] (qfac) {qfac:g}, expected -1 or 1"
    parts = [float(fields[f"quatern_{part}"]) for part in "bcd"]
    return f"has a quaternion {parts} that is no rotation"


def _why_no_inverse(form: str, fields: Any) -> str:
    if form == "qform":
        return _why_no_qform(fields)
    rows = [[round(float(one), 4) for one in fields[f"srow_{row}"]] for row in "xyz"]
    return f"is {rows}"


def _has_inverse(matrix: Float64Array) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        sides = np.linalg.norm(matrix[:3, :3], axis=0)
    if not np.isfinite([*matrix.ravel(), *sides]).all() or (sides == 0).any():
        return False
    return abs(float(np.linalg.det(matrix[:3, :3] / sides))) >= LEAST_VOLUME


def _difference(sform: Float64Array, qform: Float64Array, grid: tuple[int, ...]) -> list[str]:
    corners = np.array(list(product(*((0, size - 1) for size in grid), [1])), np.float64)  # (8, 4)
    apart = float(np.abs(corners @ (sform - qform).T).max())
    if apart <= FORMS_AGREE_MM:
        return []
    return [f"sform and qform are {apart:.3g} mm apart, the sform counts"]


def _other_spacing(sform: Float64Array, pixdim: Any) -> list[str]:
    sides = np.linalg.norm(sform[:3, :3], axis=0)
    if np.allclose(sides, np.abs(pixdim), rtol=SPACINGS_AGREE, atol=0):
        return []
    declared, used = (" x ".join(f"{float(one):.4g}" for one in each) for each in (pixdim, sides))
    return [f"pixdim says voxels of {declared}, the sform {used}, which counts"]

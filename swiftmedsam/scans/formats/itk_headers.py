"""Checks the keys of NRRD and MetaImage headers that SimpleITK ignores or misreads.

Sources: the definition of the NRRD file format (teem.sourceforge.net/nrrd/format.html); MetaIO's
documentation and source.
"""

import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from swiftmedsam.messages import printable
from swiftmedsam.scans.scan import ScanError

MOST_BYTES = 1 << 20  # of a header
# Kinds of NRRD's axes: axes of space, and axes of red, green, blue(, alpha).
DOMAIN = {"domain", "space", "???", "none", "unknown"}
COLOURS = {"rgb-color", "rgba-color", "3-color", "4-color"}
ALONG_OTHERS = "time"  # ITK treats it as one more axis of space
NO_COLOURS = {"hsv-color", "xyz-color"}  # colour spaces that are not read
ANATOMICAL = re.compile(r"(ras|las|lps)t?|(right|left)-(anterior|posterior)-superior(-time)?")
NRRD_ENCODINGS = {"raw", "ascii", "text", "txt", "hex", "gzip", "gz"}
LENGTHS_MM = {"mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "millimetre": 1.0, "um": 0.001,
              "\u00b5m": 0.001, "\u03bcm": 0.001, "micron": 0.001, "microns": 0.001,
              "micrometer": 0.001, "nm": 1e-6, "cm": 10.0, "m": 1000.0,
              "meter": 1000.0}  # fmt: skip
NRRD_ALIASES = {"centers": "centerings", "datafile": "data file", "axismins": "axis mins",
                "axismaxs": "axis maxs", "oldmin": "old min", "oldmax": "old max"}  # fmt: skip
META_MODALITIES = {"MET_MOD_CT": "CT", "MET_MOD_MR": "MR", "MET_MOD_NM": "NM", "MET_MOD_US": "US"}
META_BYTES = {"CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "LONG": 4,
              "ULONG": 4, "LONG_LONG": 8, "ULONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}  # fmt: skip
META_MATRICES = ("TransformMatrix", "Rotation", "Orientation")
META_NUMBERS = ("Offset", "Position", "Origin", "ElementSpacing", *META_MATRICES)
META_FLAGS = ("BinaryData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB", "CompressedData")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,2})?")
VECTORS = re.compile(r"[(),]")
MOST_SHOWN = 60  # characters of a value, in a message
PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class HeaderFacts:
    """Facts of a header that SimpleITK does not provide."""

    to_mm: float = 1.0  # millimetres per unit of length
    modality: str = ""
    is_colour: bool | None = None  # whether components are red, green and blue; None: unknown
    files: tuple[Path, ...] = ()  # the files of the data, if they are not in the header's file
    doubts: tuple[str, ...] = ()  # warnings for the user, one line each


def read_header(path: Path, *, is_nrrd: bool) -> HeaderFacts:
    """Read and check the header of a file.

    Raises:
        OSError: the file cannot be read.
        ScanError: the header is damaged, or declares a property that is not supported.
    """
    with path.open("rb") as stream:
        content = stream.read(MOST_BYTES)
    name = printable(path.name)
    return _nrrd(content, path, name) if is_nrrd else _meta(content, path, name)


def _broken(name: str, reason: str) -> ScanError:
    return ScanError(f"{name}: not a readable file of its kind ({reason})")


def _require_numbers(text: str, key: str, name: str, count: int | None = None) -> None:
    """Raise ScanError unless `text` is `count` numbers (None: at least one), also in vectors.

    ITK would read any other text as 0.
    """
    words = VECTORS.sub(" ", text.replace("none", "")).split()
    right = len(words) == count if count is not None else words
    if not right or not all(NUMBER.fullmatch(word) for word in words):
        raise _broken(name, f"'{key}' should be numbers, found {_start_of(text)}")


def _start_of(text: str) -> str:
    """The start of a header's value, for a message: the value may be as long as the file."""
    shown = printable(text[:MOST_SHOWN])
    return f"{shown}..." if len(text) > MOST_SHOWN else shown or "none"


def _length_unit(units: list[str], name: str, key: str) -> float:
    """Millimetres per unit of length; all of `units` must be the same, "" is no unit."""
    known = {unit.strip('"').lower() for unit in units} - {"", "???"}
    lengths = {LENGTHS_MM[unit] for unit in known if unit in LENGTHS_MM}
    if not known:
        return 1.0
    if len(lengths) != 1 or not known <= LENGTHS_MM.keys():
        raise ScanError(
            f"{name}: '{key}' should be one unit of length (mm, um, cm, m), found "
            f"{printable(', '.join(sorted(known)))}"
        )
    return lengths.pop()


# --- NRRD


def _nrrd(content: bytes, path: Path, name: str) -> HeaderFacts:
    lines = content.decode("latin-1").splitlines()
    if not lines or not re.fullmatch(r"NRRD000[1-6]", lines[0].strip()):
        found = printable(lines[0][:20]) if lines else "nothing"
        raise _broken(name, f"expected NRRD0001..NRRD0006 in the first line, found '{found}'")
    fields: dict[str, str] = {}
    rest: list[str] = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            break
        key, separator, value = line.partition(":")
        if line.startswith("#") or not separator or value.startswith("="):
            continue
        key = NRRD_ALIASES.get(key.strip().lower(), key.strip().lower())
        if key in fields:
            raise _broken(name, f"'{printable(key)}' is there twice")
        fields[key] = value.strip()
        if key == "data file" and fields[key].upper().startswith("LIST"):
            rest = [one.strip() for one in lines[number:] if one.strip()]
            break
    for key in ("dimension", "type", "sizes", "encoding"):
        if key not in fields:
            raise _broken(name, f"'{key}' is missing")
    if not re.fullmatch(r"([1-9][0-9]{0,8}\s*)+", fields["sizes"]):
        raise _broken(name, f"'sizes' should be whole numbers, found {_start_of(fields['sizes'])}")
    for key in ("space directions", "space origin"):
        if key in fields:
            _require_numbers(fields[key], key, name)
    if fields["type"].lower() == "block":
        raise _broken(name, "type block is not read, expected numbers")
    encoding = fields["encoding"].lower()
    if encoding not in NRRD_ENCODINGS:
        raise _broken(name, f"encoding {printable(encoding)} is not read, expected raw, gzip, "
                      "hex or ascii")  # fmt: skip
    one_byte = re.fullmatch("(u?int8(_t)?|(signed |unsigned )?char|uchar)", fields["type"].lower())
    if "endian" not in fields and not one_byte and encoding not in ("ascii", "text", "txt"):
        raise _broken(name, "'endian' is missing")
    doubts = list(_nrrd_doubts(fields, name))
    is_colour = _nrrd_axes(fields, name)
    units = re.findall(r'"[^"]*"', fields.get("space units", fields.get("units", "")))
    key = "space units" if "space units" in fields else "units"
    along = _kinds(fields)
    if key == "units" and len(along) == len(units):  # only the units of axes of space count
        units = [unit for unit, kind in zip(units, along, strict=True) if kind in DOMAIN]
    to_mm = _length_unit(units[:3], name, key)
    return HeaderFacts(
        to_mm, "", is_colour, tuple(_nrrd_files(fields, rest, path, name)), tuple(doubts)
    )


def _nrrd_doubts(fields: dict[str, str], name: str) -> Iterator[str]:
    space = fields.get("space", "").lower()
    if not ANATOMICAL.fullmatch(space):
        found = f"space {printable(space)}" if space else "no space"
        yield f"{found}: left and right are not certain, LPS is assumed"
    if "old min" in fields or "old max" in fields:
        yield "values are quantized ('old min', 'old max'), and count as they are stored"
    if "space directions" not in fields and "axis maxs" in fields and "spacings" not in fields:
        raise ScanError(f"{name}: 'axis maxs' without 'spacings' is not read")
    if "space directions" not in fields and "nan" in fields.get("spacings", "").lower():
        yield "spacings that are NaN count as 1 mm"


def _kinds(fields: dict[str, str]) -> list[str]:
    return fields.get("kinds", "").lower().split()


def _nrrd_axes(fields: dict[str, str], name: str) -> bool | None:
    """Whether components are colours; None if no axis is declared to be of components.

    Raises:
        ScanError: one of the first three axes of the grid is not an axis of space.
    """
    kinds = _kinds(fields)
    components = [kind for kind in kinds if kind not in DOMAIN and kind != ALONG_OTHERS]
    if components:
        kinds.remove(components[0])  # ITK turns this axis into components, at any place
    for kind in kinds[:3]:
        if kind not in DOMAIN:
            raise ScanError(
                f"{name}: 'kinds' should begin with up to three axes of space (domain or space) "
                f"beside one of components, found {printable(fields['kinds'])}"
            )
    if "none" in fields.get("space directions", "").lower() and not components:
        raise ScanError(
            f"{name}: an axis has no direction ('space directions: none'), 'kinds' should say "
            "what it is"
        )
    if components and components[0] in NO_COLOURS:
        raise ScanError(f"{name}: colours of kind {components[0]} are not read, expected RGB-color")
    return components[0] in COLOURS if components else None


def _nrrd_files(fields: dict[str, str], listed: list[str], path: Path, name: str) -> Iterator[Path]:
    """The files of the data; a pattern is left to SimpleITK."""
    data_file = fields.get("data file", "")
    for one in listed or ([data_file] if data_file and "%" not in data_file else []):
        if not (path.parent / one).is_file():
            raise ScanError(f"{name}: its data file {printable(one)} is not there")
        yield path.parent / one


# --- MetaImage


def _meta(content: bytes, path: Path, name: str) -> HeaderFacts:
    fields: dict[str, str] = {}
    place, is_whole = 0, False
    while not is_whole and place < len(content):
        end = content.find(b"\n", place)
        end = len(content) if end < 0 else end
        key, separator, value = content[place:end].decode("latin-1").partition("=")
        place = end + 1
        if not separator:
            if key.strip():
                break
            continue
        key = key.strip()
        if key in fields:
            raise _broken(name, f"'{printable(key)}' is there twice")
        fields[key] = value.strip()
        is_whole = key == "ElementDataFile"
    for key in ("NDims", "DimSize", "ElementType", "ElementDataFile"):
        if key not in fields:
            raise _broken(name, f"key '{key}' is missing")
    axes = int(fields["NDims"]) if re.fullmatch("[1-9]", fields["NDims"]) else 0
    for key in META_NUMBERS:
        if key in fields:
            count = axes * axes if key in META_MATRICES else axes
            _require_numbers(fields[key], key, name, count or None)
    for key in META_FLAGS:
        if fields.get(key, "True").lower() not in ("true", "false", "1", "0"):
            raise _broken(name, f"{key} should be True or False, found {_start_of(fields[key])}")
    if fields.get("ObjectType", "Image") != "Image":
        raise _broken(name, f"ObjectType should be Image, found {printable(fields['ObjectType'])}")
    if fields.get("BinaryData", "True").lower() == "false":
        raise _broken(name, "BinaryData should be True: numbers as text are not read")
    try:
        slope = float(fields.get("ElementToIntensityFunctionSlope", "1"))
        offset = float(fields.get("ElementToIntensityFunctionOffset", "0"))
    except ValueError:
        slope = math.nan
    if (slope, offset) != (1, 0):
        raise ScanError(
            f"{name}: ElementToIntensityFunctionSlope and -Offset are not read, expected 1 and 0"
        )
    listed = content[place:].decode("latin-1").splitlines()
    files, doubts = _meta_data(fields, listed, path, place, name)
    doubts += _meta_orientation(fields)
    to_mm = _length_unit([fields.get("DistanceUnits", "")], name, "DistanceUnits")
    modality = META_MODALITIES.get(fields.get("Modality", ""), "")
    return HeaderFacts(to_mm, modality, None, tuple(files), tuple(doubts))


def _meta_orientation(fields: dict[str, str]) -> list[str]:
    """A warning if the letters give other directions than the matrix; [] otherwise.

    A letter names the side where an axis begins: the axes of LPS are RAI.
    """
    keys = ("TransformMatrix", "Rotation", "Orientation")
    matrix = next((fields[key] for key in keys if key in fields), "1 0 0 0 1 0 0 0 1")
    letters = fields.get("AnatomicalOrientation", "")
    try:
        numbers = [float(number) for number in matrix.split()]
    except ValueError:
        return []
    if len(numbers) != 9 or not re.fullmatch("[RLAPIS]{3}", letters):
        return []
    found = ""
    for axis in range(3):
        direction = numbers[3 * axis : 3 * axis + 3]
        longest = max(range(3), key=lambda world: abs(direction[world]))
        found += ("RL", "AP", "IS")[longest][direction[longest] < 0]
    if found == letters:
        return []
    return [f"AnatomicalOrientation says {letters}, the matrix {found}, which counts"]


def _meta_data(
    fields: dict[str, str], listed: list[str], path: Path, place: int, name: str
) -> tuple[list[Path], list[str]]:
    """The files of the data, and warnings. MetaIO itself ignores some files that are too short."""
    sizes = [int(size) for size in fields["DimSize"].split() if re.fullmatch("[0-9]{1,9}", size)]
    if str(len(sizes)) != fields["NDims"] or 0 in sizes:
        raise _broken(name, f"DimSize should be {printable(fields['NDims'])} sizes of 1 or more, "
                      f"found {printable(fields['DimSize'])}")  # fmt: skip
    kind = fields["ElementType"].removeprefix("MET_").removesuffix("_ARRAY")
    if kind not in META_BYTES:
        raise _broken(name, f"ElementType {printable(fields['ElementType'])} is not read")
    channels = fields.get("ElementNumberOfChannels", "1")
    if not re.fullmatch("[1-9][0-9]{0,5}", channels):
        raise _broken(name, f"ElementNumberOfChannels should be 1 or more, found "
                      f"{printable(channels)}")  # fmt: skip
    expected = math.prod(sizes) * META_BYTES[kind] * int(channels)
    is_packed = fields.get("CompressedData", "False").lower() in ("true", "1")
    where = fields["ElementDataFile"]
    words = where.split()
    if words[:1] in (["LIST"], ["list"]) or "%" in where:
        if is_packed:
            raise _broken(name, "CompressedData is not read of several files")
        files = _meta_list(words, listed, sizes, path, name)
        return files, []
    is_local = where.upper() == "LOCAL"
    data = path if is_local else path.parent / where
    if not data.is_file():
        raise ScanError(f"{name}: its data file {_start_of(where)} is not there")
    files = [] if is_local else [data]
    start = place if is_local else max(0, _whole(fields.get("HeaderSize", "0"), name))
    if is_packed:
        _check_packed(data, start, expected, fields.get("CompressedDataSize", ""), name)
        return files, []
    found = data.stat().st_size - start
    if found < expected:
        raise _broken(name, f"expected {expected} bytes of voxels, found {found}")
    if found > expected and fields.get("HeaderSize", "0") != "-1":
        return files, [f"{found - expected} bytes after its voxels, by DimSize and HeaderSize, are "
                       "not used"]  # fmt: skip
    return files, []


def _whole(text: str, name: str) -> int:
    if not re.fullmatch("-?[0-9]{1,9}", text):
        raise _broken(name, f"HeaderSize should be a number, found {printable(text)}")
    return int(text)


def _meta_list(
    words: list[str], listed: list[str], sizes: list[int], path: Path, name: str
) -> list[Path]:
    """The files of a list, or of a pattern with a first number, a last number and a step."""
    axes = len(sizes) - 1
    if "%" in words[0]:
        numbers = [_whole(word, name) for word in words[1:4]]
        if len(numbers) != 3 or numbers[2] == 0:
            raise _broken(name, "a pattern of files should have a first and last number and a step")
        first, last, step = numbers
        try:
            found = [words[0] % number for number in range(first, last + 1, step)]
        except (TypeError, ValueError):
            raise _broken(name, f"{printable(words[0])} is no pattern of files") from None
    else:
        found = [line.strip() for line in listed if line.strip()]
        if len(words) > 1:  # LIST 2D: the number of axes of each file
            axes = _whole(words[1].upper().removesuffix("D"), name)
    expected = math.prod(sizes[axes:])
    if len(found) != expected:
        raise _broken(name, f"expected {expected} data files, found {len(found)} named")
    for one in found:
        if not (path.parent / one).is_file():
            raise ScanError(f"{name}: its data file {printable(one)} is not there")
    return [path.parent / one for one in found]


def _check_packed(data: Path, start: int, expected: int, size: str, name: str) -> None:
    """Unpack compressed data once, without keeping them, since MetaIO ignores errors.

    Raises:
        ScanError: the data are damaged, or have not the expected size.
    """
    if not re.fullmatch("[1-9][0-9]{0,15}", size):
        raise _broken(name, f"CompressedDataSize should be a number of bytes, found '{size}'")
    left, found = int(size), 0
    unpacker = zlib.decompressobj(wbits=47)  # zlib or gzip
    try:
        with data.open("rb") as stream:
            stream.seek(start)
            while left > 0 and (piece := stream.read(min(left, PIECE_BYTES))):
                left -= len(piece)
                while piece and found <= expected:
                    found += len(unpacker.decompress(piece, PIECE_BYTES))
                    piece = unpacker.unconsumed_tail
    except zlib.error as error:
        raise _broken(name, "its compressed data are damaged") from error
    if found != expected or not unpacker.eof:
        raise _broken(name, f"expected {expected} bytes of unpacked voxels, found {found}")

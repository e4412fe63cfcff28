"""NRRD and MetaImage, key by key: what they declare is used, refused, or warned of."""

import gzip
import zlib

import numpy as np
import pytest
import SimpleITK as sitk

from swiftmedsam.scans.formats.by_suffix import read_scan
from swiftmedsam.scans.scan import ScanError

GRID = (5, 4, 3)
VOXELS = np.arange(60, dtype=np.int16).reshape(GRID, order="F")
RAW = VOXELS.tobytes("F")
BYTES = bytes(range(120))
NRRD = "type: short\ndimension: 3\nsizes: 5 4 3\nencoding: raw\nendian: little\n"
LPS = "space: LPS\nspace directions: (1,0,0) (0,2,0) (0,0,3)\nspace origin: (1,2,3)\n"
FOUR = "type: uchar\ndimension: 4\nsizes: 3 5 4 2\nencoding: raw\n"
META = "ObjectType = Image\nNDims = 3\nDimSize = 5 4 3\n"
LOCAL = "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
NO_SPACE = "no space: left and right are not certain, LPS is assumed"


def nrrd(path, header, data=RAW):
    path.write_bytes(f"NRRD0005\n{header}\n".encode() + data)
    return path


def meta(path, header, data=RAW):
    path.write_bytes(header.encode() + data)
    return path


def warned(caplog):
    return [message.partition(": ")[2] for message in caplog.messages]


# --- NRRD

SAME = [
    (NRRD.replace("raw", "gzip"), gzip.compress(RAW)),
    (NRRD.replace("raw", "gzip"), gzip.compress(RAW + b"more")),
    (NRRD.replace("raw", "hex"), RAW.hex().encode()),
    (NRRD.replace("raw", "ascii"), " ".join(map(str, VOXELS.ravel("F"))).encode()),
    (NRRD.replace("little", "big"), VOXELS.astype(">i2").tobytes("F")),
    (NRRD + "line skip: 1\n", b"junk\n" + RAW),
    (NRRD + "byte skip: 7\n", b"1234567" + RAW),
    (NRRD + "byte skip: -1\n", b"1234567" + RAW),
    (NRRD + "kinds: domain domain space\nthicknesses: 1 2 3\ncontent: x\nmodality:=CT\n", RAW),
    (NRRD + "# a comment\nnumber: 60\n", RAW),
]


@pytest.mark.parametrize(("header", "data"), SAME)
def test_however_a_nrrd_stores_them_voxels_are_the_same(header, data, tmp_path):
    scan = read_scan(nrrd(tmp_path / "a.nrrd", header + LPS, data))
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    np.testing.assert_allclose(scan.affine[:3], [[-1, 0, 0, -1], [0, -2, 0, -2], [0, 0, 3, 3]])
    path = nrrd(tmp_path / "b.nrrd", header + LPS + "measurement frame: (0,1,0) (1,0,0) (0,0,1)\n",
                data)  # fmt: skip
    np.testing.assert_array_equal(read_scan(path).voxels, VOXELS)


KINDS = [  # header, data, volumes or colour
    (FOUR + "kinds: 3-color domain domain domain\n", BYTES, "colour"),
    (FOUR + "kinds: RGB-color domain domain domain\n", BYTES, "colour"),
    (FOUR + "kinds: vector domain domain domain\n", BYTES, 3),
    (FOUR + "kinds: list domain domain domain\n", BYTES, 3),
    (FOUR.replace("3 5 4 2", "5 4 2 3") + "kinds: domain domain domain RGB-color\n", BYTES,
     "colour"),
    (FOUR.replace("3 5 4 2", "5 4 2 3") + "kinds: domain domain domain vector\n", BYTES, 3),
    (FOUR.replace("3 5 4 2", "5 4 2 3") + "kinds: domain domain domain time\n", BYTES, 3),
    (FOUR.replace("uchar", "ushort").replace("raw", "raw\nendian: little").replace("5 4 2", "5 2 2")
     + "kinds: RGB-color domain domain domain\n", BYTES, "colour"),
]  # fmt: skip


@pytest.mark.parametrize(("header", "data", "expected"), KINDS)
def test_kinds_say_whether_components_are_colours_or_volumes(header, data, expected, tmp_path):
    path = nrrd(tmp_path / "a.nrrd", header, data)
    dtype = np.dtype("u2" if "ushort" in header else "u1")
    sizes = [int(one) for one in header.partition("sizes: ")[2].partition("\n")[0].split()]
    stored = np.frombuffer(data, dtype).reshape(sizes, order="F")
    last = np.moveaxis(stored, 0, -1) if sizes[0] == 3 else stored
    if expected == "colour":
        np.testing.assert_array_equal(read_scan(path).voxels, last)
        return
    with pytest.raises(ScanError, match=f"^a.nrrd: has {expected} volumes"):
        read_scan(path)
    for volume in range(expected):
        np.testing.assert_array_equal(read_scan(path, volume).voxels, last[..., volume])


NRRD_REFUSED = [
    (NRRD + "kinds: time domain domain\n", RAW, "'kinds' should begin with up to three axes of sp"),
    (NRRD + "kinds: domain domain time\n", RAW, "'kinds' should begin with up to three axes of sp"),
    (FOUR + "kinds: list domain domain list\n", BYTES, "'kinds' should begin with up to three axe"),
    (FOUR + "kinds: HSV-color domain domain domain\n", BYTES, "colours of kind hsv-color are not"),
    ("type: float\ndimension: 3\nsizes: 2 5 4\nencoding: raw\nendian: little\n"
     "kinds: complex domain domain\n", bytes(160), "voxels should be real numbers, found comple"),
    (FOUR + "space: LPS\nspace directions: none (1,0,0) (0,1,0) (0,0,1)\n", BYTES,
     "an axis has no direction"),
    (NRRD.replace("raw", "bzip2"), RAW, "not a readable file of its kind (encoding bzip2 is not r"),
    (NRRD.replace("short", "block"), RAW, "not a readable file of its kind (type block is not rea"),
    (NRRD.replace("endian: little\n", ""), RAW, "not a readable file of its kind ('endian' is mis"),
    (NRRD.replace("type: short\n", ""), RAW, "not a readable file of its kind ('type' is missing)"),
    (NRRD + "sizes: 4 5 3\n", RAW, "not a readable file of its kind ('sizes' is there twice)"),
    (NRRD + LPS.replace("LPS", "right-posterior-superior"), RAW, "not a readable file of its kind"),
    (NRRD + LPS.replace("(0,2,0)", "(1,0,0)"), RAW, "the affine should have an inverse"),
    (NRRD + LPS.replace("(1,2,3)", "(nan,2,3)"), RAW,
     "not a readable file of its kind ('space origin' should be numbers, found (nan,2,3))"),
    (NRRD + LPS.replace("(0,2,0)", "(0,2x,0)"), RAW,
     "not a readable file of its kind ('space directions' should be numbers"),
    (NRRD.replace("5 4 3", "5 4e0 3"), RAW,
     "not a readable file of its kind ('sizes' should be whole numbers, found 5 4e0 3)"),
    (NRRD + "axis mins: 0 0 0\naxis maxs: 10 8 6\n", RAW, "'axis maxs' without 'spacings' is not"),
    (NRRD + LPS + 'space units: "mm" "mm" "s"\n', RAW, "'space units' should be one unit of len"),
    (NRRD, RAW[:-2], "not a readable file of its kind (its data is damaged, cut short"),
    (NRRD.replace("raw", "gzip"), gzip.compress(RAW[:-2]), "not a readable file of its kind (its"),
    (NRRD.replace("raw", "gzip"), gzip.compress(RAW)[:-12], "not a readable file of its kind (its"),
    (NRRD.replace("raw", "ascii"), b"1 2 3", "not a readable file of its kind (its data is"),
    (NRRD + "data file: nowhere.raw\n", b"", "its data file nowhere.raw is not there"),
    (NRRD + "data file: LIST\nb.raw\nc.raw\n", b"", "its data file b.raw is not there"),
]  # fmt: skip


@pytest.mark.parametrize(("header", "data", "reason"), NRRD_REFUSED,
                         ids=[reason[-30:] for *_, reason in NRRD_REFUSED])  # fmt: skip
def test_a_nrrd_that_cannot_be_used_is_refused_in_our_words(header, data, reason, tmp_path, capfd):
    with pytest.raises(ScanError) as raised:
        read_scan(nrrd(tmp_path / "a.nrrd", header, data))
    text = str(raised.value)
    assert text.startswith(f"a.nrrd: {reason}")
    assert not any(word in text for word in ("\n", "itk", "0x", "nrrd]", str(tmp_path)))
    assert capfd.readouterr() == ("", "")


NRRD_WARNED = [
    (NRRD + "spacings: 1 2 3\n", [NO_SPACE]),
    (NRRD + LPS.replace("space: LPS", "space: scanner-xyz"), ["space scanner-xyz: left and right "
     "are not certain, LPS is assumed"]),
    (NRRD + LPS + "old min: -1000\nold max: 3000\n",
     ["values are quantized ('old min', 'old max'), and count as they are stored"]),
    (NRRD + "spacings: 1 NaN 3\n", [NO_SPACE, "spacings that are NaN count as 1 mm"]),
]  # fmt: skip


@pytest.mark.parametrize(("header", "messages"), NRRD_WARNED)
def test_what_is_doubtful_in_a_nrrd_is_said(header, messages, tmp_path, caplog):
    scan = read_scan(nrrd(tmp_path / "a.nrrd", header))
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    assert warned(caplog) == messages


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("um", 0.001), ("cm", 10), ("m", 1000)])
def test_units_of_length_become_millimetres(unit, factor, tmp_path):
    units = f'space units: "{unit}" "{unit}" "{unit}"\n'
    scan = read_scan(nrrd(tmp_path / "a.nrrd", NRRD + LPS + units))
    expected = np.array([[-1, 0, 0, -1], [0, -2, 0, -2], [0, 0, 3, 3]]) * factor
    np.testing.assert_allclose(scan.affine[:3], expected)
    if unit != "m":
        scan = read_scan(meta(tmp_path / "a.mha", META + f"DistanceUnits = {unit}\n" + LOCAL))
        np.testing.assert_allclose(scan.spacing_mm, [factor] * 3)


@pytest.mark.parametrize(("space", "signs"), [("RAS", (1, 1)), ("LAS", (-1, 1)), ("LPS", (-1, -1)),
                         ("left-posterior-superior", (-1, -1))])  # fmt: skip
def test_anatomical_spaces_of_nrrd_are_those_of_simpleitk(space, signs, tmp_path, caplog):
    path = nrrd(tmp_path / "a.nrrd", NRRD + LPS.replace("LPS", space))
    scan = read_scan(path)
    right, front = signs
    np.testing.assert_allclose(scan.affine[:3, 3], [right * 1, front * 2, 3])
    image = sitk.ReadImage(str(path))
    np.testing.assert_allclose(image.GetOrigin(), scan.affine[:3, 3] * [-1, -1, 1])
    assert caplog.messages == []


# --- MetaImage

PACKED = zlib.compress(RAW)
SHORT = zlib.compress(RAW[:60])
META_REFUSED = [
    (META + "ElementToIntensityFunctionSlope = 2\n" + LOCAL, RAW,
     "ElementToIntensityFunctionSlope and -Offset are not read, expected 1 and 0"),
    (META + f"CompressedData = True\nCompressedDataSize = {len(PACKED)}\n" + LOCAL,
     PACKED[:-1] + b"x", "not a readable file of its kind (its compressed data are damaged)"),
    (META + f"CompressedData = True\nCompressedDataSize = {len(PACKED)}\n" + LOCAL, PACKED[:-20],
     "not a readable file of its kind (expected 120 bytes of unpacked voxels, found"),
    (META + f"CompressedData = True\nCompressedDataSize = {len(SHORT)}\n" + LOCAL, SHORT,
     "not a readable file of its kind (expected 120 bytes of unpacked voxels, found 60)"),
    (META + "CompressedData = True\n" + LOCAL, PACKED,
     "not a readable file of its kind (CompressedDataSize should be a number of bytes, found ''"),
    (META + LOCAL, RAW[:-2],
     "not a readable file of its kind (expected 120 bytes of voxels, found 118)"),
    (META + "BinaryData = False\n" + LOCAL, b"1 2 3",
     "not a readable file of its kind (BinaryData should be True"),
    (META + LOCAL.replace("LOCAL", "nowhere.raw"), b"", "its data file nowhere.raw is not there"),
    (META + LOCAL.replace("LOCAL", "LIST\n0.raw\n1.raw"), b"",
     "not a readable file of its kind (expected 3 data files, found 2 named)"),
    (META + LOCAL.replace("LOCAL", "LIST\n0.raw\n1.raw\n9.raw"), b"",
     "its data file 9.raw is not there"),
    (META + LOCAL.replace("LOCAL", "%d.raw 0 3 1"), b"",
     "not a readable file of its kind (expected 3 data files, found 4 named)"),
    (META.replace("Image", "Tube") + LOCAL, RAW,
     "not a readable file of its kind (ObjectType should be Image, found Tube)"),
    (META + "DimSize = 4 5 3\n" + LOCAL, RAW,
     "not a readable file of its kind ('DimSize' is there twice)"),
    (META.replace("5 4 3", "5 4") + LOCAL, RAW,
     "not a readable file of its kind (DimSize should be 3 sizes of 1 or more, found 5 4)"),
    (META + "ElementDataFile = LOCAL\n", RAW,
     "not a readable file of its kind (key 'ElementType' is missing)"),
    (META + LOCAL.replace("MET_SHORT", "MET_STRING"), RAW,
     "not a readable file of its kind (ElementType MET_STRING is not read)"),
    (META + "Offset = 1 left 3\n" + LOCAL, RAW,
     "not a readable file of its kind ('Offset' should be numbers, found 1 left 3)"),
    (META + "Offset = 1 -inf 3\n" + LOCAL, RAW,
     "not a readable file of its kind ('Offset' should be numbers, found 1 -inf 3)"),
    (META + "Offset = 1\n" + LOCAL, RAW,
     "not a readable file of its kind ('Offset' should be numbers, found 1)"),
    (META + "BinaryDataByteOrderMSB = 12\n" + LOCAL, RAW,
     "not a readable file of its kind (BinaryDataByteOrderMSB should be True or False, found 12)"),
    (META + "ElementSpacing =\n" + LOCAL, RAW,
     "not a readable file of its kind ('ElementSpacing' should be numbers, found none)"),
    (META + "ElementSpacing = 0 1 1\n" + LOCAL, RAW, "the affine should have an inverse"),
    (META + "TransformMatrix = 1 0 0 1 0 0 0 0 1\n" + LOCAL, RAW,
     "the affine should have an inverse"),
    (META + "ElementNumberOfChannels = 0\n" + LOCAL, RAW,
     "not a readable file of its kind (ElementNumberOfChannels should be 1 or more, found 0)"),
]  # fmt: skip


@pytest.mark.parametrize(("header", "data", "reason"), META_REFUSED,
                         ids=[reason[-30:] for *_, reason in META_REFUSED])  # fmt: skip
def test_a_metaimage_that_cannot_be_used_is_refused(header, data, reason, tmp_path, capfd):
    """MetaIO itself reads memory that nobody wrote for compressed data that it cannot unpack."""
    for number in range(3):
        (tmp_path / f"{number}.raw").write_bytes(VOXELS[:, :, number].tobytes("F"))
    with pytest.raises(ScanError) as raised:
        read_scan(meta(tmp_path / "a.mhd", header, data))
    assert str(raised.value).startswith(f"a.mhd: {reason}")
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


META_SAME = [
    (META + LOCAL, RAW),
    (META + f"CompressedData = True\nCompressedDataSize = {len(PACKED)}\n" + LOCAL, PACKED),
    (META + "BinaryDataByteOrderMSB = True\n" + LOCAL, VOXELS.astype(">i2").tobytes("F")),
    (META + "ElementByteOrderMSB = True\n" + LOCAL, VOXELS.astype(">i2").tobytes("F")),
    (META + "HeaderSize = 8\n" + LOCAL.replace("LOCAL", "d.raw"), b""),
    (META + "HeaderSize = -1\n" + LOCAL.replace("LOCAL", "d.raw"), b""),
    (META + LOCAL.replace("LOCAL", "%d.raw 0 2 1"), b""),
    (META + LOCAL.replace("LOCAL", "LIST\n0.raw\n1.raw\n2.raw"), b""),
    (META + "ElementMin = 0\nElementMax = 1\nComment = x\n" + LOCAL, RAW),
]  # fmt: skip


@pytest.mark.parametrize(("header", "data"), META_SAME)
def test_however_a_metaimage_stores_them_voxels_are_the_same(header, data, tmp_path, caplog):
    (tmp_path / "d.raw").write_bytes(b"HEADERxx" + RAW)
    for number in range(3):
        (tmp_path / f"{number}.raw").write_bytes(VOXELS[:, :, number].tobytes("F"))
    scan = read_scan(meta(tmp_path / "a.mhd", header, data))
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    names = ["d.raw"] if "= d.raw" in header else []
    names = ["0.raw", "1.raw", "2.raw"] if "%d" in header or "LIST" in header else names
    assert [one.name for one in scan.files] == names  # that no output may replace
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("key", "messages"),
    [
        ("AnatomicalOrientation = RAI\n", []),
        ("AnatomicalOrientation = ???\n", []),
        ("AnatomicalOrientation = LPI\n",
         ["AnatomicalOrientation says LPI, the matrix RAI, which counts"]),
        ("TransformMatrix = -1 0 0 0 -1 0 0 0 1\nAnatomicalOrientation = LPI\n", []),
        ("HeaderSize = 0\n", []),
    ],
)  # fmt: skip
def test_letters_that_contradict_the_matrix_are_said(key, messages, tmp_path, caplog):
    read_scan(meta(tmp_path / "a.mha", META + key + LOCAL))
    assert warned(caplog) == messages


def test_bytes_after_the_voxels_are_said_and_the_modality_is_used(tmp_path, caplog):
    header = META + "Modality = MET_MOD_CT\n" + LOCAL
    scan = read_scan(meta(tmp_path / "a.mha", header, RAW + b"12"))
    assert scan.modality == "CT"
    assert warned(caplog) == ["2 bytes after its voxels, by DimSize and HeaderSize, are not used"]

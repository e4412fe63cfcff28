"""TIFF, tag by tag: what it declares of its pixels is used, or refused in one line."""

import json
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from swiftmedsam.scans.formats.by_suffix import read_scan
from swiftmedsam.scans.scan import ScanError, grey
from tests.helpers.tiff import PALETTE, RGB, WHITE, tiff_page, write_tiff

HEIGHT, WIDTH = 37, 50
PAGE = (np.add.outer(np.arange(HEIGHT), 2 * np.arange(WIDTH)) % 120 + 20).astype(np.uint8)
COLOUR = np.stack([PAGE, PAGE + 20, PAGE + 40], axis=-1)
ALPHA = (PAGE // 2)[..., np.newaxis]


def shown(path, **options):
    """(H, W[, 3]) of the only page, as it is read."""
    return read_scan(path, **options).voxels[:, :, 0].swapaxes(0, 1)


# --- what is read

TYPES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")


@pytest.mark.parametrize("layout", [{}, {"rows": 7}, {"tile": (16, 32)}])
@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True), (">", True)])
@pytest.mark.parametrize("dtype", TYPES)
def test_samples_as_they_are_stored_keep_their_values(dtype, order, big, layout, tmp_path):
    pixels = PAGE.astype(dtype)
    path = write_tiff(tmp_path / "a.tif", tiff_page(pixels, order=order, **layout), order=order,
                      big=big)  # fmt: skip
    found = shown(path)
    assert found.dtype == pixels.dtype
    np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize("layout", [{}, {"rows": 7}, {"tile": (16, 32)}])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_planes_apart_are_the_same_colours_as_samples_side_by_side(dtype, apart, layout, tmp_path):
    pixels = COLOUR.astype(dtype) * 100
    path = write_tiff(tmp_path / "a.tif", tiff_page(pixels, RGB, planes_apart=apart, **layout))
    found = shown(path)
    assert found.dtype == pixels.dtype
    np.testing.assert_array_equal(found, pixels)
    stack = write_tiff(tmp_path / "b.tif",
                       *[tiff_page(pixels, RGB, planes_apart=apart, **layout)] * 3)  # fmt: skip
    np.testing.assert_array_equal(read_scan(stack).voxels, np.stack([grey(pixels)] * 3).T)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4"])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("pages", [1, 3])
def test_where_white_is_zero_values_are_turned_at_every_depth(pages, deflate, dtype, tmp_path):
    if deflate and dtype == "u4":
        pytest.skip("refused")
    pixels = PAGE.astype(dtype) * 100 if dtype != "u1" else PAGE
    stored = np.iinfo(pixels.dtype).max - pixels
    path = write_tiff(tmp_path / "a.tif", *[tiff_page(stored, WHITE, deflate=deflate)] * pages)
    np.testing.assert_array_equal(read_scan(path).voxels, np.stack([pixels] * pages).T)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "group3",
                                         "group4", None])  # fmt: skip
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "1", "P", "CMYK", "YCbCr", "I;16"])
def test_what_pillow_writes_is_read_as_pillow_reads_it(mode, compression, tmp_path):
    if (compression or "").startswith("group") and mode != "1":
        pytest.skip("for bits")
    image = (Image.fromarray(PAGE.astype(np.uint16) * 300) if mode == "I;16"
             else Image.fromarray(COLOUR).convert(mode))  # fmt: skip
    if mode == "CMYK" and compression is None:
        image = Image.fromarray(np.concatenate([COLOUR, ALPHA], axis=-1), "CMYK")
    path = tmp_path / "a.tif"
    image.save(path, compression=compression)
    with Image.open(path) as stored:
        expected = np.asarray(stored.convert("RGB" if mode in ("P", "RGBA", "CMYK", "YCbCr")
                              else "L" if mode == "1" else mode))  # fmt: skip
    found = shown(path)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    # formulas of CMYK and YCbCr, and palettes of 16 bits, round differently
    far = 3 if mode in ("CMYK", "YCbCr", "P") else 0
    np.testing.assert_allclose(found.astype(int), expected.astype(int), atol=far)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("layout", [{}, {"tile": (16, 16)}, {"deflate": True},
                                    {"deflate": True, "tile": (16, 16)}])  # fmt: skip
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_a_page_is_turned_as_its_orientation_says(dtype, layout, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = Image.fromarray(PAGE)
    upright.info["exif"] = exif.tobytes()
    upright.getexif()[0x0112] = orientation
    path = write_tiff(
        tmp_path / "a.tif", tiff_page(PAGE.astype(dtype), orientation=orientation, **layout)
    )
    np.testing.assert_array_equal(shown(path), np.asarray(ImageOps.exif_transpose(upright)))


@pytest.mark.parametrize(("deflate", "dtype"), [(False, "u1"), (False, "u2"), (True, "u1")])
@pytest.mark.parametrize("extra", [0, 1, 2])
def test_colours_are_as_stored_beside_alpha_of_every_kind(extra, deflate, dtype, tmp_path, caplog):
    pixels = np.concatenate([COLOUR, ALPHA], axis=-1).astype(dtype)
    path = write_tiff(tmp_path / "a.tif", tiff_page(pixels, RGB, extra=extra, deflate=deflate))
    np.testing.assert_array_equal(shown(path), COLOUR)
    assert caplog.messages == ["a.tif: alpha is not used, colours count as they are stored"]
    if extra:
        both = np.concatenate([PAGE[..., np.newaxis], ALPHA], axis=-1).astype(dtype)
        path = write_tiff(tmp_path / "b.tif", tiff_page(both, extra=extra, deflate=deflate))
        np.testing.assert_array_equal(shown(path), PAGE)
        assert shown(path).dtype == dtype


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("deflate", [False, True])
def test_a_palette_is_colours_of_its_upper_8_bits(deflate, dtype, tmp_path):
    entries = 1 << 8 * np.dtype(dtype).itemsize
    colours = np.random.default_rng(1).integers(0, 65536, (3, entries))
    page = tiff_page(PAGE.astype(dtype), PALETTE, deflate=deflate, colours=colours.ravel().tolist())
    path = write_tiff(tmp_path / "a.tif", page)
    np.testing.assert_array_equal(shown(path), (colours >> 8).T[PAGE])


def test_a_predictor_is_undone(tmp_path):
    path = write_tiff(tmp_path / "a.tif", tiff_page(PAGE, deflate=True, predictor=2))
    np.testing.assert_array_equal(shown(path), PAGE)


# --- what is refused

FIVE = np.stack([PAGE] * 5, axis=-1)
REFUSED = [
    (tiff_page(FIVE), "5 samples a pixel are not read with PhotometricInterpretation 1"),
    (tiff_page(COLOUR), "3 samples a pixel are not read with PhotometricInterpretation 1"),
    (tiff_page(FIVE, RGB), "5 samples a pixel are not read with PhotometricInterpretation 2"),
    (tiff_page(PAGE, coding=50000), r"Compression 50000 \(ZSTD\) is not read"),
    (tiff_page(PAGE, coding=34925), r"Compression 34925 \(LZMA\) is not read"),
    (tiff_page(PAGE, coding=34712), r"Compression 34712 \(JPEG 2000\) is not read"),
    (tiff_page(PAGE, coding=6), r"Compression 6 \(old JPEG\) is not read"),
    (tiff_page(PAGE.astype("u4"), deflate=True), "samples of 32 bits, unsigned, are not read"),
    (tiff_page(PAGE.astype("f2"), deflate=True), "samples of 16 bits, floating-point, are not"),
    (tiff_page(PAGE.astype("i2"), WHITE), r"PhotometricInterpretation 0 \(white is zero\)"),
    (tiff_page(PAGE.astype("f4"), WHITE), r"PhotometricInterpretation 0 \(white is zero\)"),
    (tiff_page(PAGE, 4), "PhotometricInterpretation 4 is not read"),
    (tiff_page(COLOUR, 8), "PhotometricInterpretation 8 is not read"),
    (tiff_page(PAGE, 32803), "PhotometricInterpretation 32803 is not read"),
    (tiff_page(PAGE, PALETTE), "a palette should have a ColorMap of 768 values, found 0"),
    (tiff_page(COLOUR.astype("u2"), RGB, planes_apart=True, deflate=True),
     "compressed samples of more than 8 bits are not read where planes are stored apart"),
    (tiff_page(PAGE, orientation=9), "Orientation should be one of 1..8, found 9"),
    (tiff_page(PAGE, fill_order=2), "FillOrder 2 is not read for samples of 8 bits"),
    (tiff_page(PAGE, depth=3), "ImageDepth 3 is not read, expected one page per slice"),
    (tiff_page(PAGE, stack=[1, 1]), "stacks of MetaMorph are not read"),
    (tiff_page(PAGE, format=5), "samples of 8 bits, SampleFormat 5, are not read"),
    (tiff_page(PAGE, deflate=True, predicted=3), "Predictor 3 is not read for these samples"),
    (tiff_page(COLOUR, RGB, format=[1, 1, 3]), "SampleFormat should be the same for all"),
]  # fmt: skip


@pytest.mark.parametrize(("page", "reason"), REFUSED, ids=[reason[:40] for _, reason in REFUSED])
def test_what_is_not_decoded_right_is_refused_in_one_line(page, reason, tmp_path, capfd):
    with pytest.raises(ScanError, match=f"^a.tif: {reason}") as raised:
        read_scan(write_tiff(tmp_path / "a.tif", page))
    assert "\n" not in str(raised.value)
    with pytest.raises(ScanError, match=f"^b.tif: page 1: {reason}"):
        read_scan(write_tiff(tmp_path / "b.tif", tiff_page(PAGE), page))
    assert capfd.readouterr() == ("", "")


def test_places_of_strips_that_are_text_are_refused(tmp_path):
    """Their bytes are not numbers: read so, the pixels would be any bytes of the file."""
    path = write_tiff(tmp_path / "a.tif", tiff_page(PAGE))
    content = path.read_bytes()
    places = struct.pack("<HH", 273, 4)
    assert content.count(places) == 1
    path.write_bytes(content.replace(places, struct.pack("<HH", 273, 2)))
    with pytest.raises(ScanError, match=r"^a.tif: expected 1 strips or tiles, found 0 offsets"):
        read_scan(path)


def test_a_message_has_the_first_of_many_values(tmp_path):
    page = tiff_page(PAGE, format=[1, 2] * 9)
    with pytest.raises(ScanError, match=r"found 1, 2, 1, 2, 1, 2, 1, 2, \.\.\.$"):
        read_scan(write_tiff(tmp_path / "a.tif", page))


def test_pages_of_different_kinds_are_refused(tmp_path):
    path = write_tiff(tmp_path / "a.tif", tiff_page(PAGE), tiff_page(PAGE.astype("u2")))
    with pytest.raises(ScanError, match=r"^a.tif: pages should be of one kind"):
        read_scan(path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kept", [0.3, 0.6])
def test_strips_beyond_the_end_of_the_file_are_refused(kept, packed, tmp_path, capfd):
    noise = np.random.default_rng(1).integers(0, 256, (60, 60), np.uint8)
    path = write_tiff(tmp_path / "a.tif", tiff_page(noise, deflate=packed, rows=20))
    content = bytearray(path.read_bytes())
    (directory,) = struct.unpack_from("<I", content, 4)
    moved = content[:8] + content[directory:]  # the directory first, then what is left of the data
    with pytest.raises(ScanError, match=r"^a.tif: (strip|not a readable picture)"):
        struct.pack_into("<I", moved, 4, 8)
        path.write_bytes(moved[: int(len(moved) * kept)])
        read_scan(path)
    assert capfd.readouterr() == ("", "")


def test_a_damaged_strip_is_refused_and_nothing_is_said_elsewhere(tmp_path, capfd):
    """libtiff leaves such a strip black, with a line on the standard error."""
    noise = np.random.default_rng(1).integers(0, 256, (60, 60), np.uint8)
    found, tags, data = tiff_page(noise, deflate=True, rows=20)
    broken = bytearray(data[1])
    broken[30:90] = bytes(60)
    path = write_tiff(tmp_path / "a.tif", (found, tags, [data[0], bytes(broken), data[2]]))
    with pytest.raises(ScanError, match=r"^a.tif: not a readable picture, its pixels are damaged"):
        read_scan(path)
    assert capfd.readouterr() == ("", "")


# --- pages


def pages_of(count, description="", dtype="u2", **tags):
    planes = [PAGE.astype(dtype) + np.array(10 * number, dtype) for number in range(count)]
    first, *others = planes
    return planes, [tiff_page(first, description=description, **tags),
                    *(tiff_page(page) for page in others)]  # fmt: skip


def one_after_the_other(path, count, description):
    """As ImageJ writes large stacks: the first page's directory alone."""
    planes, pages = pages_of(count, description)
    found, tags, _ = pages[0]
    write_tiff(path, (found, tags, [np.stack(planes).tobytes()]))
    content = bytearray(path.read_bytes())
    size = np.stack(planes).nbytes
    at = content.rindex(struct.pack("<HHII", 279, 4, 1, size))
    struct.pack_into("<I", content, at + 8, planes[0].nbytes)
    path.write_bytes(content)
    return planes


@pytest.mark.parametrize("words", ["images=5\nslices=5", "images=5", "images=5\nframes=5"])
def test_a_stack_of_imagej_with_one_directory_has_all_its_slices(words, tmp_path):
    planes = one_after_the_other(tmp_path / "a.tif", 5, f"ImageJ=1.53t\n{words}\nunit=um\n")
    np.testing.assert_array_equal(read_scan(tmp_path / "a.tif").voxels, np.stack(planes).T)


def test_a_stack_that_lacks_pages_is_refused(tmp_path):
    _, pages = pages_of(2, "ImageJ=1.53t\nimages=5\nslices=5\n")
    write_tiff(tmp_path / "a.tif", *pages)
    with pytest.raises(ScanError, match=r"^a.tif: the description of ImageJ \(ImageDescription\) "
                       r"declares 5 pages \(1 C, 5 Z, 1 T\), found 2"):  # fmt: skip
        read_scan(tmp_path / "a.tif")
    _, (page,) = pages_of(1, "ImageJ=1.53t\nimages=5\nslices=5\n", deflate=True)
    write_tiff(tmp_path / "b.tif", page)
    with pytest.raises(ScanError, match=r"declares 5 pages \(1 C, 5 Z, 1 T\), found 1"):
        read_scan(tmp_path / "b.tif")


OME = ('<?xml version="1.0"?><OME xmlns="x"><Image ID="Image:0"><Pixels DimensionOrder="{order}" '
       'SizeX="50" SizeY="37" SizeZ="{z}" SizeC="{c}" SizeT="{t}" Type="uint16">{data}</Pixels>'
       "</Image></OME>")  # fmt: skip
STACKS = [
    ("ImageJ=1.53t\nimages=12\nchannels=2\nslices=3\nframes=2\nhyperstack=true\n", "TZC"),
    (OME.format(order="XYZCT", z=3, c=2, t=2, data=""), "TCZ"),
    (OME.format(order="XYCTZ", z=3, c=2, t=2, data=""), "ZTC"),
    (json.dumps({"shape": [2, 3, 2, HEIGHT, WIDTH], "axes": "TZCYX"}), "TZC"),
]


@pytest.mark.parametrize(("description", "slow_first"), STACKS)
def test_channels_and_frames_are_volumes_not_slices(description, slow_first, tmp_path):
    planes, pages = pages_of(12, description)
    write_tiff(tmp_path / "a.tif", *pages)
    sizes = {"T": 2, "C": 2, "Z": 3}
    stored = np.stack(planes).reshape([sizes[axis] for axis in slow_first] + [HEIGHT, WIDTH])
    by_axis = stored.transpose(*(slow_first.index(axis) for axis in "TCZ"), 3, 4)
    for volume in range(4):
        expected = by_axis.reshape(4, 3, HEIGHT, WIDTH)[volume]
        np.testing.assert_array_equal(read_scan(tmp_path / "a.tif", volume).voxels, expected.T)
    with pytest.raises(ScanError, match=r"^a.tif: has 4 volumes, --volume should name one of 0..3"):
        read_scan(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("description", "reason"),
    [
        ("ImageJ=1.53t\nimages=6\nchannels=2\nslices=2\n", "ImageJ declares 6 images, but 2 chan"),
        ("ImageJ=1.53t\nimages=2\ncf=3\nc0=1\nc1=2\n", "ImageJ's calibration of values"),
        (OME.format(order="XYZCT", z=2, c=1, t=1, data="") * 2, "has 2 images"),
        (OME.format(order="XYZCT", z=3, c=1, t=1, data=""), "the description of OME"),
        (OME.format(order="XYZCT", z=2, c=1, t=1, data='<TiffData IFD="0" FirstZ="1"/>'),
         "pages should be in the order ZCT that OME declares"),
        ('<?xml version="1.0"?><OME><BinaryOnly MetadataFile="x"/></OME>', "what its pages are"),
        (json.dumps({"shape": [5, HEIGHT, WIDTH]}), "the description of tifffile"),
    ],
)  # fmt: skip
def test_a_description_that_contradicts_the_pages_is_refused(description, reason, tmp_path):
    _, pages = pages_of(2, description)
    with pytest.raises(ScanError, match=f"^a.tif: {reason}"):
        read_scan(write_tiff(tmp_path / "a.tif", *pages))


def test_signed_numbers_of_imagej_are_calibrated(tmp_path):
    """It stores them as unsigned ones, and the straight line back to them."""
    _, pages = pages_of(1, "ImageJ=1.53t\ncf=0\nc0=-32768.0\nc1=1.0\nvunit=Gray Value\n")
    found = shown(write_tiff(tmp_path / "a.tif", *pages))
    np.testing.assert_array_equal(found, PAGE.astype(np.float32) - 32768)


def test_smaller_versions_and_masks_are_left_out_and_named(tmp_path, caplog):
    small = PAGE[::2, ::2].copy()
    write_tiff(tmp_path / "a.tif", tiff_page(PAGE), tiff_page(small, kind=1),
               tiff_page(PAGE, kind=4))  # fmt: skip
    np.testing.assert_array_equal(shown(tmp_path / "a.tif"), PAGE)
    assert caplog.messages == [
        "a.tif: 2 of its 3 pages are smaller versions or masks of others (NewSubfileType), and are "
        "left out"
    ]
    write_tiff(tmp_path / "b.tif", tiff_page(PAGE), tiff_page(small))
    with pytest.raises(ScanError, match=r"^b.tif: pages should be of one size"):
        read_scan(tmp_path / "b.tif")


def test_a_chain_of_pages_that_ends_nowhere_is_refused(tmp_path):
    path = write_tiff(tmp_path / "a.tif", tiff_page(PAGE))
    content = bytearray(path.read_bytes())
    content[-4:] = struct.pack("<I", 1 << 30)
    path.write_bytes(content)
    with pytest.raises(ScanError, match=r"^a.tif: not a readable picture, a directory of the TIFF"):
        read_scan(path)

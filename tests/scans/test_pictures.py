"""PNG, JPEG and BMP: what they declare of their pixels; and pictures as label maps."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from swiftmedsam.scans.formats.by_suffix import read_scan
from swiftmedsam.scans.label_maps import boxes_around_labels, read_labels
from swiftmedsam.scans.scan import ScanError
from tests.helpers.tiff import PALETTE, WHITE, tiff_page, write_tiff

HEIGHT, WIDTH = 40, 56
PAGE = (np.add.outer(np.arange(HEIGHT), 2 * np.arange(WIDTH)) % 120 + 20).astype(np.uint8)
COLOUR = np.stack([PAGE, PAGE + 20, PAGE + 40], axis=-1)
LABELS = np.zeros((HEIGHT, WIDTH), np.uint8)
LABELS[5:20, 10:30] = 2
LABELS[25:30, 40:50] = 1
VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * 759  # the palette of PASCAL VOC, LabelMe, CVAT


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(path, pixels, bits, colour, *more):
    """A PNG of rows of packed samples."""
    raw = b"".join(b"\0" + row.tobytes() for row in pixels)
    width = pixels.shape[1] * 8 // bits if bits < 8 else pixels.shape[1]
    head = struct.pack(">IIBBBBB", width, len(pixels), bits, colour, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(more)
                     + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b""))  # fmt: skip
    return path


def shown(path):
    return read_scan(path).voxels[:, :, 0].swapaxes(0, 1)


EXTRAS = [
    chunk(b"gAMA", struct.pack(">I", 100000)), chunk(b"sBIT", b"\5"),
    chunk(b"tRNS", struct.pack(">H", 80)), chunk(b"iCCP", b"x\0\0abc"),
    chunk(b"cHRM", struct.pack(">8I", *[30000] * 8)), chunk(b"pHYs", struct.pack(">IIB", 1, 2, 1)),
]  # fmt: skip


@pytest.mark.parametrize("extra", EXTRAS, ids=[one[4:8].decode() for one in EXTRAS])
@pytest.mark.parametrize("bits", [8, 16])
def test_samples_of_a_png_are_as_stored_whatever_its_gamma_or_profile(bits, extra, tmp_path, capfd):
    pixels = PAGE if bits == 8 else PAGE.astype(np.uint16) * 256 + 7
    path = png_of(tmp_path / "a.png", pixels.astype(f">u{bits // 8}"), bits, 0, extra)
    np.testing.assert_array_equal(shown(path), pixels)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "CMYK", "YCbCr", "LA"])
def test_what_pillow_writes_is_read_as_pillow_reads_it(mode, name, tmp_path):
    path = tmp_path / name
    image = Image.fromarray(COLOUR).convert(mode)
    try:
        image.save(path)
    except OSError:
        pytest.skip("there is no such file")
    with Image.open(path) as stored:
        expected = np.asarray(stored.convert("RGB")).astype(int)
    found = shown(path).astype(int)
    found = found if found.ndim == 3 else np.stack([found] * 3, axis=-1)
    np.testing.assert_allclose(found, expected, atol=2 if mode == "CMYK" else 0)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
@pytest.mark.parametrize("kept", [0.4, 0.8, 0.99])
def test_a_picture_that_is_cut_is_refused_without_other_words(kept, suffix, tmp_path, capfd):
    noise = np.random.default_rng(1).integers(0, 256, (60, 60), np.uint8)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(ScanError, match=f"^a{suffix}: not a readable picture, its pixels are dam"):
        read_scan(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_damage_that_a_decoder_goes_on_after_is_refused(suffix, tmp_path, capfd):
    """libjpeg decodes the rest as something else, with a line on the standard error."""
    noise = np.random.default_rng(1).integers(0, 256, (60, 60), np.uint8)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(ScanError, match=f"^a{suffix}: not a readable picture, its pixels are dam"):
        read_scan(path)
    assert capfd.readouterr() == ("", "")


def test_an_animation_and_odd_kinds_of_bmp_are_refused(tmp_path):
    first = Image.fromarray(PAGE)
    first.save(tmp_path / "a.png", save_all=True, append_images=[Image.fromarray(PAGE // 2)])
    with pytest.raises(ScanError, match=r"^a.png: expected one picture, found 2 \(animated PNG\)"):
        read_scan(tmp_path / "a.png")
    first.save(tmp_path / "a.bmp")
    content = bytearray((tmp_path / "a.bmp").read_bytes())
    struct.pack_into("<I", content, 30, 5)
    (tmp_path / "a.bmp").write_bytes(content)
    with pytest.raises(ScanError, match=r"^a.bmp: a BMP of 8 bits, compression 5, is not read"):
        read_scan(tmp_path / "a.bmp")


def test_the_content_says_what_a_picture_is_not_its_name(tmp_path):
    """Of a TIFF of three pages that is called .png, the first alone was read."""
    path = write_tiff(tmp_path / "a.png", *[tiff_page(PAGE)] * 3)
    assert read_scan(path).grid == (WIDTH, HEIGHT, 3)


# --- label maps


def label_files():
    yield "grey.png", lambda path: Image.fromarray(LABELS).save(path)
    yield "grey_as_rgb.png", lambda path: Image.fromarray(np.stack([LABELS] * 3, -1)).save(path)
    yield "grey_as_rgba.png", lambda path: Image.fromarray(
        np.stack([LABELS] * 3 + [LABELS * 100], -1)).save(path)  # fmt: skip
    yield "sixteen.png", lambda path: cv2.imwrite(str(path), LABELS.astype(np.uint16))
    for bits in (2, 4, 8):
        for suffix in (".png", ".bmp"):
            if suffix == ".bmp" and bits != 8:
                continue

            def write(path, bits=bits):
                image = Image.fromarray(LABELS, "L").copy()
                image = Image.frombytes("P", image.size, image.tobytes())
                image.putpalette(VOC)
                image.save(path, **({"bits": bits} if path.suffix == ".png" else {}))

            yield f"palette{bits}{suffix}", write
    packed = (LABELS.reshape(HEIGHT, -1, 4) << np.array([6, 4, 2, 0])).sum(-1).astype(np.uint8)
    yield "grey2.png", lambda path: png_of(path, packed, 2, 0)
    colours = np.random.default_rng(1).integers(0, 65536, 768).tolist()
    for packing in (False, True):
        yield f"palette{packing}.tif", lambda path, packing=packing: write_tiff(
            path, tiff_page(LABELS, PALETTE, colours=colours, deflate=packing))  # fmt: skip
    yield "white.tif", lambda path: write_tiff(path, tiff_page(255 - LABELS, WHITE))


@pytest.mark.parametrize(("name", "write"), list(label_files()))
def test_a_label_picture_has_the_labels_that_were_drawn(name, write, tmp_path):
    """Indices of a palette are the labels, and three equal channels are one."""
    write(tmp_path / name)
    np.testing.assert_array_equal(read_labels(tmp_path / name).voxels[:, :, 0].T, LABELS)
    Image.fromarray(PAGE).save(tmp_path / "scan.png")
    drawn = boxes_around_labels(tmp_path / name, read_scan(tmp_path / "scan.png"), 0)
    assert [one.name for one in drawn] == ["label 1", "label 2"]
    np.testing.assert_array_equal(drawn[1].points, [[10, 5, 0], [29, 19, 0]])


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif"])
def test_a_label_picture_in_colour_is_refused_saying_so(name, tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / name)
    with pytest.raises(ScanError, match=f"^{name}: is in colour, expected a label map of one chan"):
        read_labels(tmp_path / name)


def test_a_palette_that_does_not_fit_into_the_file_is_refused(tmp_path):
    Image.fromarray(LABELS).save(tmp_path / "a.bmp")
    (tmp_path / "a.bmp").write_bytes((tmp_path / "a.bmp").read_bytes()[:600])
    with pytest.raises(ScanError, match=r"^a.bmp: not a readable picture"):
        read_labels(tmp_path / "a.bmp")


def test_labels_in_a_jpeg_are_refused(tmp_path):
    Image.fromarray(LABELS).save(tmp_path / "a.jpg")
    with pytest.raises(ScanError, match=r"^a.jpg: a JPEG does not keep labels as they were drawn"):
        read_labels(tmp_path / "a.jpg")


def test_bits_are_labels_0_and_1(tmp_path):
    Image.fromarray(LABELS > 0).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png").voxels[:, :, 0].T, LABELS > 0)
    Image.fromarray(LABELS > 0).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.tif").voxels[:, :, 0].T, LABELS > 0)


def test_a_png_as_xcode_changes_it_is_said_to_be_none(tmp_path):
    """Its first chunk is none of PNG's, where the size should stand."""
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:8] + b"\0\0\0\x04CgBI\x50\0\x20\x02\x2b\xd5\xb3\x7f" + content[8:])
    with pytest.raises(ScanError, match=r"^a.png: not a readable picture, expected the header of"):
        read_scan(path)

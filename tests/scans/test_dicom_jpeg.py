"""Lossy JPEG of 12 bits in DICOM: values of another decoder, and streams that are damaged."""

import hashlib
import struct
import sys
import tracemalloc

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGExtended12Bit

from swiftmedsam.scans.formats.by_suffix import read_scan
from swiftmedsam.scans.scan import ScanError
from tests.helpers.dicom import TEST_FILES, image

LOSSY = TEST_FILES / "JPEG-lossy.dcm"  # 256 x 1024 pixels of a bone scan
# Of its pixels as dcmdjpeg of DCMTK 3.6.7 decodes them, rows of little-endian uint16.
DCMTK_SHA256 = "d30242775a414c01d616447854ebe3f2b20259822894bcd6891f879bcdcbf313"
RAMP = (40 + 25 * np.arange(56) + 60 * np.arange(40)[:, np.newaxis]).astype(np.uint16)
END = b"\xff\xd9"


def jpeg_of(pixels):
    return imagecodecs.jpeg8_encode(pixels, level=100, bitspersample=12)


def lossy(path, frames, **tags):
    """A DICOM file whose frames are these streams, as of `RAMP`."""
    dataset = image(RAMP, BitsStored=12, HighBit=11, NumberOfFrames=len(frames), **tags)
    dataset.file_meta.TransferSyntaxUID = JPEGExtended12Bit
    dataset.PixelData = encapsulate(frames)
    dataset.save_as(path, enforce_file_format=True)
    return path


def refused(path, volume=None):
    """What is said of the file at `path`."""
    with pytest.raises(ScanError) as raised:
        read_scan(path, volume)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_values_are_those_of_another_decoder():
    pixels = read_scan(LOSSY).voxels[:, :, 0].T
    assert pixels.shape == (1024, 256)
    assert pixels[500, 100:106].tolist() == [31, 28, 24, 21, 24, 23]
    assert hashlib.sha256(pixels.astype("<u2").tobytes()).hexdigest() == DCMTK_SHA256


def test_every_frame_is_read_and_rescaled(tmp_path):
    frames = [jpeg_of(RAMP), jpeg_of(RAMP[::-1].copy()), jpeg_of(RAMP + 9)]
    path = lossy(tmp_path / "a.dcm", frames, RescaleSlope="2", RescaleIntercept="-1000")
    found = np.concatenate([read_scan(path, k).voxels.T for k in range(3)])
    wanted = np.stack([RAMP, RAMP[::-1], RAMP + 9]) * 2.0 - 1000
    np.testing.assert_allclose(found, wanted, atol=2)  # lossy, by one step


def test_signed_values_have_their_sign_in_12_bits(tmp_path):
    negative = (RAMP // 2).astype(np.int16) - 2000
    assert negative.min() < negative.max() < 0
    stream = jpeg_of((negative & 0xFFF).astype(np.uint16))
    path = lossy(tmp_path / "a.dcm", [stream], PixelRepresentation=1)
    np.testing.assert_allclose(read_scan(path).voxels[:, :, 0].T, negative, atol=1)


@pytest.mark.parametrize("kept", [0.35, 0.5, 0.9, 0.998])
def test_a_file_that_is_cut_off_is_one_line(kept, tmp_path):
    content = LOSSY.read_bytes()
    path = tmp_path / "cut.dcm"
    path.write_bytes(content[: int(kept * len(content))])
    assert refused(path) == ("cut.dcm: PixelData is missing: the file has no pixels, or is cut off")


@pytest.mark.parametrize("kept", [0, 1, 2, 20, 300, 500, -2])
def test_a_stream_that_is_cut_off_is_one_line(kept, tmp_path):
    """The decoder would fill up what is missing."""
    stream = jpeg_of(RAMP)
    assert len(stream) > 500
    assert stream.endswith(END)
    message = refused(lossy(tmp_path / "a.dcm", [stream[:kept] or b"\0\0"]))
    assert message == "a.dcm: PixelData is cut off: frame 1 of 1 has no end"


def test_a_damaged_stream_is_read_or_refused_in_one_line(tmp_path):
    """Its header, its tables and what they code."""
    random = np.random.default_rng(1)
    messages = []
    for _ in range(300):
        stream = bytearray(jpeg_of(RAMP))
        stream[random.integers(2, len(stream))] = random.integers(256)
        path = lossy(tmp_path / "a.dcm", [bytes(stream)])
        try:
            assert read_scan(path).grid == (56, 40, 1)
        except ScanError as error:
            messages.append(str(error))
    assert messages
    assert all(one.startswith("a.dcm: PixelData ") and "\n" not in one for one in messages)


def test_a_stream_of_another_size_is_refused_before_it_is_decoded(tmp_path):
    """Its header asks for gigabytes."""
    stream = bytearray(jpeg_of(RAMP))
    at = stream.index(b"\xff\xc1") + 5  # height and width in the start of its frame
    stream[at : at + 4] = struct.pack(">HH", 65000, 65000)
    path = lossy(tmp_path / "a.dcm", [bytes(stream)])
    tracemalloc.start()
    try:
        assert refused(path) == (
            "a.dcm: PixelData should be 56 x 40 pixels (Columns, Rows), found 65000 x 65000 in "
            "frame 1 of 1"
        )
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("bits", "shape"), [(8, (40, 56)), (12, (40, 56, 3))])
def test_a_stream_of_8_bits_or_in_colour_is_refused(bits, shape, tmp_path):
    pixels = np.zeros(shape, np.uint8 if bits == 8 else np.uint16)
    stream = imagecodecs.jpeg8_encode(pixels, bitspersample=bits)
    assert "grey pixels of 12 bits" in refused(lossy(tmp_path / "a.dcm", [stream]))


@pytest.mark.parametrize("frames", [1, 3])
def test_more_or_fewer_frames_than_the_header_says_are_refused(frames, tmp_path):
    path = lossy(tmp_path / "a.dcm", [jpeg_of(RAMP)] * 2)
    dataset = pydicom.dcmread(path)
    dataset.NumberOfFrames = frames
    dataset.save_as(path)
    assert refused(path, 0) == f"a.dcm: PixelData has 2 frames, NumberOfFrames is {frames}"


def test_a_file_that_does_not_fit_is_refused_before_its_streams_are_read(tmp_path):
    path = lossy(tmp_path / "a.dcm", [b"\0\0"])
    dataset = pydicom.dcmread(path)
    dataset.Rows = dataset.Columns = 20000
    dataset.save_as(path)
    with pytest.raises(ScanError, match="20000x20000x1 voxels of float32 need about"):
        read_scan(path, memory_limit=1 << 30)


def test_without_its_library_the_file_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    assert refused(LOSSY) == (
        "JPEG-lossy.dcm: this kind of file needs imagecodecs, which is not installed: "
        "pip install -r requirements-scans.txt"
    )

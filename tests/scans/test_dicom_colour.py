"""Colours of DICOM, against SimpleITK's reader (GDCM) and pydicom's own decoders."""

import io

import imagecodecs
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom.pixels import convert_color_space
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from tests.helpers.dicom import TEST_FILES, image, refusal, values

CHANNELS = ("Red", "Green", "Blue")
# smooth, so that colours of every second pixel tell those between; not square
RAMP = np.stack(np.broadcast_arrays(
    np.arange(12)[:, np.newaxis] * 20, np.arange(16) * 15, 200
), axis=-1).astype(np.uint8)  # fmt: skip
PAIRED = RAMP.repeat(2, axis=1)  # (12, 32, 3): neighbours have one colour
SUBSAMPLED = 6  # levels by which colours of every second pixel may differ, rounded twice


def colour(pixels, photometric="RGB", planar=0, **tags):
    dataset = image(np.zeros(pixels.shape[:2], pixels.dtype), Modality="US", **tags)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, photometric
    dataset.PlanarConfiguration = planar
    stored = pixels.transpose(2, 0, 1) if planar else pixels
    dataset.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
    return dataset


def theirs(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0]


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("syntax", [None, RLELossless, JPEG2000Lossless])
def test_planes_of_colours_lie_apart_or_not(syntax, dtype, planar, tmp_path):
    """Frames that are compressed say it themselves."""
    pixels = RAMP.astype(dtype) << (4 if dtype == np.uint16 else 0)
    dataset = colour(pixels, planar=planar)
    if syntax == RLELossless:
        dataset.compress(syntax, arr=pixels, generate_instance_uid=False)
        dataset.PlanarConfiguration = planar
    elif syntax:
        dataset.file_meta.TransferSyntaxUID = syntax
        stream = imagecodecs.jpeg2k_encode(pixels, reversible=True, codecformat="J2K")
        dataset.PixelData = pydicom.encaps.encapsulate([stream])
    path = tmp_path / "a.dcm"
    dataset.save_as(path, enforce_file_format=True)
    np.testing.assert_array_equal(values(path), pixels)
    if syntax != RLELossless or dtype == np.uint8:  # of 16 bits, SimpleITK swaps the bytes
        np.testing.assert_array_equal(theirs(path), pixels)


@pytest.mark.parametrize("planar", [0, 1])
def test_ybr_full_is_rgb_as_others_convert_it(planar, tmp_path):
    path = tmp_path / "a.dcm"
    colour(convert_color_space(RAMP, "RGB", "YBR_FULL"), "YBR_FULL", planar).save_as(
        path, enforce_file_format=True
    )
    np.testing.assert_allclose(values(path).astype(int), RAMP, atol=2)
    np.testing.assert_allclose(values(path).astype(int), theirs(path), atol=2)


def test_ybr_full_422_is_rgb_as_others_convert_it(tmp_path):
    """Two pixels share their colour: Y Y B R."""
    ybr = convert_color_space(PAIRED, "RGB", "YBR_FULL").reshape(-1, 2, 3)
    stored = np.concatenate([ybr[:, :, 0], ybr[:, 0, 1:]], axis=1)
    dataset = colour(PAIRED, "YBR_FULL_422")
    dataset.PixelData = stored.tobytes()
    path = tmp_path / "a.dcm"
    dataset.save_as(path, enforce_file_format=True)
    np.testing.assert_allclose(values(path).astype(int), PAIRED, atol=2)
    np.testing.assert_array_equal(values(path), pydicom.pixels.pixel_array(path))
    dataset.PixelData = PAIRED.tobytes()  # all colours are there, against the tag
    dataset.save_as(path, enforce_file_format=True)
    assert refusal(path).startswith("a.dcm: PixelData ")


@pytest.mark.parametrize(("photometric", "subsampling"), [("YBR_FULL_422", 1), ("YBR_FULL", 0)])
def test_colours_of_a_jpeg_are_those_that_simpleitk_reads(photometric, subsampling, tmp_path):
    stream = io.BytesIO()
    Image.fromarray(PAIRED).save(stream, "JPEG", quality=100, subsampling=subsampling)
    dataset = colour(PAIRED, photometric)
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PixelData = pydicom.encaps.encapsulate([stream.getvalue()])
    path = tmp_path / "a.dcm"
    dataset.save_as(path, enforce_file_format=True)
    np.testing.assert_allclose(values(path).astype(int), PAIRED, atol=SUBSAMPLED)
    np.testing.assert_allclose(values(path).astype(int), theirs(path), atol=SUBSAMPLED)


PICTURES = (
    "ExplVR_BigEnd", "GDCMJ2K_TextGBR", "SC_jpeg_no_color_transform", "SC_rgb_dcmtk_+eb+cr",
    "SC_rgb_dcmtk_+eb+cy+n1", "SC_rgb_dcmtk_+eb+cy+np", "SC_rgb_dcmtk_+eb+cy+s2",
    "SC_rgb_gdcm_KY", "SC_rgb_jls_lossy_line", "SC_rgb_jls_lossy_sample", "SC_rgb_jpeg",
    "SC_rgb_jpeg_app14_dcmd", "SC_rgb_jpeg_gdcm", "SC_rgb_rle", "SC_rgb_small_odd_big_endian",
    "SC_rgb_small_odd_jpeg", "SC_ybr_full_422_uncompressed", "examples_rgb_color",
)  # fmt: skip


@pytest.mark.parametrize("name", PICTURES)
def test_colours_of_pydicoms_own_files_are_those_that_simpleitk_reads(name):
    path = TEST_FILES / f"{name}.dcm"
    np.testing.assert_array_equal(values(path), theirs(path))


# --- palettes


def palette(stored, entries, first=0, bits=16, packed=False, **tags):
    """A picture of `stored` values with a palette of entries (N, 3)."""
    dataset = image(stored, PhotometricInterpretation="PALETTE COLOR", Modality="US", **tags)
    for channel, table in zip(CHANNELS, entries.T, strict=True):
        keyword = f"{channel}PaletteColorLookupTable"
        kind = "SS" if stored.dtype.kind == "i" else "US"
        tag = pydicom.datadict.tag_for_keyword(f"{keyword}Descriptor")
        dataset.add_new(tag, kind, [len(entries) % (1 << 16), first, bits])
        data = table.astype(np.uint8 if packed else "<u2").tobytes()
        setattr(dataset, f"{keyword}Data", data + b"\0" * (len(data) % 2))
    return dataset


@pytest.mark.parametrize(
    ("dtype", "count", "first", "bits", "packed"),
    [
        (np.uint8, 256, 0, 16, False), (np.uint8, 256, 0, 8, True), (np.uint8, 256, 0, 8, False),
        # an odd number, padded; and more than 255 of 8 bits, where indices need 16
        (np.uint8, 255, 0, 8, True), (np.uint16, 1001, 0, 8, True),
        (np.uint16, 1000, 300, 16, False), (np.int16, 600, -200, 16, False),
    ],
)  # fmt: skip
def test_palettes_are_looked_up_from_their_first_value(dtype, count, first, bits, packed, tmp_path):
    random = np.random.default_rng(1)
    entries = random.integers(0, 1 << bits, (count, 3))
    low, high = max(first - 50, np.iinfo(dtype).min), min(first + count + 50, np.iinfo(dtype).max)
    stored = random.integers(low, high, (9, 14)).astype(dtype)
    path = tmp_path / "a.dcm"
    palette(stored, entries, first, bits, packed).save_as(path, enforce_file_format=True)
    wanted = entries[np.clip(stored.astype(int) - first, 0, count - 1)]
    found = values(path)
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == f"u{bits // 8}"
    if bits == 16:  # of others, pydicom is not sure
        dataset = pydicom.dcmread(path)
        np.testing.assert_array_equal(
            found, pydicom.pixels.apply_color_lut(dataset.pixel_array, dataset)
        )


def test_a_palette_that_is_short_or_missing_is_refused(tmp_path):
    stored = np.arange(20, dtype=np.uint8).reshape(4, 5)
    path = tmp_path / "a.dcm"
    for change, message in (
        (lambda one: setattr(one, "GreenPaletteColorLookupTableData", b"\0\0"),
         "GreenPaletteColorLookupTableData should have 20 entries of 16 bits"),
        (lambda one: delattr(one, "BluePaletteColorLookupTableData"),
         "BluePaletteColorLookupTableData is missing"),
        (lambda one: delattr(one, "RedPaletteColorLookupTableDescriptor"),
         "RedPaletteColorLookupTableDescriptor is missing"),
        (lambda one: setattr(one, "BluePaletteColorLookupTableDescriptor", [20, 3, 16]),
         "palettes should have one number of entries, bits and first value"),
    ):  # fmt: skip
        dataset = palette(stored, np.arange(60).reshape(20, 3))
        change(dataset)
        dataset.save_as(path, enforce_file_format=True)
        assert refusal(path) == f"a.dcm: {message}"


def test_a_palette_of_segments_is_what_pydicom_makes_of_it(tmp_path):
    """16 entries that are given, then a straight line of 240 to the last one."""
    stored = np.arange(252, dtype=np.uint8).reshape(12, 21)
    dataset = palette(stored, np.zeros((256, 3), int))
    for channel, top in zip(CHANNELS, (60000, 30000, 257), strict=True):
        delattr(dataset, f"{channel}PaletteColorLookupTableData")
        segments = np.array([0, 16, *range(16), 1, 240, top], "<u2")
        setattr(dataset, f"Segmented{channel}PaletteColorLookupTableData", segments.tobytes())
    path = tmp_path / "a.dcm"
    dataset.save_as(path, enforce_file_format=True)
    found = values(path)
    dataset = pydicom.dcmread(path)
    np.testing.assert_array_equal(
        found, pydicom.pixels.apply_color_lut(dataset.pixel_array, dataset)
    )
    np.testing.assert_array_equal(found.reshape(-1, 3)[15], [15, 15, 15])
    dataset.SegmentedRedPaletteColorLookupTableData = b"\x01\0\x09\0"
    dataset.save_as(path)
    assert refusal(path) == (
        "a.dcm: SegmentedRedPaletteColorLookupTableData is damaged, or longer than its entries"
    )


# --- what is refused

GREYS = np.zeros((4, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"PlanarConfiguration": 2}, "PlanarConfiguration should be 0 or 1, found 2"),
        ({"PlanarConfiguration": None}, "PlanarConfiguration is missing"),
        ({"PixelRepresentation": 1}, "PixelRepresentation should be 0 in colour, found 1"),
        ({"SamplesPerPixel": 4}, "SamplesPerPixel should be 3 where PhotometricInterpretation is "
         "RGB, found 4"),
        ({"BitsStored": 7, "HighBit": 7}, "HighBit should be 6 where pixels are compressed or in "
         "colour, found 7"),
        ({"PhotometricInterpretation": "YBR_RCT"}, "PhotometricInterpretation YBR_RCT goes with "
         "JPEG 2000, found Explicit VR Little Endian"),
        ({"PhotometricInterpretation": "ARGB"}, "PhotometricInterpretation 'ARGB' is not read"),
    ],
)  # fmt: skip
def test_colours_that_contradict_themselves_are_refused(tags, message, tmp_path):
    dataset = colour(GREYS)
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert refusal(tmp_path / "a.dcm") == f"a.dcm: {message}"


def test_ybr_of_16_bits_is_refused(tmp_path):
    colour(GREYS.astype(np.uint16), "YBR_FULL").save_as(
        tmp_path / "a.dcm", enforce_file_format=True
    )
    assert refusal(tmp_path / "a.dcm") == (
        "a.dcm: BitsAllocated should be 8 where PhotometricInterpretation is YBR_FULL, found 16"
    )

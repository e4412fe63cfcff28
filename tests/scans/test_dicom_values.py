"""Values of DICOM pixels: what the tags around them declare counts, or is refused with its name."""

import logging
import zlib

import numpy as np
import pydicom
import pytest
from pydicom import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless

from swiftmedsam.modality import UNKNOWN, find_modality
from swiftmedsam.scans.formats.by_suffix import read_scan
from swiftmedsam.scans.infer_modality import modality_of
from swiftmedsam.scans.scan import ScanError
from tests.helpers.dicom import TEST_FILES, VOXELS, enhanced, image, refusal, series, values

# 500..1499, and where `AWAY` nothing was measured
PAGE = (500 + 37 * np.arange(48) % 1000).reshape(6, 8)
AWAY = np.zeros((6, 8), bool)
AWAY[:, :2] = True
LOWEST = PAGE[~AWAY].min()


def saved(path, pixels, **tags):
    image(np.ascontiguousarray(pixels), **tags).save_as(path, enforce_file_format=True)
    return path


def explicit(keyword, representation, value):
    """A dataset with one element of a representation that may be wrong, as vendors write it."""
    dataset = Dataset()
    dataset.add_new(pydicom.datadict.tag_for_keyword(keyword), representation, value)
    return dataset


# --- padding


@pytest.mark.parametrize(
    ("dtype", "pad", "value", "limit", "tags"),
    [
        (np.int16, -32768, ("SS", -32768), None, {}),
        (np.uint16, 65535, ("US", 65535), None, {}),
        (np.uint16, 0, ("US", 0), None, {}),
        # as vendors write it: the other sign, in the same bits
        (np.int16, -2000, ("US", 63536), None, {}),
        (np.uint16, 63536, ("SS", -2000), None, {}),
        (np.int16, -2000, ("SS", -2000), None, {"BitsStored": 12, "HighBit": 11}),
        # more than the stored bits can hold, so that only whole words say it
        (np.uint16, 63536, ("US", 63536), None, {"BitsStored": 12, "HighBit": 11}),
        (np.int16, (-1024, -900), ("SS", -1024), ("SS", -900), {}),
        (np.int16, (-1024, -900), ("SS", -900), ("SS", -1024), {}),
        (np.uint16, (2000, 4095), ("US", 4095), ("US", 2000), {}),
        (np.int16, -2000, ("SS", -2000), None, {"RescaleSlope": "2", "RescaleIntercept": "-1024"}),
        (np.int16, 0, ("SS", 0), None, {"RescaleSlope": "1", "RescaleIntercept": "-3000"}),
        (np.int16, -2000, ("SS", -2000), None, {"PhotometricInterpretation": "MONOCHROME1"}),
        (np.uint16, 4095, ("US", 4095), None, {
            "PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11}),
    ],
)  # fmt: skip
def test_padding_counts_as_the_lowest_value(dtype, pad, value, limit, tags, tmp_path, caplog):
    """The rest is as without it; 0 may stay where nothing is lower, percentiles leave it out."""
    caplog.set_level(logging.INFO)
    pixels = PAGE.astype(dtype)
    pixels[AWAY] = np.resize(pad, AWAY.sum())
    padded = image(pixels, Modality="MR", **tags)
    padded.update(explicit("PixelPaddingValue", *value))
    if limit:
        padded.update(explicit("PixelPaddingRangeLimit", *limit))
    padded.save_as(tmp_path / "padded.dcm", enforce_file_format=True)
    found = values(tmp_path / "padded.dcm")
    plain = values(saved(tmp_path / "plain.dcm", PAGE.astype(dtype), Modality="MR", **tags))
    np.testing.assert_array_equal(found[~AWAY], plain[~AWAY])
    lowest = plain[~AWAY].min()
    assert np.isin(found[AWAY], [lowest, min(lowest, 0)]).all()
    assert "padded.dcm: 12 voxels are padding, and count as the lowest value" in caplog.messages
    assert not [one for one in caplog.records if one.levelno > logging.INFO]


def test_padding_counts_as_the_lowest_value_of_all_slices(tmp_path):
    voxels = np.stack([PAGE, PAGE - 200, PAGE + 50, PAGE], axis=-1).astype(np.int16).swapaxes(0, 1)
    voxels[0, :, 0] = -7
    found = read_scan(series(tmp_path / "mr", voxels, PixelPaddingValue=-7)).voxels
    np.testing.assert_array_equal(found[0, :, 0], 300)
    np.testing.assert_array_equal(found[1:, :, 0], voxels[1:, :, 0])


def test_padding_of_floats_counts_as_the_lowest_value(tmp_path):
    for keyword, dtype in (("FloatPixel", np.float32), ("DoubleFloatPixel", np.float64)):
        pixels = PAGE.astype(dtype) / 8
        pixels[AWAY] = -1e30
        dataset = image(pixels, BitsAllocated=8 * pixels.itemsize)
        del dataset.PixelData, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
        setattr(dataset, f"{keyword}Data", pixels.tobytes())
        setattr(dataset, f"{keyword}PaddingValue", -1e30)
        dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
        wanted = np.where(AWAY, LOWEST / 8, PAGE / 8)
        np.testing.assert_allclose(values(tmp_path / "a.dcm"), wanted, rtol=1e-6)


# --- bits of a word


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("high", [11, 13, 15])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("big_endian", [False, True])
def test_samples_are_the_stored_bits_of_a_word(bits, high, signed, big_endian, tmp_path, caplog):
    """What other bits hold, overlays say, does not count; without an overlay it is said."""
    if high < bits - 1:
        return
    samples = (PAGE - 1000 * signed) % (1 << bits)  # as unsigned ones
    low = high + 1 - bits
    others = 0xFFFF ^ (((1 << bits) - 1) << low)
    for name, more in (("clean", 0), ("overlay", others), ("dirty", others)):
        words = (samples << low | np.where(np.arange(8) % 3 == 0, more, 0)).astype(np.uint16)
        dataset = image(words, BitsStored=bits, HighBit=high, PixelRepresentation=int(signed))
        if name == "overlay":
            dataset.add_new(0x60000010, "US", 6)
            dataset.add_new(0x60000100, "US", 16)
            dataset.add_new(0x60000102, "US", 0 if low else high + 1)
        if big_endian:
            dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
            dataset.PixelData = words.byteswap().tobytes()
        dataset.save_as(
            tmp_path / f"{name}.dcm", enforce_file_format=True, little_endian=not big_endian,
            implicit_vr=False,
        )  # fmt: skip
        wanted = samples - (1 << bits) * (signed & (samples >= 1 << (bits - 1)))
        np.testing.assert_array_equal(values(tmp_path / f"{name}.dcm"), wanted)
    message = f"dirty.dcm: bits outside of BitsStored {bits} and HighBit {high} are set, and left"
    assert [one for one in caplog.messages if "bits outside" in one] == (
        [f"{message} out"] if more else []
    )


@pytest.mark.parametrize("name", ["RLE", "native"])
def test_high_bits_count_in_rle_too(name, tmp_path):
    words = (PAGE << 4).astype(np.uint16)
    dataset = image(words, BitsStored=12, HighBit=15)
    if name == "RLE":
        dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(values(tmp_path / "a.dcm"), PAGE)


# --- slopes, tables and what shows bright


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        ({"RescaleSlope": None, "RescaleIntercept": None}, PAGE),
        ({"RescaleSlope": "2"}, 2 * PAGE),
        ({"RescaleIntercept": "-1024"}, PAGE - 1024),
        ({"RescaleSlope": "-0.5", "RescaleIntercept": "3"}, 3 - PAGE / 2),
        ({"RescaleSlope": "2", "RescaleIntercept": "-1024",
          "PhotometricInterpretation": "MONOCHROME1"}, (4095 - PAGE) * 2 - 1024),
    ],
)  # fmt: skip
def test_a_slope_or_intercept_that_is_not_given_changes_nothing(tags, wanted, tmp_path):
    bits = {"BitsStored": 12, "HighBit": 11}
    path = saved(tmp_path / "a.dcm", PAGE.astype(np.uint16), **bits, **tags)
    np.testing.assert_array_equal(values(path), wanted)


def table_of(entries, first, representation):
    item = Dataset()
    item.add_new(0x00283002, "SS", [len(entries), first, 12])
    data = entries.astype("<u2").tobytes() if representation == "OW" else entries.tolist()
    item.add_new(0x00283006, representation, data)
    return item


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("representation", ["US", "OW"])
def test_a_table_of_the_modality_comes_before_the_turning(photometric, representation, tmp_path):
    entries = np.sqrt(np.arange(900) * 1000).astype(int)
    path = saved(
        tmp_path / "a.dcm", PAGE.astype(np.int16), PhotometricInterpretation=photometric,
        ModalityLUTSequence=[table_of(entries, 600, representation)],
    )  # fmt: skip
    wanted = entries[np.clip(PAGE - 600, 0, 899)]
    np.testing.assert_array_equal(
        values(path), wanted if photometric == "MONOCHROME2" else 4095 - wanted
    )


@pytest.mark.parametrize(
    ("photometric", "shape", "turned", "contradict"),
    [
        ("MONOCHROME2", "IDENTITY", False, False), ("MONOCHROME2", None, False, False),
        ("MONOCHROME1", "INVERSE", True, False), ("MONOCHROME1", None, True, False),
        ("MONOCHROME2", "INVERSE", True, True), ("MONOCHROME1", "IDENTITY", True, True),
    ],
)  # fmt: skip
def test_brighter_is_what_shows_brighter(photometric, shape, turned, contradict, tmp_path, caplog):
    tags = {"PhotometricInterpretation": photometric, "BitsStored": 12, "HighBit": 11}
    tags["Modality"] = "DX"
    if shape:
        tags["PresentationLUTShape"] = shape
    pixels = 4095 - PAGE if turned else PAGE
    found = values(saved(tmp_path / "a.dcm", pixels.astype(np.uint16), **tags))
    np.testing.assert_array_equal(found, PAGE)
    assert (
        caplog.messages
        == [
            f"a.dcm: PhotometricInterpretation {photometric} and PresentationLUTShape {shape} "
            "contradict each other; low values are taken as bright"
        ]
        * contradict
    )


def test_slopes_of_the_real_world_are_not_applied_and_that_is_said(tmp_path, caplog):
    dataset = enhanced()
    for count, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        item = Dataset()
        item.RealWorldValueSlope, item.RealWorldValueIntercept = 1.0 + count, 0.0
        group.RealWorldValueMappingSequence = [item]
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    read_scan(tmp_path / "a.dcm")
    assert caplog.messages == [
        "a.dcm: RealWorldValueSlope differs between slices, and is not applied"
    ]


def test_a_ct_in_another_unit_gets_no_window_of_hounsfield_units(tmp_path, caplog):
    rescaled = {"RescaleSlope": "1", "RescaleIntercept": "-1024"}
    for kind, modality, unit in (("HU", "CT", "HU"), ("US", "CT", ""), ("MGML", "", "")):
        path = saved(tmp_path / "a.dcm", PAGE.astype(np.int16), RescaleType=kind, **rescaled)
        scan = read_scan(path)
        assert (scan.modality, scan.unit) == (modality, unit)
    assert caplog.messages == ["a.dcm: CT, but by its RescaleType not in Hounsfield units"]
    # an empty slope says nothing of units
    path = saved(tmp_path / "b.dcm", PAGE.astype(np.int16), RescaleSlope=None, RescaleType="HU")
    assert read_scan(path).unit == ""


@pytest.mark.parametrize("empty", [{"RescaleSlope": None, "RescaleIntercept": None}, "missing"])
def test_a_ct_without_slope_is_one_only_by_its_air(empty, tmp_path, caplog):
    rng = np.random.default_rng(1)
    tissue = rng.integers(-100, 200, (40, 40)).astype(np.int16)
    with_air = np.where(np.arange(40) < 20, rng.integers(-1010, -990, (40, 40)), tissue)
    for pixels, modality in ((tissue, UNKNOWN), (with_air.astype(np.int16), find_modality("CT"))):
        dataset = image(pixels, **({} if empty == "missing" else empty))
        if empty == "missing":
            del dataset.RescaleSlope, dataset.RescaleIntercept
        dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
        caplog.clear()
        scan = read_scan(tmp_path / "a.dcm")
        assert (scan.modality, scan.unit) == ("", "")
        assert modality_of(scan, None) == modality
        assert caplog.messages == [
            "a.dcm: CT without RescaleSlope, so its unit is unknown; it is shown as a CT only if "
            "it has air at -1000 (else --modality CT)"
        ]


def changed(folder, *tables):
    """A series of which file n has the tags of table n too; a tag that is None is taken out."""
    series(folder, RescaleSlope="1", RescaleIntercept="-1024", BitsStored=12, HighBit=11)
    for count, tags in enumerate(tables):
        dataset = pydicom.dcmread(folder / f"IM{count:04d}")
        for tag, value in tags.items():
            setattr(dataset, tag, value)
            if value is None:
                delattr(dataset, tag)
        dataset.save_as(folder / f"IM{count:04d}")
    return folder


NOT_RESCALED = {"RescaleSlope": None, "RescaleIntercept": None}


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([NOT_RESCALED], "ct: slices should all be rescaled, found some with RescaleSlope and "
         "RescaleIntercept, and some without"),
        ([{"RescaleType": "HU"}, {"RescaleType": "US"}],
         "ct: slices should be of one unit, found RescaleType HU and US"),
        ([{"PhotometricInterpretation": "MONOCHROME1"}],
         "ct: slices should be of one kind, found low values shown bright in 1 of 4 slices "
         "(PhotometricInterpretation, PresentationLUTShape)"),
        ([{"PresentationLUTShape": "INVERSE"}] * 3,
         "ct: slices should be of one kind, found low values shown bright in 3 of 4 slices "
         "(PhotometricInterpretation, PresentationLUTShape)"),
    ],
)  # fmt: skip
def test_values_of_two_kinds_are_no_volume(tables, message, tmp_path):
    assert refusal(changed(tmp_path / "ct", *tables)) == message


def test_a_slope_of_one_in_some_slices_only_changes_nothing(tmp_path):
    neutral = {"RescaleSlope": "1", "RescaleIntercept": "0"}
    folder = changed(tmp_path / "ct", NOT_RESCALED, neutral, neutral, neutral)
    np.testing.assert_array_equal(read_scan(folder).voxels, VOXELS)


def test_slices_of_several_slopes_and_bits_are_turned_at_one_value(tmp_path):
    """What is equal before is equal afterwards, and what is lower is brighter."""
    low = {"PhotometricInterpretation": "MONOCHROME1"}
    tables = [low, {**low, "RescaleSlope": "3"}, {**low, "BitsStored": 16, "HighBit": 15}, low]
    folder = changed(tmp_path / "ct", *tables)
    turned = read_scan(folder).voxels
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.save_as(path)
    total = turned + read_scan(folder).voxels
    assert total.min() == total.max()


@pytest.mark.parametrize("modality", ["CT", "PT"])
def test_values_that_are_turned_are_in_no_unit(modality, tmp_path, caplog):
    """No window of Hounsfield units is put on them, and no SUV comes of them."""
    tags = {"RescaleSlope": "1", "RescaleIntercept": "0", "Units": "GML", "Modality": modality}
    path = saved(tmp_path / "a.dcm", WORDS, PhotometricInterpretation="MONOCHROME1", **tags)
    scan = read_scan(path)
    assert (scan.modality, scan.unit) == (modality.replace("CT", ""), "")
    assert ["low values are shown bright" in message for message in caplog.messages] == [True]
    np.testing.assert_array_equal(values(path), 65535 - PAGE)


# --- what is refused

WORDS = PAGE.astype(np.uint16)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"RescaleSlope": "0"}, "RescaleSlope should not be 0"),
        ({"RescaleSlope": ["1", "2"]}, "RescaleSlope should be a number, found '[1, 2]'"),
        ({"HighBit": 10, "BitsStored": 12}, "HighBit should be 11..15 (BitsStored, BitsAllocated), "
         "found 10"),
        ({"HighBit": 16, "BitsStored": 12}, "HighBit should be 11..15 (BitsStored, BitsAllocated), "
         "found 16"),
        ({"BitsStored": 17}, "BitsStored should be 1..16 (BitsAllocated), found 17"),
        ({"BitsAllocated": 12}, "BitsAllocated should be 1, 8, 16, 32 or 64, found 12"),
        ({"PixelRepresentation": 2}, "PixelRepresentation should be 0 or 1, found 2"),
        ({"PixelRepresentation": None}, "PixelRepresentation is missing"),
        ({"Columns": None}, "Columns is missing"),
        ({"Rows": 0}, "Rows should be 1..65535, found 0"),
        ({"PhotometricInterpretation": None}, "PhotometricInterpretation is missing"),
        ({"PhotometricInterpretation": "CMYK"}, "PhotometricInterpretation 'CMYK' is not read"),
        ({"PhotometricInterpretation": "YBR_PARTIAL_422"},
         "PhotometricInterpretation 'YBR_PARTIAL_422' is not read"),
        ({"PhotometricInterpretation": "RGB"}, "SamplesPerPixel should be 3 where "
         "PhotometricInterpretation is RGB, found 1"),
        ({"SamplesPerPixel": 3, "PlanarConfiguration": 0}, "SamplesPerPixel should be 1 where "
         "PhotometricInterpretation is MONOCHROME2, found 3"),
        ({"PixelData": WORDS.tobytes()[:-2]}, "PixelData should have 96 bytes, found 94: it is "
         "cut off"),
        ({"PixelData": 3 * WORDS.tobytes()}, "PixelData has the bytes of 3 frames, NumberOfFrames "
         "is 1"),
        ({"PixelPaddingRangeLimit": 3}, "PixelPaddingRangeLimit is given without "
         "PixelPaddingValue"),
        ({"ModalityLUTSequence": [table_of(np.arange(9), 0, "OW")], "RescaleSlope": "2"},
         "ModalityLUTSequence and RescaleSlope are both given, expected one of them"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused_with_the_name_of_the_tag(tags, message, tmp_path):
    assert refusal(saved(tmp_path / "a.dcm", WORDS, **tags)) == f"a.dcm: {message}"


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize("representation", ["US", "SS", "UL", "SL", "FD", "LO", "LO of a space"])
def test_a_slope_of_another_vr_is_refused(keyword, representation, tmp_path):
    """GDCM refuses it, too: a -1024 that is stored as US would be read as 64512."""
    dataset = image(WORDS)
    value = {"LO": "12", "LO of a space": " "}.get(representation, 12)
    representation = representation[:2]
    dataset.update(explicit(keyword, representation, value))
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert refusal(tmp_path / "a.dcm") == (
        f"a.dcm: {keyword} should be decimal text (VR DS), found VR {representation}"
    )


@pytest.mark.parametrize("representation", ["SQ", "UN"])
@pytest.mark.parametrize("sequence", [
    "PixelValueTransformationSequence", "PlanePositionSequence", "PixelMeasuresSequence",
])  # fmt: skip
def test_an_empty_functional_group_is_refused(sequence, representation, tmp_path):
    """DICOM PS3.3 C.7.6.16.2: each has an item; without it a slope or a place would be missing."""
    dataset = enhanced()
    shared = dataset.SharedFunctionalGroupsSequence[0]
    holder = shared if sequence in shared else dataset.PerFrameFunctionalGroupsSequence[2]
    empty = b"" if representation == "UN" else []
    holder[sequence] = DataElement(sequence, representation, empty)
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert refusal(tmp_path / "a.dcm") == f"a.dcm: {sequence} should have an item, found none"


def test_an_empty_functional_group_of_a_frame_does_not_hide_the_shared_one(tmp_path):
    dataset = enhanced()
    item = dataset.PerFrameFunctionalGroupsSequence[0].PixelValueTransformationSequence
    dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence = item
    for group in dataset.PerFrameFunctionalGroupsSequence:
        group.PixelValueTransformationSequence = []
    dataset.save_as(tmp_path / "empty.dcm", enforce_file_format=True)
    for group in dataset.PerFrameFunctionalGroupsSequence:
        del group.PixelValueTransformationSequence
    dataset.save_as(tmp_path / "absent.dcm", enforce_file_format=True)
    found, wanted = (read_scan(tmp_path / f"{name}.dcm").voxels for name in ("empty", "absent"))
    np.testing.assert_array_equal(found, wanted)


def test_padding_everywhere_is_refused(tmp_path):
    path = saved(tmp_path / "a.dcm", np.full((6, 8), 9, np.uint16), PixelPaddingValue=9)
    assert refusal(path) == "a.dcm: PixelPaddingValue is the value of every pixel"


def test_an_overlay_inside_the_stored_bits_is_refused(tmp_path):
    dataset = image(WORDS, BitsStored=12, HighBit=11)
    dataset.add_new(0x60020102, "US", 5)
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert refusal(tmp_path / "a.dcm") == (
        "a.dcm: OverlayBitPosition should lie outside of the stored bits 0..11, found 5"
    )


def test_the_message_is_of_the_file_among_the_slices(tmp_path):
    """A spacing that is one number is not taken for two."""
    folder = series(tmp_path / "ct")
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PixelSpacing = "0.5"
        dataset.save_as(path)
    assert refusal(folder) == "IM0000: PixelSpacing should be 2 numbers, found '0.5'"
    folder = series(tmp_path / "other")
    dataset = pydicom.dcmread(folder / "IM0002")
    dataset.BitsStored = 20
    dataset.save_as(folder / "IM0002")
    assert refusal(folder) == "IM0002: BitsStored should be 1..16 (BitsAllocated), found 20"


def test_slices_in_colour_among_grey_ones_are_refused(tmp_path):
    folder = series(tmp_path / "ct")
    dataset = pydicom.dcmread(folder / "IM0001")
    colour = np.zeros((5, 7, 3), np.uint8)
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "RGB", 3
    dataset.PlanarConfiguration, dataset.PixelRepresentation = 0, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelData = colour.tobytes() + b"\0"
    dataset.save_as(folder / "IM0001")
    assert refusal(folder) == (
        "ct: has 2 volumes, --volume should name one of 0..1: 0 (SamplesPerPixel 1, 3 slices); "
        "1 (SamplesPerPixel 3, 1 slice)"
    )


# --- damaged files


def test_what_pydicom_cannot_take_is_one_line_of_ours(tmp_path):
    """Columns of three bytes, a deflated file that is damaged, fewer frames than declared."""
    content = saved(tmp_path / "a.dcm", WORDS).read_bytes()
    at = content.index(b"\x28\x00\x11\x00US")
    odd = content[: at + 6] + b"\x03\x00" + content[at + 8 : at + 10] + b"\0" + content[at + 10 :]
    (tmp_path / "a.dcm").write_bytes(odd)
    assert refusal(tmp_path / "a.dcm") == (
        "a.dcm: not a readable DICOM file (Columns cannot be read: it is damaged)"
    )
    dataset = image(np.random.default_rng(1).integers(0, 9, (64, 64), np.uint16))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "b.dcm", enforce_file_format=True)
    content = (tmp_path / "b.dcm").read_bytes()
    for at in range(600, len(content) - 600, 100):  # not everywhere is it found out
        (tmp_path / "b.dcm").write_bytes(content[:at] + b"\xff" * 99 + content[at + 99 :])
        try:
            pydicom.dcmread(tmp_path / "b.dcm")
        except zlib.error:
            break
    assert refusal(tmp_path / "b.dcm") == (
        "b.dcm: not a readable DICOM file (its deflated data are damaged)"
    )
    dataset = image(np.stack([WORDS, WORDS]))
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.NumberOfFrames = 3
    dataset.save_as(tmp_path / "c.dcm", enforce_file_format=True)
    with pytest.raises(ScanError) as raised:
        read_scan(tmp_path / "c.dcm", 0)
    assert str(raised.value) == "c.dcm: PixelData has 2 frames, NumberOfFrames is 3"


def test_identifiers_that_are_damaged_are_shown_as_far_as_they_can_be_printed(tmp_path):
    dataset = image(WORDS)
    dataset.SOPClassUID = "1.2.3"
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    content = (tmp_path / "a.dcm").read_bytes()
    at = content.index(b"1.2.840.10008.1.2.1")
    (tmp_path / "a.dcm").write_bytes(content[:at] + b"1.2\n" + content[at + 4 :])
    assert refusal(tmp_path / "a.dcm") == (
        "a.dcm: TransferSyntaxUID '1.2\\n840.10008.1.2.1' is not known"
    )
    del dataset.Rows
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    content = (tmp_path / "a.dcm").read_bytes().replace(b"1.2.3\0", b"1.2\n3\0")
    (tmp_path / "a.dcm").write_bytes(content)
    assert refusal(tmp_path / "a.dcm") == ("a.dcm: expected an image, found 1.2\\n3 without pixels")


STREAMS = ("JPEG2000.dcm", "SC_rgb_jpeg_dcmtk.dcm", "MR_small_jpeg_ls_lossless.dcm",
           "MR_small_jp2klossless.dcm", "JPEG-lossy.dcm", "MR_small_RLE.dcm")  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
def test_a_compressed_frame_that_is_cut_off_is_refused(name, tmp_path, capfd):
    """Decoders fill up what is missing; nor do they say anything of their own on stderr."""
    dataset = pydicom.dcmread(TEST_FILES / name)
    (stream,) = pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1)
    for kept in (0.2, 0.6, 0.95):
        part = stream[: int(kept * len(stream)) // 2 * 2]
        dataset.PixelData = pydicom.encaps.encapsulate([part])
        dataset.save_as(tmp_path / "a.dcm")
        assert refusal(tmp_path / "a.dcm").startswith("a.dcm: PixelData ")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", [name for name in STREAMS if "RLE" not in name])
def test_a_compressed_frame_of_another_size_is_refused(name, tmp_path):
    """As many pixels, but in rows of another length: decoders give a scrambled picture."""
    dataset = pydicom.dcmread(TEST_FILES / name)
    rows, columns = dataset.Rows, dataset.Columns
    dataset.save_as(tmp_path / "a.dcm")
    assert read_scan(tmp_path / "a.dcm").grid == (columns, rows, 1)
    dataset.Rows, dataset.Columns = rows // 2, columns * 2
    dataset.save_as(tmp_path / "a.dcm")
    assert refusal(tmp_path / "a.dcm") == (
        f"a.dcm: PixelData should be {columns * 2} x {rows // 2} pixels (Columns, Rows), found "
        f"{columns} x {rows} in frame 1 of 1"
    )


def test_baseline_jpeg_has_8_bits(tmp_path, capfd):
    dataset = pydicom.dcmread(TEST_FILES / "SC_rgb_jpeg_dcmtk.dcm")
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PhotometricInterpretation = "RGB"
    dataset.save_as(tmp_path / "a.dcm")
    assert refusal(tmp_path / "a.dcm") == (
        "a.dcm: BitsAllocated should be 8 where pixels are JPEG Baseline (Process 1), found 16"
    )
    assert capfd.readouterr() == ("", "")


def test_a_number_that_is_none_is_told_by_nobody(tmp_path, recwarn, caplog):
    """A SeriesNumber of 3.5: pydicom would warn in its own words."""
    folder = series(tmp_path / "mr")
    for path in folder.iterdir():
        content = path.read_bytes()
        at = content.index(b"\x20\x00\x11\x00IS")
        path.write_bytes(content[: at + 6] + b"\x04\x003.5 " + content[at + 10 :])
    assert read_scan(folder).grid == (7, 5, 4)
    assert not recwarn.list
    assert not caplog.messages

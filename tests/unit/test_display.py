"""Raw values to 0..255: each modality found, challenge values untouched, windows on paper."""

import logging

import numpy as np
import pytest

from swiftmedsam.display import WINDOWS, Window, parse_window, to_display
from swiftmedsam.modality import CASE_NAME, MODALITIES, UNKNOWN, find_modality

CT, MR = find_modality("CT"), find_modality("MR")
SPELLINGS = [(name, m) for m in MODALITIES for name in (m.name, *m.aliases)]


@pytest.mark.parametrize(("name", "modality"), SPELLINGS, ids=[name for name, _ in SPELLINGS])
def test_a_modality_is_found_however_it_is_spelt(name, modality):
    for spelt in (name, name.lower(), name.upper(), "-".join(name), f" {name} ", name + "-"):
        assert find_modality(spelt) is modality


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("XRay", "X-Ray"), ("CXR", "X-Ray"), ("Microscope", "Microscopy"), ("OCT", "OCT"),
        ("Mamm", "Mammography"), ("MRI", "MR"), ("PT", "PET"), ("Fundus", "Fundus"),
        # codes of DICOM
        ("ES", "Endoscopy"), ("SM", "Microscopy"), ("GM", "Microscopy"), ("OP", "Fundus"),
        ("OPT", "OCT"), ("DMS", "Dermoscopy"), ("XA", "X-Ray"), ("RF", "X-Ray"), ("PX", "X-Ray"),
        ("IO", "X-Ray"), ("MG", "Mammography"), ("DX", "X-Ray"), ("CR", "X-Ray"),
    ],
)  # fmt: skip
def test_the_challenges_names_mean_what_they_say(name, wanted):
    assert find_modality(name).name == wanted


@pytest.mark.parametrize("name", ["", "-", "Sonar", "CTX", "XCT"])
def test_any_other_name_is_unknown(name):
    assert find_modality(name) is UNKNOWN


@pytest.mark.parametrize(("factor", "offset"), [(1e-9, 0), (1e-35, 0), (1, 2**31), (1e-3, 1e5)])
def test_a_narrow_range_is_spread_as_any_other(factor, offset):
    """As diffusion in m2/s, 1e-9, or counts on a high offset: float32 has no steps left there."""
    values = np.linspace(1, 3, 200).reshape(1, 10, 20) * 100
    shown = to_display(values * factor + offset, MR, raw=True)
    expected = to_display(values.astype(np.float32), MR, raw=True)
    assert np.abs(shown.astype(int) - expected).max() <= 1


def test_only_ct_has_a_window():
    image = np.array([[-1000, -50, 40, 90], [200, 300, 500, 3000]])
    shown = {m.name: to_display(image, m, Window(40, 400)) for m in (*MODALITIES, UNKNOWN)}
    others = {m.name: to_display(image, m, Window(300, 1500)) for m in (*MODALITIES, UNKNOWN)}
    assert [name for name in shown if (shown[name] != others[name]).any()] == ["CT"]


def test_no_name_is_that_of_two_modalities():
    names = [name.lower().replace("-", "") for name, _ in SPELLINGS]
    twice = {name for name in names if names.count(name) > 1}
    assert twice == {"xray"}  # of the same one


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("2DBox_US_Set-1.npz", ("2", "US", "Set-1")),
        ("3DBox_MR_a_b.npz", ("3", "MR", "a_b")),
        ("2DBox_US1.npz", ("2", "US1", None)),
        ("2DBox_US_.npz", ("2", "US", "")),
        ("2DBox_.npz", ("2", "", None)),
        ("2DBox_X\nY_1.npz", ("2", "X\nY", "1")),
        ("4DBox_US_1.npz", None),
        ("2DBox_US_1.npy", None),
        ("x2DBox_US_1.npz", None),
    ],
)
def test_names_of_cases_have_one_pattern(name, parts):
    match = CASE_NAME.fullmatch(name)
    assert (match and (match["dim"], match["modality"], match["rest"])) == parts


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64, np.float32, ">f8"])
@pytest.mark.parametrize("modality", [CT, MR, UNKNOWN], ids=lambda m: m.name)
def test_values_of_the_challenge_pass_unchanged(dtype, modality):
    image = np.array([[0, 1, 2, 40], [100, 128, 254, 255]]).astype(dtype)
    shown = to_display(image, modality)
    assert shown.dtype == np.uint8
    np.testing.assert_array_equal(shown, image)


def test_a_dark_picture_of_whole_numbers_is_not_brightened():
    np.testing.assert_array_equal(to_display(np.array([[0, 1]]), MR), [[0, 1]])


def test_fractional_challenge_values_are_rounded():
    np.testing.assert_array_equal(to_display(np.array([[0.4, 99.6, 254.7]]), MR), [[0, 100, 255]])


def test_half_floats_are_as_far_apart_as_they_may_be():
    image = np.array([[-60_000, 60_000]], np.float16)
    np.testing.assert_array_equal(to_display(image, MR), [[0, 255]])


def test_hounsfield_units_get_the_soft_tissue_window():
    """Level 40, width 400: -160 is black, 240 white, 40 in the middle."""
    image = np.array([[-1024, -160, -159], [40, 240, 3071]], np.int16)
    shown = to_display(image, CT)
    assert shown[1, 0] in (127, 128)
    shown[1, 0] = 0
    np.testing.assert_array_equal(shown, [[0, 0, 1], [0, 255, 255]])


def test_hounsfield_units_get_the_window_that_is_asked_for():
    image = np.array([[-1350, -600, 150, 3000], [-1000, -100, 0, 100]], np.float32)
    shown = to_display(image, CT, WINDOWS["lung"])  # -1350..150
    np.testing.assert_array_equal(shown[0, [0, 2, 3]], [0, 255, 255])
    assert shown[0, 1] in (127, 128)
    shown = to_display(image, CT, Window(level=0, width=200))
    np.testing.assert_array_equal(shown[1], [0, 0, 128, 255])


@pytest.mark.parametrize("range_", [(0, 4095), (-1, 1), (-50, 49)])
def test_a_ct_that_is_not_in_hounsfield_units_is_named_and_gets_percentiles(range_, caplog):
    image = np.linspace(*range_, 1001).reshape(7, 143)
    shown = to_display(image, CT, name="2DBox_CT_1.npz")
    (record,) = (r for r in caplog.records if r.levelno == logging.WARNING)
    assert record.getMessage().startswith("2DBox_CT_1.npz: CT of ")
    assert "not in Hounsfield units" in record.getMessage()
    np.testing.assert_array_equal(shown, to_display(image, MR))


def test_raw_values_get_the_percentiles_of_the_pixels_that_are_not_zero():
    """Of 1..1000, 0.5 % is 5.995 and 99.5 % is 995.005; a thousand zeros change nothing."""
    image = np.concatenate([np.zeros(1000, np.int64), np.arange(1, 1001)]).reshape(2, 1000)
    shown = to_display(image, MR)
    np.testing.assert_array_equal(shown[0], np.zeros(1000))
    np.testing.assert_array_equal(shown[1, [0, 4, 6]], [0, 0, 0])
    assert shown[1, 499] == 127  # (500 - 5.995) / 989.01 * 255 = 127.4
    np.testing.assert_array_equal(shown[1, [993, 995, 999]], [255, 255, 255])
    assert (np.diff(shown[1].astype(int)) >= 0).all()


def test_percentiles_are_those_of_the_whole_volume():
    volume = np.zeros((3, 4, 5), np.uint16)
    volume[0], volume[1], volume[2] = 1000, 2000, 3000
    np.testing.assert_array_equal(to_display(volume, MR)[:, 0, 0], [0, 128, 255])


def test_fractions_of_one_are_spread():
    image = np.linspace(0, 1, 1001).reshape(7, 143)
    shown = to_display(image, find_modality("US"))
    assert (shown.min(), shown.max()) == (0, 255)
    assert shown.flat[500] in (126, 127, 128)


def test_true_is_white():
    np.testing.assert_array_equal(to_display(np.array([[False, True]]), MR), [[0, 255]])


@pytest.mark.parametrize("value", [-3000, 0.0, 0.5, 1.0, 5000])
def test_a_constant_picture_is_black_or_left_alone(value):
    assert not to_display(np.full((2, 3), value), MR).any()


def test_one_value_on_black_is_white():
    np.testing.assert_array_equal(to_display(np.array([[0, 5000, 0]]), MR), [[0, 255, 0]])


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_order_in_memory_does_not_matter(order):
    image = np.arange(60).reshape(3, 4, 5) * 100
    wanted = to_display(image, MR)
    shown = to_display(np.asarray(image.astype(">i4"), order=order), MR)
    np.testing.assert_array_equal(shown, wanted)


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("soft", Window(40, 400)), ("lung", Window(-600, 1500)), ("bone", Window(300, 1500)),
        ("brain", Window(40, 80)), ("-50,350.5", Window(-50, 350.5)), ("1, 2", Window(1, 2)),
    ],
)  # fmt: skip
def test_a_window_is_a_name_or_two_numbers(text, window):
    assert parse_window(text) == window


@pytest.mark.parametrize(
    "text",
    ["", "soft ", "liver", "40", "40,", "40,400,1", "40,0", "40,-1", "nan,3", "3,nan", "inf,3",
     "3,inf", "a,b"],
)  # fmt: skip
def test_anything_else_is_no_window_and_is_quoted(text):
    with pytest.raises(ValueError, match=r"expected soft, lung, bone, brain or LEVEL,WIDTH") as e:
        parse_window(text)
    assert str(e.value).endswith(f"got '{text}'")

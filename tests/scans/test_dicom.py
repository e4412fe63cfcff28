"""DICOM: what SimpleITK's own reader (GDCM) says of the same files, and what is refused."""

import logging

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from swiftmedsam.scans.boxes.drawn import drawn_box, on_grid
from swiftmedsam.scans.dicom.suv import uptake
from swiftmedsam.scans.formats.by_suffix import read_scan
from swiftmedsam.scans.scan import RAS_OF_LPS, ScanError
from tests.helpers.dicom import (
    ROUNDED,
    TEST_FILES,
    TILT,
    TILTED,
    VOXELS,
    enhanced,
    image,
    place_tags,
    series,
)
from tests.helpers.scans import AFFINES, ALIGNED, itk_affine


@pytest.mark.parametrize("placed", AFFINES)
def test_a_series_lies_where_simpleitk_says(placed, tmp_path):
    folder = series(tmp_path / "ct", affine=AFFINES[placed])
    scan = read_scan(folder)
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    np.testing.assert_allclose(scan.affine, AFFINES[placed], atol=ROUNDED)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    theirs = reader.Execute()
    np.testing.assert_allclose(itk_affine(theirs), scan.affine, atol=ROUNDED)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(theirs).T, scan.voxels)
    assert (scan.modality, scan.slice_axis) == ("CT", 2)


def test_one_file_is_one_slice(tmp_path):
    folder = series(tmp_path / "ct")
    path = folder / "IM0002"
    k = np.random.default_rng(1).permutation(4)[2]
    scan = read_scan(path)
    assert scan.grid == (7, 5, 1)
    np.testing.assert_array_equal(scan.voxels[:, :, 0], VOXELS[:, :, k])
    np.testing.assert_allclose(scan.affine[:3, 3], (ALIGNED @ [0, 0, k, 1])[:3], atol=ROUNDED)
    np.testing.assert_allclose(scan.spacing_mm, [1, 2, 9], atol=ROUNDED)


def test_what_is_no_image_in_a_folder_is_left_alone(tmp_path):
    folder = series(tmp_path / "ct")
    (folder / "notes.txt").write_text("no DICOM")
    (folder / "empty").touch()
    report = image(VOXELS[:, :, 0], Modality="SR")
    report.save_as(folder / "report", enforce_file_format=True)
    np.testing.assert_array_equal(read_scan(folder).voxels, VOXELS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScanError, match=r"^empty: expected DICOM images, or boxes that name"):
        read_scan(tmp_path / "empty")


def test_a_file_of_a_folder_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    folder = series(tmp_path / "ct")

    def is_dicom(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("swiftmedsam.scans.dicom.files.is_dicom", is_dicom)
    with pytest.raises(ScanError, match=r"^IM0000: cannot be read \(Permission denied\)$"):
        read_scan(folder)


def test_values_are_rescaled_slice_by_slice(tmp_path):
    folder = series(tmp_path / "ct", RescaleSlope="2", RescaleIntercept="-1024")
    np.testing.assert_array_equal(read_scan(folder).voxels, VOXELS * 2 - 1024.0)
    other = pydicom.dcmread(folder / "IM0000")
    other.RescaleSlope = "4"
    other.save_as(folder / "IM0000")
    k = np.random.default_rng(1).permutation(4)[0]
    np.testing.assert_array_equal(read_scan(folder).voxels[:, :, k], VOXELS[:, :, k] * 4 - 1024.0)


@pytest.mark.parametrize(("dtype", "wanted"), [(np.uint8, 255), (np.int16, -1)])
def test_monochrome1_is_turned(dtype, wanted, tmp_path):
    pixels = VOXELS[:, :, 0].T.astype(dtype)
    dataset = image(np.ascontiguousarray(pixels), PhotometricInterpretation="MONOCHROME1")
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    found = read_scan(tmp_path / "a.dcm").voxels[:, :, 0].T
    np.testing.assert_array_equal(found, wanted - pixels.astype(float))


def remove(folder, k):
    (folder / f"IM{list(np.random.default_rng(1).permutation(8)).index(k):04d}").unlink()


MORE = np.arange(7 * 5 * 8, dtype=np.int16).reshape(7, 5, 8)


def test_a_missing_slice_is_refused(tmp_path):
    folder = series(tmp_path / "ct", MORE)
    remove(folder, 3)
    with pytest.raises(ScanError) as raised:
        read_scan(folder)
    assert str(raised.value) == (
        "ct: slices should be evenly spaced, found 3 mm and, after slice 3 of 7, 6 mm: "
        "some are missing"
    )
    np.testing.assert_array_equal(
        read_scan(series(tmp_path / "end", MORE[:, :, 1:])).voxels, MORE[:, :, 1:]
    )


def test_a_doubled_slice_is_refused(tmp_path):
    folder = series(tmp_path / "ct", MORE)
    again = pydicom.dcmread(folder / "IM0002")
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    again.save_as(folder / "copy")
    with pytest.raises(ScanError) as raised:
        read_scan(folder)
    assert str(raised.value) == (
        "ct: slices are doubled at 1 of 8 positions, expected one each; the first are IM0002 and "
        "copy"
    )


def test_slices_of_a_tilted_gantry_lie_where_each_of_them_says(tmp_path, caplog):
    scan = read_scan(series(tmp_path / "ct", affine=TILTED))
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    np.testing.assert_allclose(scan.affine, TILTED, atol=ROUNDED)
    assert caplog.messages == [
        "ct: the stack is tilted by 20.0 degrees against its slices (gantry tilt); each stays "
        "where it was acquired"
    ]
    for file, _ in scan.sources:
        header = pydicom.dcmread(file)
        k = int(header.pixel_array[0, 0])  # VOXELS[0, 0, k] is k
        first = RAS_OF_LPS[:3, :3] @ np.array(header.ImagePositionPatient, float)
        np.testing.assert_allclose((scan.affine @ [0, 0, k, 1])[:3], first, atol=ROUNDED)


def test_a_box_in_mm_is_all_slices_of_a_tilted_gantry_that_it_meets(tmp_path):
    """Rows lie 2 cos 20 mm apart; the box is 9 mm along the table, its slices reach out of it."""
    scan = read_scan(series(tmp_path / "ct", np.zeros((64, 40, 12), np.int16), TILTED))
    rows = 40 - 2 * np.cos(TILT) * np.array([20, 10])
    low = -50 + 2 * np.sin(TILT) * 15 + 12  # in the middle of these rows slice 4
    box = drawn_box("a", [0, rows[0], low, 10, rows[1], low + 9], "mm", "RAS")
    placed = on_grid(box, scan, 1)
    more = int(2 * np.sin(TILT) * 5 / 3)  # slices by which the rows are higher, or lower, than that
    assert more == 1
    assert (placed.first, placed.last) == ((20, 10, 4 - more), (30, 20, 7 + more))


def test_no_gantry_is_tilted_that_much(tmp_path):
    tilted = ALIGNED.copy()
    tilted[1, 2] = 3 * np.tan(np.deg2rad(50))
    with pytest.raises(ScanError, match=r"^ct: the stack is tilted by 50.0 degrees against its sl"):
        read_scan(series(tmp_path / "ct", affine=tilted))


def test_slices_of_several_kinds_are_refused(tmp_path):
    folder = series(tmp_path / "a")
    image(VOXELS[:, :3, 0], **place_tags(ALIGNED, 9)).save_as(
        folder / "other", enforce_file_format=True
    )
    with pytest.raises(ScanError, match=r"^a: slices should be of one kind, found sizes \(5, 7\)"):
        read_scan(folder)
    folder = series(tmp_path / "b")
    turned = ALIGNED[:, [1, 0, 2, 3]]
    image(VOXELS[:5, :, 0].T.repeat(2, axis=1)[:5, :7].copy(), **place_tags(turned, 9)).save_as(
        folder / "other", enforce_file_format=True
    )
    with pytest.raises(ScanError, match=r"^b: slices should be of one kind, found pixel spacings"):
        read_scan(folder)
    folder = series(tmp_path / "c")
    tags = place_tags(ALIGNED, 9) | {"ImageOrientationPatient": [0, 1, 0, 1, 0, 0]}
    image(VOXELS[:, :, 0].T.copy(), **tags).save_as(folder / "other", enforce_file_format=True)
    with pytest.raises(ScanError, match=r"^c: slices should be of one kind, found orientati"):
        read_scan(folder)


def test_several_volumes_at_the_same_positions_must_be_chosen(tmp_path):
    folder = tmp_path / "mr"
    for echo in (2, 1):
        series(tmp_path / "mr", VOXELS + 100 * echo, EchoNumbers=echo)
        for path in list(folder.glob("IM*")):
            path.rename(folder / f"{echo}_{path.name}")
    with pytest.raises(ScanError, match=r"^mr: has 2 volumes, --volume should name one of 0..1"):
        read_scan(folder)
    for volume in (0, 1):
        np.testing.assert_array_equal(read_scan(folder, volume).voxels, VOXELS + 100 * (volume + 1))


def test_one_of_several_series_must_be_chosen(tmp_path):
    folder = series(tmp_path / "study", SeriesDescription="Thorax")
    other = generate_uid()
    series(folder, VOXELS + 500, SeriesNumber=7, SeriesInstanceUID=other, Modality="MR")
    with pytest.raises(ScanError) as raised:
        read_scan(folder)
    message = str(raised.value)
    assert message.startswith("study: --series should name one of 2 series: ")
    assert "3 (CT, 4 files, Thorax)" in message
    assert "7 (MR, 4 files, no description)" in message
    for wanted in ("7", other):
        np.testing.assert_array_equal(read_scan(folder, None, wanted).voxels, VOXELS + 500)


@pytest.mark.parametrize("placed", AFFINES)
def test_an_enhanced_file_is_a_volume_by_its_frames_positions(placed, tmp_path):
    path = tmp_path / "a.dcm"
    enhanced(AFFINES[placed]).save_as(path, enforce_file_format=True)
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.voxels, VOXELS + 5.0)
    np.testing.assert_allclose(scan.affine, AFFINES[placed], atol=ROUNDED)


def test_each_frame_has_its_own_slope(tmp_path):
    enhanced(order=(0, 1, 2, 3), slopes=(1, 2, 3, 4)).save_as(
        tmp_path / "a.dcm", enforce_file_format=True
    )
    np.testing.assert_array_equal(
        read_scan(tmp_path / "a.dcm").voxels, VOXELS * np.array([1.0, 2, 3, 4]) + 5
    )


def test_frames_of_a_film_are_images_of_which_one_is_chosen(tmp_path):
    """Time is no axis of slices."""
    frames = np.stack([VOXELS[:, :, k].T for k in range(4)])
    image(frames, Modality="US").save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with pytest.raises(ScanError) as raised:
        read_scan(tmp_path / "a.dcm")
    assert str(raised.value) == (
        "a.dcm: 4 frames have no position, so they are images, not slices of a volume, "
        "--volume should name one of 0..3"
    )
    for k in range(4):
        scan = read_scan(tmp_path / "a.dcm", k)
        np.testing.assert_array_equal(scan.voxels, VOXELS[:, :, [k]])
        assert not scan.has_mm


# --- SUV, on paper: 200 MBq given two half-lives before, so 50 MBq are left in 80 kg


def pet(start=None, **tags):
    tracer = Dataset()
    tracer.RadionuclideTotalDose, tracer.RadionuclideHalfLife = "200e6", "3600"
    tracer.RadiopharmaceuticalStartTime = "230000"
    if start:
        tracer.RadiopharmaceuticalStartDateTime = start
    dataset = Dataset()
    dataset.Modality, dataset.Units, dataset.CorrectedImage = "PT", "BQML", ["ATTN", "DECY"]
    dataset.DecayCorrection, dataset.PatientWeight = "START", "80"
    dataset.SeriesDate, dataset.SeriesTime = "20200102", "010000.5"
    dataset.AcquisitionDate, dataset.AcquisitionTime = "20200102", "010000"
    dataset.RadiopharmaceuticalInformationSequence = [tracer]
    for tag, value in tags.items():
        setattr(dataset, tag, value)
    return dataset


def test_uptake_is_per_dose_left_and_gram(caplog):
    caplog.set_level(logging.INFO)
    assert uptake([pet()], "a") == (pytest.approx(80_000 / 50e6), "SUV")  # given the evening before
    assert uptake([pet(DecayCorrection="ADMIN")], "a")[0] == pytest.approx(80_000 / 200e6)
    assert uptake([pet("20200102000000.00")], "a")[0] == pytest.approx(80_000 / 100e6)
    for offset in ("", "+0100"):
        dated = pet("202001020000+0100", TimezoneOffsetFromUTC=offset)
        assert uptake([dated], "a")[1] == ("SUV" if offset else "Bq/ml")
    assert caplog.messages[0] == "a: PET from Bq/ml to SUV by body weight, times 0.0016"


@pytest.mark.parametrize("time", ["01", "0100", "010000", "010000.123456"])
def test_times_may_be_as_short_and_long_as_dicom_allows(time):
    factor, _ = uptake([pet(SeriesTime=time, AcquisitionTime=time)], "a")
    assert factor == pytest.approx(80_000 / 50e6)


def test_the_dose_decays_until_the_series_began_not_until_each_slice():
    """A series has many times of acquisition; it began at the first of them, or before."""
    beds = [pet(AcquisitionTime=time) for time in ("030000", "010000", "020000")]
    assert uptake(beds, "a") == (pytest.approx(80_000 / 50e6), "SUV")


def test_a_series_that_was_processed_later_has_no_start_but_that_of_ge(caplog):
    later = {"SeriesTime": "040000"}
    assert uptake([pet(**later)], "a") == (1, "Bq/ml")
    assert caplog.messages == [
        "a: PET stays in Bq/ml, without SUV: the series should begin no later than its "
        "acquisition, 2020-01-02 01:00:00, found 2020-01-02 04:00:00"
    ]
    for representation in ("DT", "UN"):
        processed = pet(**later)
        started = "20200102010000.00"
        block = processed.private_block(0x0009, "GEMS_PETD_01", create=True)
        block.add_new(0x0D, representation, started.encode() if representation == "UN" else started)
        assert uptake([processed], "a") == (pytest.approx(80_000 / 50e6), "SUV")


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"CorrectedImage": ["ATTN"]}, "CorrectedImage should have ATTN and DECY, found ATTN"),
        ({"PatientWeight": ""}, "PatientWeight should be a number above 0, found nothing"),
        ({"PatientWeight": "0"}, "PatientWeight should be a number above 0, found 0"),
        ({"DecayCorrection": "NONE"}, "DecayCorrection should be START or ADMIN, found NONE"),
        ({"CorrectedImage": None}, "CorrectedImage should have ATTN and DECY, found nothing"),
        ({"SeriesTime": "late"},
         "SeriesDate SeriesTime should be YYYYMMDD HHMMSS, found 20200102 late"),
        ({"SeriesDate": "20201302"},
         "SeriesDate SeriesTime should be YYYYMMDD HHMMSS, found 20201302 010000.5"),
        ({"AcquisitionTime": ""},
         "AcquisitionDate AcquisitionTime should be YYYYMMDD HHMMSS, found 20200102 no time"),
        ({"RadiopharmaceuticalInformationSequence": []},
         "RadionuclideTotalDose should be a number above 0, found nothing"),
        ({"start": "20200102020000"}, "the scan should be 0..20 half-lives of 3600 s after the "
         "injection, found -3600 s"),
        ({"start": "19700101000000"}, "the scan should be 0..20 half-lives of 3600 s after the "
         "injection, found 1.57793e+09 s"),
        ({"start": "20200102"}, "RadiopharmaceuticalStartDateTime should be YYYYMMDD HHMMSS, found "
         "20200102 no time"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_uptake_stays_as_it_is_where_the_tags_do_not_allow_it(tags, reason, caplog):
    assert uptake([pet(**tags)], "a") == (1, "Bq/ml")
    own = [one.getMessage() for one in caplog.records if not one.name.startswith("pydicom")]
    assert own == [f"a: PET stays in Bq/ml, without SUV: {reason}"]


def test_other_units_are_left_as_they_are(caplog):
    caplog.set_level(logging.INFO)
    assert uptake([pet(Units="GML")], "a") == (1, "SUV")
    assert uptake([pet(Units="CNTS")], "a") == (1, "")
    assert caplog.messages == [
        "a: PET in g/ml, which is SUV", "a: PET without SUV, its units are CNTS"
    ]  # fmt: skip


def test_a_scan_says_the_unit_of_its_values(tmp_path, caplog):
    """All slices of a PET get one factor, whatever their own times, and one line."""
    caplog.set_level(logging.INFO)
    tags = {one.keyword: one.value for one in pet() if one.keyword != "AcquisitionTime"}
    folder = series(tmp_path / "pet", RescaleSlope="50e3", RescaleIntercept="0", **tags)
    for count, path in enumerate(folder.iterdir()):
        dataset = pydicom.dcmread(path)
        dataset.AcquisitionTime = f"01{count:02d}00"
        dataset.save_as(path)
    scan = read_scan(folder)
    np.testing.assert_allclose(scan.voxels, VOXELS * 80.0, rtol=1e-6)
    assert scan.unit == "SUV"
    assert caplog.messages == ["pet: PET from Bq/ml to SUV by body weight, times 0.0016"]
    rescaled = {"RescaleSlope": "2", "RescaleIntercept": "-1024"}
    for count, (tags, unit) in enumerate((
        (rescaled, "HU"), (rescaled | {"RescaleType": "HU"}, "HU"),
        (rescaled | {"RescaleType": "US"}, ""), (rescaled | {"Modality": "MR"}, ""),
        ({"RescaleSlope": None, "RescaleIntercept": None}, ""),
    )):  # fmt: skip
        assert read_scan(series(tmp_path / f"{count}", **tags)).unit == unit


# --- the files pydicom ships for its own tests

SHIPPED = sorted(path for path in TEST_FILES.rglob("*") if path.is_file())
READ = 78  # of them at least; the others are no images, or damaged on purpose


def test_every_file_of_pydicoms_own_tests_is_read_or_refused_in_one_line(caplog):
    caplog.set_level(logging.WARNING)
    read, refused = [], []
    for path in SHIPPED:
        if path.suffix in (".py", ".zip"):
            continue
        try:
            scan = read_scan(path)
        except ScanError as error:
            assert str(error).startswith(path.name)
            assert "\n" not in str(error)
            refused.append(path.name)
        else:
            assert scan.voxels.size
            read.append(path.name)
    assert len(read) >= READ
    assert {"JPEG2000.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_RLE.dcm", "image_dfl.dcm",
            "SC_rgb_jpeg.dcm", "examples_palette.dcm"} <= set(read)  # fmt: skip
    assert {"liver_1frame.dcm", "rtplan.dcm", "MR_truncated.dcm", "rtstruct.dcm"} <= set(refused)
    assert not [record for record in caplog.records if record.name.startswith("pydicom")]


@pytest.mark.parametrize("name", ["jp2klossless", "RLE", "bigendian", "implicit", "expb",
                                  "jpeg_ls_lossless"])  # fmt: skip
def test_every_transfer_syntax_gives_the_same_slice(name):
    wanted = read_scan(TEST_FILES / "MR_small.dcm")
    found = read_scan(TEST_FILES / f"MR_small_{name}.dcm")
    np.testing.assert_array_equal(found.voxels, wanted.voxels)
    np.testing.assert_array_equal(found.affine, wanted.affine)

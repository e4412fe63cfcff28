"""Scans with label maps become cases that every tool reads, and outputs come back exactly."""

import json

import nibabel
import numpy as np
import pytest
from PIL import Image

from swiftmedsam import read_case
from swiftmedsam.evaluation.score import score
from swiftmedsam.program import cases
from swiftmedsam.program.cases import main
from swiftmedsam.train.data.corpus import read_corpus
from tests.helpers import CASE_AFFINE, fresh_logging, image_case, names, picture, volume_case
from tests.helpers.dicom import series
from tests.helpers.scans import AFFINES, ORIENTATIONS, grid_of, labels_by_npz

VALUES = np.array([0, 4, 9, 700])  # of the label map, for the labels 0 to 3
FLIPPED = np.array([[2, -1], [0, 1], [1, -1]])  # one of the 48 ways to store a grid


@pytest.fixture
def data(tmp_path):
    """Folders of scans and of label maps, and what is made of them."""
    for name in ("scans", "labels", "cases", "segs", "back"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def command(data, capsys):
    def run(*words):
        with fresh_logging():
            status = main([str(word) for word in words])
        return status, capsys.readouterr().err.splitlines()

    return run


def save_volume(data, name="liver_0", affine=CASE_AFFINE, orientation=FLIPPED):
    """A scan and its label map, 1 x 2 x 3 mm; returns both, as nibabel's images."""
    images = []
    labels = VALUES[labels_by_npz()].astype(np.int16)
    for folder, slices in (("scans", volume_case()["imgs"]), ("labels", labels)):
        image = nibabel.Nifti1Image(grid_of(slices), affine).as_reoriented(orientation)
        nibabel.save(image, data / folder / f"{name}.nii.gz")
        images.append(image)
    return images


def as_outputs(data):
    """Copies the truth of each case to `segs`, as a program that is always right."""
    for path in (data / "cases").glob("*.npz"):
        np.savez_compressed(data / "segs" / path.name, segs=np.load(path)["gts"])


def make(command, data, *more):
    return command("make", data / "scans", data / "labels", data / "cases", *more)


def back(command, data, *more):
    return command("back", data / "cases", data / "segs", data / "scans", data / "back", *more)


def test_a_case_is_the_volume_as_a_radiologist_sees_it(command, data):
    save_volume(data)
    assert make(command, data, "--modality", "MR")[0] == 0
    assert names(data / "cases") == ["3DBox_MR_liver_0.npz"]
    with np.load(data / "cases" / "3DBox_MR_liver_0.npz", allow_pickle=False) as case:
        np.testing.assert_array_equal(case["imgs"], volume_case()["imgs"])
        np.testing.assert_array_equal(case["gts"], labels_by_npz())
        np.testing.assert_allclose(case["spacing"], [1, 2, 3])
        assert case["label_values"].tolist() == [4, 9, 700]
        for label, box in enumerate(case["boxes"], start=1):
            z, y, x = np.nonzero(case["gts"] == label)
            wanted = [x.min(), y.min(), z.min(), x.max(), y.max(), z.max()]
            assert box.tolist() == wanted


@pytest.mark.parametrize("placed", AFFINES)
def test_outputs_come_back_on_the_grid_of_the_scan_from_all_48_orientations(placed, command, data):
    labels = [save_volume(data, f"n-{i}", AFFINES[placed], orientation)[1]
              for i, orientation in enumerate(ORIENTATIONS)]  # fmt: skip
    assert make(command, data, "--modality", "MR")[0] == 0
    as_outputs(data)
    assert back(command, data)[0] == 0
    for i, wanted in enumerate(labels):
        found = nibabel.load(data / "back" / f"n-{i}_labels.nii.gz")
        np.testing.assert_array_equal(found.dataobj, wanted.dataobj)
        source = nibabel.load(data / "scans" / f"n-{i}.nii.gz")
        np.testing.assert_array_equal(found.affine, source.affine)
    content = json.loads((data / "back" / "n-0_labels.labels.json").read_text())
    assert [one["value"] for one in content["labels"]] == [4, 9, 700]


def test_the_program_answers_a_case_as_it_answers_the_scan(program, command, data):
    save_volume(data)
    assert make(command, data, "--modality", "MR")[0] == 0
    assert program(inputs=data / "cases", outputs=data / "segs")[0] == 0
    assert back(command, data)[0] == 0
    options = ["--boxes-from", str(data / "labels" / "liver_0.nii.gz"), "--modality", "MR"]
    scan, out = data / "scans" / "liver_0.nii.gz", data / "scan.nii.gz"
    assert program(*options, inputs=scan, outputs=out)[0] == 0
    wanted = VALUES[np.asanyarray(nibabel.load(out).dataobj)]
    found = np.asanyarray(nibabel.load(data / "back" / "liver_0_labels.nii.gz").dataobj)
    assert len(np.unique(found)) > 2
    np.testing.assert_array_equal(found, wanted)


def test_evaluation_and_training_read_the_cases(command, data):
    save_volume(data)
    save_picture(data)
    assert make(command, data, "--modality", "MR")[0] == 0
    as_outputs(data)
    rows = score(data / "segs", data / "cases")
    assert [(row.name, row.objects, row.dsc, row.nsd) for row in rows] == [
        ("2DBox_MR_photo.npz", 2, 1, 1), ("3DBox_MR_liver_0.npz", 3, 1, 1)
    ]  # fmt: skip
    pictures = read_corpus(data / "cases")
    assert {one.modality for one in pictures} == {"MR"}
    image, labels = pictures[-1].read()
    assert image.shape == labels.shape == (40, 64)
    assert len(read_case(data / "cases" / "3DBox_MR_liver_0.npz").boxes) == 3


def save_picture(data):
    """A grey picture and its label map; returns the latter, (H, W)."""
    labels = np.zeros((48, 80), np.uint8)
    for value, (x_min, y_min, x_max, y_max) in zip((5, 2), image_case()["boxes"], strict=True):
        labels[y_min : y_max + 1, x_min : x_max + 1] = value
    Image.fromarray(picture(48, 80, labels > 0)).save(data / "scans" / "photo.png")
    Image.fromarray(labels).save(data / "labels" / "photo.png")
    return labels


def test_a_picture_becomes_an_image_in_colour_and_comes_back(command, data):
    labels = save_picture(data)
    assert make(command, data, "--modality", "US")[0] == 0
    with np.load(data / "cases" / "2DBox_US_photo.npz", allow_pickle=False) as case:
        assert "spacing" not in case
        assert case["imgs"].shape == (48, 80, 3)
        np.testing.assert_array_equal(case["boxes"], image_case()["boxes"][::-1])
    as_outputs(data)
    assert back(command, data)[0] == 0
    with Image.open(data / "back" / "photo_labels.png") as found:
        np.testing.assert_array_equal(found, labels)


def test_pages_of_a_tiff_have_no_millimetres(command, data):
    for folder, pages in (("scans", volume_case()["imgs"]), ("labels", labels_by_npz())):
        first, *more = [Image.fromarray(page) for page in pages]
        first.save(data / folder / "stack.tif", save_all=True, append_images=more)
    status, lines = make(command, data, "--modality", "OCT")
    assert (status, lines[0]) == (0, "stack.tif: has no millimetres, its spacing counts as 1")
    with np.load(data / "cases" / "3DBox_OCT_stack.npz", allow_pickle=False) as case:
        assert case["spacing"].tolist() == [1, 1, 1]
        np.testing.assert_array_equal(case["gts"], labels_by_npz())


def test_a_case_of_somebody_else_does_not_come_back(command, data):
    save_volume(data)
    for name in ("3DBox_MR_liver_0.npz", "2DBox_MR.npz"):
        np.savez(data / "cases" / name, imgs=1, gts=1)
        np.savez(data / "segs" / name, segs=1)
    status, lines = back(command, data)
    assert status == 1
    assert lines[0].startswith("left alone (without a partner): ")
    assert lines[1].startswith("3DBox_MR_liver_0.npz: key 'label_values' is missing, found [")


def test_hounsfield_units_get_the_organisers_window(command, data):
    save_volume(data)
    slices = volume_case()["imgs"].astype(np.int16) * 8 - 1000
    slices[:, :, :3] = -1000  # air
    image = nibabel.Nifti1Image(grid_of(slices), CASE_AFFINE).as_reoriented(FLIPPED)
    nibabel.save(image, data / "scans" / "liver_0.nii.gz")
    assert make(command, data)[0] == 0
    with np.load(data / "cases" / "3DBox_CT_liver_0.npz", allow_pickle=False) as case:
        wanted = (slices + 160.0) / 400 * 255
        np.testing.assert_allclose(case["imgs"], wanted.clip(0, 255), atol=0.51)


def test_one_scan_and_one_label_map_need_not_have_the_same_name(command, data):
    _, labels = save_volume(data)
    one = (data / "labels" / "liver_0.nii.gz").rename(data / "labels" / "other.nii.gz")
    scan = (data / "scans" / "liver_0.nii.gz").rename(data / "scans" / "liver_0000.nii.gz")
    assert command("make", scan, one, data / "cases", "--modality", "MR")[0] == 0
    assert names(data / "cases") == ["3DBox_MR_liver.npz"]  # as nnU-Net's label maps are called
    as_outputs(data)
    assert command("back", data / "cases", data / "segs", scan, data / "back")[0] == 0
    found = nibabel.load(data / "back" / "liver_0000_labels.nii.gz")
    np.testing.assert_array_equal(found.dataobj, labels.dataobj)


def test_a_dicom_series_is_a_folder(command, data):
    voxels = grid_of(volume_case()["imgs"].astype(np.int16))
    folder = series(data / "scans" / "study", voxels, Modality="MR")
    labels = nibabel.Nifti1Image(grid_of(labels_by_npz()), CASE_AFFINE)
    nibabel.save(labels, data / "labels" / "study.nii.gz")
    assert make(command, data)[0] == 0
    as_outputs(data)
    assert command("back", data / "cases", data / "segs", folder, data / "back")[0] == 0
    assert names(data / "back") == ["study_labels.dcm"]
    read = (folder / "IM0001").rename(folder / "study_labels.dcm")
    before = read.read_bytes()
    status, lines = command("back", data / "cases", data / "segs", folder, folder)
    assert (status, lines) == (1, ["study_labels.dcm: is an input, and is not overwritten"])
    assert read.read_bytes() == before


def test_a_grid_without_right_angles_is_told(command, data):
    sheared = CASE_AFFINE.copy()
    sheared[1, 2] = 1
    save_volume(data, affine=sheared)
    status, lines = make(command, data, "--modality", "MR")
    assert status == 0
    assert lines[0] == "liver_0.nii.gz: its axes are not at right angles, but count as if they were"


def test_no_scan_is_overwritten_by_labels_of_another(command, data):
    save_volume(data, "a")
    save_volume(data, "a_labels")
    assert make(command, data, "--modality", "MR")[0] == 0
    as_outputs(data)
    before = (data / "scans" / "a_labels.nii.gz").read_bytes()
    status, lines = command("back", data / "cases", data / "segs", data / "scans", data / "scans")
    assert (status, lines[0]) == (1, "a_labels.nii.gz: is an input, and is not overwritten")
    assert (data / "scans" / "a_labels.nii.gz").read_bytes() == before


def test_one_of_several_series_of_a_folder_is_chosen(command, data):
    """As in the program: by its number or UID, there and back; the others are none of it."""
    voxels = grid_of(volume_case()["imgs"].astype(np.int16))
    folder = series(data / "scans" / "study", voxels, Modality="MR")
    series(folder, voxels[:, :, :3], Modality="MR", SeriesNumber=7, SeriesInstanceUID="1.2.7")
    labels = nibabel.Nifti1Image(grid_of(labels_by_npz()), CASE_AFFINE)
    nibabel.save(labels, data / "labels" / "study.nii.gz")
    status, lines = make(command, data)
    assert (status, len(lines)) == (1, 1)
    assert lines[0].startswith("study: --series should name one of 2 series: ")
    status, lines = make(command, data, "--series", "1.2.7")
    assert (status, len(lines)) == (1, 1)
    assert lines[0].endswith("expected the grid of study, (64, 40, 3), got (64, 40, 6)")
    assert names(data / "cases") == []
    assert make(command, data, "--series", "3")[0] == 0
    as_outputs(data)
    status, lines = back(command, data)
    assert (status, len(lines)) == (1, 1)
    words = ("back", data / "cases", data / "segs", folder, data / "back", "--series", "3")
    assert command(*words)[0] == 0
    assert names(data / "back") == ["study_labels.dcm"]


def test_what_does_not_fit_is_one_line_and_the_others_go_on(command, data):
    save_volume(data)
    save_volume(data, "shifted")
    save_volume(data, "empty")
    save_volume(data, "alone")
    (data / "labels" / "alone.nii.gz").unlink()
    for name, scale, move in (("shifted", 1, 1), ("empty", 0, 0)):
        path = data / "labels" / f"{name}.nii.gz"
        image = nibabel.load(path)
        affine = image.affine.copy()
        affine[0, 3] += move
        labels = np.asanyarray(image.dataobj) * scale
        nibabel.save(nibabel.Nifti1Image(labels, affine), path)
    status, lines = make(command, data, "--modality", "MR")
    assert status == 1
    assert lines[:3] == [
        "left alone (without a partner): alone",
        "empty.nii.gz: expected labels 1..65535, found 0..0",
        f"liver_0.nii.gz: written {data / 'cases' / '3DBox_MR_liver_0.npz'}, 3 boxes",
    ]
    assert lines[3].startswith("shifted.nii.gz: expected the grid of shifted.nii.gz")
    assert names(data / "cases") == ["3DBox_MR_liver_0.npz"]


MODALITY = ("--modality", "MR")


def test_what_would_not_fit_is_refused_there_and_back(command, data):
    save_volume(data)
    little, refused = ("--memory-limit", "600M"), "need about 0.8 GB, the memory limit is 0.6 GB"
    assert make(command, data, *MODALITY, *little) == (
        1, [f"liver_0.nii.gz: 40x6x64 voxels of uint8 {refused}"]
    )  # fmt: skip
    assert make(command, data, *MODALITY)[0] == 0
    as_outputs(data)
    status, lines = back(command, data, *little)
    assert (status, len(lines)) == (1, 1)
    assert lines[0].startswith("3DBox_MR_liver_0.npz: ")
    assert lines[0].endswith(f" bytes of imgs, gts, label_values, grid_axes, grid_flips {refused}")
    assert names(data / "back") == []


@pytest.mark.parametrize(
    ("run", "more", "second", "held"),
    [(make, MODALITY, "read_labels", 1), (back, (), "read_scan", 3)],
)
def test_what_is_held_is_not_spent_twice(run, more, second, held, command, data, monkeypatch):
    """The scan while its label map is read; imgs, gts and segs while the scan is."""
    save_volume(data)
    assert make(command, data, *MODALITY)[0] == 0
    as_outputs(data)
    limits = []
    read = getattr(cases, second)

    def spied(*arguments, memory_limit):
        limits.append(memory_limit)
        return read(*arguments, memory_limit=memory_limit)

    monkeypatch.setattr(cases, second, spied)
    assert run(command, data, *more, "--memory-limit", "2000000000")[0] == 0
    assert limits == [2_000_000_000 - held * 64 * 40 * 6]


@pytest.mark.parametrize(
    ("segs", "message"),
    [
        (np.zeros((6, 40, 63), np.uint8), "'segs' should be (6, 40, 64) of 0..3, got (6, 40, 63)"),
        (np.full((6, 40, 64), 4), "'segs' should be (6, 40, 64) of 0..3, got (6, 40, 64) int64 of"),
        (np.zeros((6, 40, 64)), "'segs' should be (6, 40, 64) of 0..3, got (6, 40, 64) float64"),
        (np.zeros((0,), np.uint8), "'segs' should be (6, 40, 64) of 0..3, got (0,) uint8"),
        (None, "key 'segs' is missing, found ['other']"),
    ],
)  # fmt: skip
def test_outputs_of_something_else_are_refused(segs, message, command, data):
    save_volume(data)
    assert make(command, data, "--modality", "MR")[0] == 0
    content = {"other": 1} if segs is None else {"segs": segs}
    np.savez(data / "segs" / "3DBox_MR_liver_0.npz", **content)
    status, lines = back(command, data)
    assert (status, len(lines)) == (1, 1)
    assert lines[0].startswith("3DBox_MR_liver_0.npz: ")
    assert message in lines[0]
    assert names(data / "back") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gts": np.full((6, 40, 64), 4)}, "'gts' should be (6, 40, 64) of 0..3, got (6, 40, 64)"),
        ({"label_values": np.array([1, 2, 1 << 40])}, "'label_values' should be (N,) uint16, got"),
        ({"label_values": np.zeros(0, np.uint16)}, "'label_values' should be (N,) uint16, got (0"),
    ],
)
def test_a_case_that_was_changed_is_refused(change, message, command, data):
    save_volume(data)
    assert make(command, data, *MODALITY)[0] == 0
    as_outputs(data)
    path = data / "cases" / "3DBox_MR_liver_0.npz"
    np.savez(path, **{**np.load(path), **change})
    status, lines = back(command, data)
    assert (status, len(lines)) == (1, 1)
    assert lines[0].startswith(f"3DBox_MR_liver_0.npz: {message}")


def test_wrong_folders_are_one_line(command, data):
    save_volume(data)
    assert make(command, data) == (
        1, ["liver_0.nii.gz: does not say its modality, expected --modality"]
    )  # fmt: skip
    status, lines = back(command, data)
    assert (status, lines) == (1, ["back: expected files of the same names, found none"])
    (data / "scans" / "liver_0.nii").touch()
    status, lines = make(command, data)
    assert (status, len(lines)) == (1, 1)
    assert "liver_0.nii and liver_0.nii.gz would be the same case" in lines[0]
    status, lines = command("make", data / "none", data / "labels", data / "cases")
    assert (status, len(lines)) == (1, 1)

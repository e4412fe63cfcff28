"""`python -m app SCAN [OUTPUT] --box ...`: what is written, what is said, and the exit status."""

import json
import shlex
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom import examples

from swiftmedsam import make_case
from swiftmedsam.display import WINDOWS
from tests.helpers import ROOT, image_case, labels_of, names, volume_case
from tests.helpers.boxes import BOXES, LIVER, SPLEEN, box_words, slicer_file, wanted_volume
from tests.helpers.scans import ALIGNED, grid_of, itk_image

PAGE = ROOT / "docs" / "formats.md"


def test_a_nifti_is_done_in_one_command(program, volume, tiny_network, mine):
    status, lines = program(*box_words(), "--modality", "MR", inputs=volume, outputs=None)
    assert status == 0
    out = nibabel.load(mine / "scan_labels.nii.gz")
    np.testing.assert_array_equal(out.dataobj, wanted_volume(tiny_network))
    np.testing.assert_array_equal(out.affine, nibabel.load(volume).affine)
    assert lines[1:3] == [
        "scan.nii.gz: 64x40x6 voxels of 1 x 2 x 3 mm, axes to LPS; slices along k, axial",
        f"scan.nii.gz: written {mine / 'scan_labels.nii.gz'}, {mine / 'scan_labels.labels.json'}",
    ]
    assert lines[3].startswith("scan.nii.gz  6x40x64  3 boxes  ")
    assert lines[4].startswith("1 written, 0 skipped, 0 failed, ")
    assert names(mine) == ["scan.nii.gz", "scan_labels.labels.json", "scan_labels.nii.gz"]


def test_boxes_in_mm_give_the_same_labels(program, volume, mine):
    assert program(*box_words(), inputs=volume, outputs=mine / "voxel.nii")[0] == 0
    ends = BOXES.reshape(-1, 2, 3)
    lps = (ends @ ALIGNED[:3, :3].T + ALIGNED[:3, 3]) * [-1, -1, 1]
    options = [*box_words(lps.reshape(-1, 6)), "--units", "mm", "--space", "LPS"]
    assert program(*options, inputs=volume, outputs=mine / "mm.nii")[0] == 0
    in_voxels, in_mm = (nibabel.load(mine / f"{name}.nii").dataobj for name in ("voxel", "mm"))
    assert np.any(in_voxels)
    np.testing.assert_array_equal(in_voxels, in_mm)


def test_names_and_boxes_are_beside_the_labels(program, volume, mine):
    words = ["--box", "left kidney", *map(str, BOXES[0]), *box_words(BOXES[1:2])]
    assert program(*words, inputs=volume, outputs=mine / "out" / "kidneys.nii")[0] == 0
    assert names(mine / "out") == ["kidneys.labels.json", "kidneys.nii"]
    content = json.loads((mine / "out" / "kidneys.labels.json").read_text())
    assert content["scan"] == "scan.nii.gz"
    kidney, other = content["labels"]
    assert (kidney["value"], kidney["name"], kidney["box"]) == (1, "left kidney", [*BOXES[0]])
    assert (other["value"], other["name"]) == (2, "box 2")


def test_another_plane_gives_labels_on_the_same_grid(program, volume, tiny_network, mine):
    status, lines = program(
        *box_words(), "--plane", "coronal", inputs=volume, outputs=mine / "out.nii"
    )
    assert status == 0
    assert "slices along j, coronal" in lines[1]
    case = volume_case()
    coronal = case["imgs"].transpose(1, 0, 2)[:, ::-1]  # H to the feet
    x_min, y_min, z_min, x_max, y_max, z_max = case["boxes"].T
    boxes = np.stack([x_min, 5 - z_max, y_min, x_max, 5 - z_min, y_max], axis=1)
    wanted = labels_of(make_case(coronal, boxes, modality="MR"), tiny_network)
    found = np.asanyarray(nibabel.load(mine / "out.nii").dataobj)
    np.testing.assert_array_equal(found, wanted[:, ::-1].transpose(2, 0, 1))


@pytest.mark.parametrize("suffix", [".nii.gz", ".seg.nrrd", ".mha", ".tif", ".npz"])
@pytest.mark.parametrize("source", [".nii.gz", ".nrrd", ".mha"])
def test_any_kind_goes_out_as_any_other(program, source, suffix, volume, tiny_network, mine):
    if source != ".nii.gz":
        image = itk_image(grid_of(volume_case()["imgs"]))
        volume = mine / f"scan{source}"
        sitk.WriteImage(image, str(volume))
    out = mine / f"out{suffix}"
    assert program(*box_words(), inputs=volume, outputs=out)[0] == 0
    if suffix == ".nii.gz":
        found = np.asanyarray(nibabel.load(out).dataobj)
    elif suffix == ".npz":
        found = np.load(out)["segs"].T
    elif suffix == ".tif":
        with Image.open(out) as pages:
            found = np.stack([pages.seek(k) or np.asarray(pages) for k in range(6)]).T
    else:
        found = sitk.GetArrayFromImage(sitk.ReadImage(str(out))).T
    np.testing.assert_array_equal(found, wanted_volume(tiny_network))


def test_a_picture_gets_labels_and_an_overlay(program, photo, tiny_network, mine):
    case = image_case()
    status, _ = program(
        *box_words(case["boxes"]), "--modality", "Endoscopy", inputs=photo, outputs=None
    )
    assert status == 0
    assert names(mine) == [
        "photo.png", "photo_labels.labels.json", "photo_labels.png", "photo_labels_overlay.png"
    ]  # fmt: skip
    wanted = labels_of(make_case(case["imgs"], case["boxes"], modality="Endoscopy"), tiny_network)
    with Image.open(mine / "photo_labels.png") as labels:
        np.testing.assert_array_equal(labels, wanted)
    with Image.open(mine / "photo_labels_overlay.png") as overlay:
        assert overlay.size == (80, 48)


def test_hounsfield_units_get_the_window(program, volume, tiny_network, mine):
    hounsfield = volume_case()["imgs"].astype(np.int16) * 8 - 1000
    hounsfield[:, :, :3] = -1000
    nibabel.save(nibabel.Nifti1Image(grid_of(hounsfield), ALIGNED), volume)
    status, lines = program(
        *box_words(), "--window", "bone", inputs=volume, outputs=mine / "out.nii"
    )
    assert status == 0
    assert "scan.nii.gz: taken for CT, since 5% of it is air at -1000 (--modality)" in lines
    case = make_case(hounsfield, BOXES, modality="CT", window=WINDOWS["bone"])
    found = np.asanyarray(nibabel.load(mine / "out.nii").dataobj)
    np.testing.assert_array_equal(found.T, labels_of(case, tiny_network))


def test_small_fractions_are_spread(program, volume, tiny_network, mine):
    """As SUVs are: 0 to 20 in 0..255 by chance, which no rounding may touch."""
    suv = volume_case()["imgs"].astype(np.float32) / 11.7
    nibabel.save(nibabel.Nifti1Image(grid_of(suv), ALIGNED), volume)
    options = [*box_words(), "--modality", "PET"]
    assert program(*options, inputs=volume, outputs=mine / "out.nii")[0] == 0
    case = make_case(suv, BOXES, modality="PET", raw=True)
    assert case.image.max() == 255
    found = np.asanyarray(nibabel.load(mine / "out.nii").dataobj)
    np.testing.assert_array_equal(found.T, labels_of(case, tiny_network))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "expected boxes (--box, --boxes, --boxes-from), found none"),
        (["--box", "1", "2", "3"], "--box: a box should be 4 or 6 numbers, got 1 2 3"),
        (["--box", "a", "1", "2", "x", "3"], "--box a 1 2 x 3: expected numbers, found 1 2 x 3"),
        (["--box", "9", "1", "1", "2", "3", "3"], "--box: a box has a minimum above its maximum"),
        (["--box", *"123456", "--units", "mm"], "a box in mm should have a space, RAS or LPS"),
        (["--box", *"1234", "--units", "mm", "--space", "RAS"], "a box in mm should be 6 numbers"),
        (["--box", *"1234"], "box 'box 1' should have 6 numbers in a volume of 64 40 6, got 4"),
        (["--box", "a", *"0", "0", "6", "9", "9", "9"],
         "box 'a' lies outside the grid of 64 40 6 voxels: i 0 to 9, j 0 to 9, k 6 to 9"),
        (["--boxes", "."], ".: boxes cannot be read (Is a directory)"),
        (["--box", *"012345", "--volume", "1"], "--volume should be one of 0..0, got 1"),
        (["--box", *"012345", "--margin", "1"], "--margin is for --boxes-from, which is not given"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_line(program, options, message, volume, mine):
    status, lines = program("--quiet", *options, inputs=volume, outputs=mine / "out.nii")
    assert (status, len(lines)) == (1, 1)
    assert message in lines[0]
    assert names(mine) == ["scan.nii.gz"]


def test_a_file_that_cannot_be_written_is_told_before_the_work(program, volume, mine):
    for name, message in (
        ("out.png", "out.png: 6 slices do not fit into one picture"),
        ("out.dcm", "out.dcm: a DICOM segmentation needs DICOM images, found scan.nii.gz"),
    ):
        options = ["--dry-run", *box_words()]
        status, lines = program(*options, inputs=volume, outputs=mine / name)
        assert status == 1
        assert lines[-1].startswith(message)
        assert names(mine) == ["scan.nii.gz"]


def test_a_box_that_is_cut_or_thin_is_told(program, volume, mine):
    words = ["--box", "a", "50", "-3", "2", "70", "20", "2"]
    status, lines = program("--quiet", *words, inputs=volume, outputs=mine / "out.nii")
    assert status == 0
    assert lines == [
        "scan.nii.gz: box 'a' reached outside the grid and was cut to it: "
        "i 50 to 70, j -3 to 20, k 2 to 2",
        "scan.nii.gz: box 'a' is one voxel thin along k, of 6",
    ]


def test_an_input_is_never_overwritten(program, volume, photo, mine):
    before = volume.read_bytes()
    link = mine / "link.nii.gz"
    link.symlink_to(volume)
    for out in (volume, link):
        status, lines = program(*box_words(), inputs=volume, outputs=out)
        assert status == 1
        assert lines[-1] == f"{out.name}: is an input, and is not overwritten"
    assert volume.read_bytes() == before
    overlaid = mine / "a_overlay.png"
    photo.rename(overlaid)
    status, lines = program("--box", *"1234", inputs=overlaid, outputs=mine / "a.png")
    assert status == 1
    assert lines[-1] == "a_overlay.png: is an input, and is not overwritten"


def test_a_dry_run_overwrites_no_input_either(program, photo, mine):
    named = mine / "a_box1.png"
    photo.rename(named)
    before = named.read_bytes()
    options = ["--dry-run", "--box", *"1234"]
    status, lines = program(*options, inputs=named, outputs=mine / "a.png")
    assert (status, lines[-1]) == (1, "a_box1.png: is an input, and is not overwritten")
    assert named.read_bytes() == before


@pytest.mark.parametrize("beside", [False, True])
def test_no_scan_of_a_batch_is_overwritten_before_its_turn(program, volume, beside, mine):
    later = shutil.copy(volume, mine / "scan_labels.nii.gz")
    rows = [{"file": path.name, "box": BOXES[0].tolist()} for path in (volume, later)]
    (mine / "boxes.json").write_text(json.dumps(rows))
    options = ["--boxes", str(mine / "boxes.json")]
    status, lines = program(*options, inputs=mine, outputs=None if beside else mine)
    assert (status, lines) == (1, ["scan_labels.nii.gz: is an input, and is not overwritten"])
    assert later.read_bytes() == volume.read_bytes()


def test_a_dry_run_of_a_batch_overwrites_no_later_scan(program, photo, mine):
    later = shutil.copy(photo, mine / "photo_labels_box1.png")
    rows = [{"file": path.name, "box": [1, 2, 30, 40]} for path in (photo, later)]
    (mine / "boxes.json").write_text(json.dumps(rows))
    options = ["--dry-run", "--boxes", str(mine / "boxes.json")]
    status, lines = program(*options, inputs=mine, outputs=mine)
    assert status == 1
    assert "photo_labels_box1.png: is an input, and is not overwritten" in lines
    assert later.read_bytes() == photo.read_bytes()


def test_a_scan_of_no_numbers_is_one_line(program, volume, mine):
    nothing = np.full((64, 40, 6), np.nan, np.float32)
    nibabel.save(nibabel.Nifti1Image(nothing, ALIGNED), volume)
    status, lines = program("--quiet", *box_words(), inputs=volume, outputs=mine / "out.nii")
    assert status == 1
    assert lines == ["scan.nii.gz: 'imgs' should be finite, found NaN or infinity"]


def test_what_is_there_can_be_kept(program, volume, mine):
    out = mine / "out.nii"
    out.write_bytes(b"mine")
    status, lines = program(*box_words(), "--skip-existing", inputs=volume, outputs=out)
    assert (status, out.read_bytes()) == (0, b"mine")
    assert lines[-1].startswith("0 written, 1 skipped, 0 failed, ")
    assert program(*box_words(), inputs=volume, outputs=out)[0] == 0
    assert nibabel.load(out).shape == (64, 40, 6)


def test_a_broken_scan_is_listed_with_the_failures(program, volume, mine):
    volume.write_bytes(b"no nifti")
    file = mine / "failures.json"
    status, lines = program(
        "--quiet", *box_words(), "--failures", str(file), inputs=volume, outputs=None
    )
    assert (status, len(lines)) == (1, 1)
    assert json.loads(file.read_text()) == [{"file": "scan.nii.gz", "message": lines[0]}]


def test_a_scan_that_cannot_be_read_is_not_said_to_be_unwritten(program, mine):
    folder = mine / "study"
    folder.mkdir()
    (folder / "IM0001").symlink_to("/proc/self/mem")  # whose first bytes nobody may read
    for scan in (folder, folder / "IM0001"):
        status, lines = program("--quiet", *box_words(), inputs=scan, outputs=mine / "out.nii")
        assert (status, lines) == (1, [f"{scan.name}: cannot be read (Input/output error)"])


def test_an_unknown_modality_is_wrong_usage(program, volume, capsys):
    with pytest.raises(SystemExit) as raised:
        program(*box_words(), "--modality", "Polaroid", inputs=volume, outputs=None)
    assert raised.value.code == 2
    assert "expected one of CT, MR, PET" in capsys.readouterr().err


def test_a_folder_runs_as_a_batch_of_what_its_table_names(program, volume, photo, mine):
    (mine / "notes.txt").touch()
    Image.fromarray(image_case()["imgs"]).save(mine / "other.png")
    table = mine / "boxes.csv"
    table.write_text(
        "file,name,x_min,y_min,z_min,x_max,y_max,z_max\n"
        "photo.png,disc,7,10,0,43,30,0\n"
        "scan.nii.gz,liver,8,6,0,46,30,3\n"
        "photo.png,cup,44,24,0,72,40,0\n"
    )
    status, lines = program("--boxes", str(table), inputs=mine, outputs=mine / "out")
    assert status == 0
    assert lines[0] == "left alone (no box): other.png"
    assert lines[-1].startswith("2 written, 0 skipped, 0 failed, ")
    assert names(mine / "out") == [
        "photo_labels.labels.json", "photo_labels.png", "photo_labels_overlay.png",
        "scan_labels.labels.json", "scan_labels.nii.gz",
    ]  # fmt: skip
    content = json.loads((mine / "out" / "photo_labels.labels.json").read_text())
    assert [entry["name"] for entry in content["labels"]] == ["disc", "cup"]


def test_a_bad_scan_of_a_batch_does_not_hold_up_the_others(program, volume, photo, mine):
    table = mine / "boxes.json"
    rows = [{"file": "photo.png", "box": [700, 1, 800, 9]},
            {"file": "scan.nii.gz", "box": BOXES[0].tolist()}]  # fmt: skip
    table.write_text(json.dumps(rows))
    status, lines = program("--quiet", "--boxes", str(table), inputs=mine, outputs=mine / "out")
    assert (status, len(lines)) == (1, 1)
    assert lines[0].startswith("photo.png: box 'box 1' lies outside the grid of 80 48 1 voxels")
    assert names(mine / "out") == ["scan_labels.labels.json", "scan_labels.nii.gz"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"box": [1, 2, 3, 4]},
         "mine: expected DICOM images, or boxes that name its files, found none"),
        ({"file": "no.png", "box": [1, 2, 3, 4]},
         "mine: a box is for no.png, which is not in that folder"),
        ({"file": "../other.png", "box": [1, 2, 3, 4]},
         "mine: a box is for ../other.png, which is not in that folder"),
        ({"file": ".", "box": [1, 2, 3, 4]}, "mine: a box is for ., which is not in that folder"),
        ({"file": "../..", "box": [1, 2, 3, 4]},
         "mine: a box is for ../.., which is not in that folder"),
    ],
)  # fmt: skip
def test_rows_of_a_batch_must_name_a_file_of_the_folder(program, row, message, photo, mine):
    (mine / "boxes.json").write_text(json.dumps([row]))
    shutil.copy(photo, mine.parent / "other.png")
    options = ["--quiet", "--boxes", str(mine / "boxes.json")]
    assert program(*options, inputs=mine, outputs=mine / "out") == (1, [message])
    status, lines = program(
        *options, "--box", "1", "2", "3", "4", inputs=mine, outputs=mine / "out"
    )
    assert (status, len(lines)) == (1, 1)


def test_rows_may_name_a_scan_by_its_folders_in_a_batch_as_for_one(program, photo, mine):
    (mine / "images").mkdir()
    below = shutil.copy(photo, mine / "images" / "below.png")
    files = ["images/below.png", "C:\\data\\photo.png", "C:\\data\\x\\..\\photo.png"]
    boxes = [[1 + i, 2, 30, 40] for i in range(len(files))]
    coco = {
        "images": [{"id": i, "file_name": file} for i, file in enumerate(files)],
        "annotations": [{"image_id": i, "bbox": box} for i, box in enumerate(boxes)],
    }
    (mine / "boxes.json").write_text(json.dumps(coco))
    options = ["--boxes", str(mine / "boxes.json")]
    assert program(*options, inputs=mine, outputs=mine / "batch")[0] == 0
    for scan, count in ((photo, 2), (below, 1)):
        assert program(*options, inputs=scan, outputs=mine / "one")[0] == 0
        names_of = [mine / run / f"{scan.stem}_labels.labels.json" for run in ("batch", "one")]
        one, other = (json.loads(path.read_text())["labels"] for path in names_of)
        assert one == other
        assert len(one) == count


def test_scans_with_the_same_output_are_refused(program, photo, mine):
    Image.fromarray(image_case()["imgs"]).save(mine / "photo.jpg")
    rows = [{"file": name, "box": [1, 2, 30, 40]} for name in ("photo.png", "photo.jpg")]
    (mine / "boxes.json").write_text(json.dumps(rows))
    status, lines = program(
        "--quiet", "--boxes", str(mine / "boxes.json"), inputs=mine, outputs=None
    )
    assert (status, len(lines)) == (1, 1)
    assert lines[0].startswith("photo.jpg: labels would replace those of photo.png in ")


def test_a_table_of_many_scans_serves_one(program, volume, mine):
    rows = [{"file": "other.nii", "box": [0, 0, 0, 1, 1, 1]},
            {"file": "scan.nii.gz", "name": "liver", "box": BOXES[0].tolist()}]  # fmt: skip
    (mine / "boxes.json").write_text(json.dumps(rows))
    options = ["--boxes", str(mine / "boxes.json")]
    assert program(*options, inputs=volume, outputs=mine / "out.nii")[0] == 0
    content = json.loads((mine / "out.labels.json").read_text())
    assert [entry["name"] for entry in content["labels"]] == ["liver"]


def test_boxes_from_a_label_map_are_those_of_its_labels(program, volume, mine):
    labels = np.zeros((64, 40, 6), np.uint8)
    for value, (x_min, y_min, z_min, x_max, y_max, z_max) in enumerate(BOXES[:2], start=1):
        labels[x_min, y_min, z_min] = labels[x_max, y_max, z_max] = value
    nibabel.save(nibabel.Nifti1Image(labels, ALIGNED), mine / "rough.nii")
    options = ["--boxes-from", str(mine / "rough.nii")]
    assert program(*options, inputs=volume, outputs=mine / "a.nii")[0] == 0
    assert program(*box_words(BOXES[:2]), inputs=volume, outputs=mine / "b.nii")[0] == 0
    found, wanted = (nibabel.load(mine / name).dataobj for name in ("a.nii", "b.nii"))
    np.testing.assert_array_equal(found, wanted)
    status, lines = program(*options, inputs=volume, outputs=mine / "rough.nii")
    assert (status, lines[-1]) == (1, "rough.nii: is an input, and is not overwritten")


@pytest.mark.parametrize("suffix", [".nii.gz", ".seg.nrrd"])
def test_names_and_colours_of_3d_slicer_go_through(program, suffix, volume, mine):
    rough = slicer_file(mine / "rough.seg.nrrd", LIVER, SPLEEN)
    out = mine / f"out{suffix}"
    assert program("--boxes-from", str(rough), inputs=volume, outputs=out)[0] == 0
    wanted = [("liver, left lobe", [51, 102, 255]), ("spleen", [255, 0, 153])]
    if suffix == ".nii.gz":
        labels = json.loads((mine / "out.labels.json").read_text())["labels"]
        found = [(one["name"], one["colour"]) for one in labels]
    else:
        image = sitk.ReadImage(str(out))
        found = [
            (image.GetMetaData(f"Segment{number}_Name"),
             [round(255 * float(part))
              for part in image.GetMetaData(f"Segment{number}_Color").split()])
            for number in range(2)
        ]  # fmt: skip
    assert found == wanted


def test_a_dry_run_says_and_shows_each_box(program, volume, mine):
    status, lines = program(
        "--dry-run", "--box", "liver", *map(str, BOXES[0]), inputs=volume, outputs=None
    )
    assert status == 0
    assert lines[1:] == [
        "scan.nii.gz: box 1 'liver': voxels i 8 to 46, j 6 to 30, k 0 to 3; "
        "mm R -16.5 to 22.5, A -21.0 to 29.0, S -51.5 to -39.5; 4 slices of 6, axial; "
        f"shown in {mine / 'scan_labels_box1.png'}",
    ]
    assert names(mine) == ["scan.nii.gz", "scan_labels_box1.png"]
    with Image.open(mine / "scan_labels_box1.png") as shown:
        pixels = np.asarray(shown)
    assert pixels.shape == (40 * 8, 64 * 8, 3)
    coloured = np.argwhere(np.ptp(pixels.astype(int), axis=-1) > 0)
    assert coloured.min(axis=0).tolist() == [6 * 8, 8 * 8]
    assert coloured.max(axis=0).tolist() == [31 * 8 - 1, 47 * 8 - 1]
    grey = volume_case()["imgs"][1].repeat(8, axis=0).repeat(8, axis=1)  # its middle slice
    plain = np.ptp(pixels.astype(int), axis=-1) == 0
    np.testing.assert_array_equal(pixels[plain][:, 0], grey[plain])


def test_a_line_break_in_a_name_breaks_no_line(program, photo, mine):
    scan = photo.rename(mine / "two\nlines.png")
    for options in ([], ["--dry-run"]):
        status, lines = program(*options, "--box", *"1199", inputs=scan, outputs=None)
        assert status == 0
        assert not [line for line in lines if line.startswith("lines")]
        assert any("two\\nlines_labels" in line for line in lines)


@pytest.mark.parametrize("offset", [7, 2**60])  # in float64 all are the same there
def test_a_scan_in_which_nothing_is_seen_is_told(offset, program, volume, mine):
    voxels = np.full((64, 40, 6), offset, np.int64)
    voxels[20:30, 10:20, 2:4] += offset > 7
    nibabel.save(nibabel.Nifti1Image(voxels, ALIGNED, dtype=np.int64), volume)
    status, lines = program("--quiet", *box_words(), inputs=volume, outputs=mine / "out.nii")
    assert (status, len(lines)) == (0, 1)
    assert lines[0] == "scan.nii.gz: nothing is visible, all its values are equal or nearly equal"


def test_a_dry_run_fails_where_the_run_would(program, photo, volume, mine):
    rows = [{"file": "photo.png", "box": [700, 1, 800, 9]},
            {"file": "scan.nii.gz", "box": BOXES[0].tolist()}]  # fmt: skip
    (mine / "boxes.json").write_text(json.dumps(rows))
    file = mine / "failures.json"
    options = ["--quiet", "--dry-run", "--failures", str(file), "--boxes", str(mine / "boxes.json")]
    status, lines = program(*options, inputs=mine, outputs=mine / "out")
    assert (status, len(lines)) == (1, 1)
    assert names(mine / "out") == ["scan_labels_box1.png"]
    assert json.loads(file.read_text()) == [{"file": "photo.png", "message": lines[0]}]
    options = ["--dry-run", "--failures", str(file), *box_words()]
    assert program(*options, inputs=volume, outputs=mine / "out")[0] == 0
    assert json.loads(file.read_text()) == []


def test_the_example_of_the_page_does_what_it_says(program, mine):
    (line,) = (line for line in PAGE.read_text().splitlines() if 'predict.sh "$mr"' in line)
    _, _, _, out, *options = shlex.split(line)
    scan = Path(examples.get_path("overlay"))
    assert scan.name in PAGE.read_text()
    assert program(*options, inputs=scan, outputs=mine / out)[0] == 0
    assert names(mine) == ["abdomen.labels.json", "abdomen.png", "abdomen_overlay.png"]
    assert program("--dry-run", *options, inputs=scan, outputs=mine / out)[0] == 0
    assert {"abdomen_box1.png", "abdomen_box2.png"} <= set(names(mine))

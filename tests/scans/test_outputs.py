"""Where labels go: nothing of the user's is replaced unasked, and what cannot be written is told
before the work."""

import errno
import json
import os
import types

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image

import swiftmedsam
from swiftmedsam.program import scan_jobs as command
from swiftmedsam.result import Result, label_dtype
from swiftmedsam.scans import provenance as own
from swiftmedsam.scans import stats, write
from swiftmedsam.scans.formats.by_suffix import read_scan
from swiftmedsam.scans.outputs import Outputs
from swiftmedsam.scans.scan import ScanError, Segment, made_scan
from swiftmedsam.scans.write import check_encoding
from tests.helpers import BrightInBox, image_case, names, volume_case
from tests.helpers.dicom import series
from tests.helpers.scans import grid_of, scan_of

BOX = ["--box", *map(str, volume_case()["boxes"][0])]
FLAT_BOX = ["--box", "7", "10", "43", "30"]


@pytest.fixture
def no_work(monkeypatch):
    """Segmenting fails, and no network is loaded: for what has to be told before."""

    def segment(*_, **__):
        raise AssertionError("segmented")

    monkeypatch.setattr(command, "segment", segment)
    network = types.SimpleNamespace(wait=lambda: None)
    monkeypatch.setattr("swiftmedsam.program.main.load", lambda *_, **__: network)


# Somebody's own files


def save_as(kind, mine):
    """A scan of a kind whose default labels are of a kind; its box."""
    volume = volume_case()["imgs"]
    if kind == "dicom":
        return series(mine / "scan", grid_of(volume.astype(np.int16)), Modality="MR"), BOX
    path = mine / f"scan.{kind}"
    if kind == "png":
        Image.fromarray(image_case()["imgs"]).save(path)
        return path, FLAT_BOX
    sitk.WriteImage(sitk.GetImageFromArray(volume), str(path))
    return path, BOX


DEFAULTS = {
    "nii.gz": "scan_labels.nii.gz", "nrrd": "scan_labels.seg.nrrd", "mha": "scan_labels.mha",
    "png": "scan_labels.png", "dicom": "scan_labels.dcm", "tif": "scan_labels.tif",
}  # fmt: skip


@pytest.mark.parametrize("beside", [True, False], ids=["beside the scan", "in a folder"])
@pytest.mark.parametrize("kind", DEFAULTS)
def test_labels_that_somebody_else_made_are_not_replaced_by_a_name_nobody_typed(
    program, kind, beside, mine, tmp_path
):
    scan, box = save_as(kind, mine)
    out = mine if beside else tmp_path / "out"
    out.mkdir(exist_ok=True)
    where = {"inputs": scan, "outputs": None if beside else out}
    words = [*box, "--modality", "MR"]
    labels = out / DEFAULTS[kind]
    labels.write_bytes(b"hours of work")
    status, lines = program(*words, **where)
    assert status == 1
    name = scan.name
    assert f"{name}: {labels} exists; name an output" in "\n".join(lines)
    assert labels.read_bytes() == b"hours of work"
    assert program(*words, "--overwrite", **where)[0] == 0  # somebody said so
    assert program(*words, **where)[0] == 0  # it is this program's now
    if kind == "dicom":
        return  # whoever changes a DICOM object makes another one, and signs it
    labels.write_bytes(labels.read_bytes() + b"corrected by hand")
    assert program(*words, **where)[0] == 1
    assert labels.read_bytes().endswith(b"corrected by hand")
    assert program(*words, "--skip-existing", **where)[0] == 0


@pytest.mark.parametrize("name", ["out.labels.json", "out_overlay.png"])
def test_what_lies_beside_a_named_output_is_not_replaced_either(program, name, photo, mine):
    (mine / "out.png").write_bytes(b"named, so replaced")
    (mine / name).write_text('{"program": "another", "labels": []}')
    before = (mine / name).read_bytes()
    status, lines = program(*FLAT_BOX, inputs=photo, outputs=mine / "out.png")
    assert (status, (mine / name).read_bytes()) == (1, before)
    assert f"{mine / name} exists; name an output" in lines[-2]
    assert (mine / "out.png").read_bytes() == b"named, so replaced"
    image = swiftmedsam.open_image(photo, BrightInBox())
    with pytest.raises(ScanError, match="exists; name an output"):
        image.write(mine / "out.png", image.segment([7, 10, 43, 30]).labels, [7, 10, 43, 30])
    (mine / name).unlink()
    for _ in range(2):
        assert program(*FLAT_BOX, inputs=photo, outputs=mine / "out.png")[0] == 0


def test_pictures_of_boxes_replace_nobodys_file(program, photo, mine):
    own_picture = mine / "photo_labels_box1.png"
    Image.new("RGB", (5, 5)).save(own_picture)
    before = own_picture.read_bytes()
    status, lines = program("--dry-run", *FLAT_BOX, inputs=photo, outputs=None)
    assert (status, own_picture.read_bytes()) == (1, before)
    assert f"{own_picture} exists; name an output" in lines[-1]
    own_picture.unlink()
    for _ in range(2):
        assert program("--dry-run", *FLAT_BOX, inputs=photo, outputs=None)[0] == 0
    with Image.open(own_picture) as shown:  # an independent reader finds the text
        shown.load()
        assert shown.text == {"Software": own.PROGRAM}


def test_a_seal_is_a_comment_that_other_readers_pass_over(tmp_path):
    path = tmp_path / "a.seg.nrrd"
    image = sitk.GetImageFromArray(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    sitk.WriteImage(image, str(path))
    plain = path.read_bytes()
    assert not own.is_own(path)
    path.write_bytes(own.sealed(plain))
    assert own.is_own(path)
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(sitk.ReadImage(str(path))), sitk.GetArrayFromImage(image)
    )
    path.write_bytes(own.sealed(plain)[:-1])
    assert not own.is_own(path)


# Places


def test_an_output_that_would_be_of_a_kind_nobody_writes_is_no_folder(program, no_work, mine):
    photo = mine / "photo.png"
    Image.fromarray(image_case()["imgs"]).save(photo)
    for suffix in (".jpg", ".jpeg", ".JPG", ".bmp", ".mhd", ".nhdr", ".zip", ".gz", ".img", ".gif",
                   ".csv", ".nii.zip", ".nrrd.gz", ".7z"):  # fmt: skip
        out = mine / f"result{suffix}"
        status, lines = program("--quiet", *FLAT_BOX, inputs=photo, outputs=out)
        assert (status, len(lines)) == (1, 1)
        end = f".{suffix.rpartition('.')[2]}"
        assert lines[0].startswith(f"{out.name}: cannot be written as {end}, expected a folder or")
    assert names(mine) == ["photo.png"]


def test_a_folder_may_have_a_number_or_be_there(program, photo, mine):
    (mine / "there.jpg").mkdir()
    for folder in ("there.jpg", "2026.11.30", "out.v2", "new/out"):
        assert program(*FLAT_BOX, inputs=photo, outputs=mine / folder)[0] == 0
        assert "photo_labels.png" in names(mine / folder)


def test_a_place_that_takes_no_file_is_told_before_the_first_slice(
    program, no_work, photo, mine, monkeypatch
):
    def mkstemp(suffix, prefix, folder):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(folder))

    monkeypatch.setattr("tempfile.mkstemp", mkstemp)
    failures = mine / "f.json"
    status, lines = program("--quiet", *FLAT_BOX, inputs=photo, outputs=None)
    assert (status, lines) == (1, [
        f"photo.png: the labels cannot be written to {mine / 'photo_labels.png'} "
        "(Read-only file system)"
    ])  # fmt: skip
    status, lines = program(
        "--quiet", *FLAT_BOX, "--failures", str(failures), inputs=photo, outputs=None
    )
    assert (status, lines) == (1, [f"{failures}: cannot be written (Read-only file system)"])


@pytest.mark.parametrize("option", ["--stats", "--failures"])
@pytest.mark.parametrize(
    ("table", "why"),
    [("no/t.csv", "there is no folder"), ("folder", "there is a folder of that name"),
     ("fifo", "there is a fifo, socket or device of that name"),
     ("kept.csv", "there is a read-only file of that name"),
     ("out.nii", "is the name of another output, too")],
)  # fmt: skip
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_table_that_cannot_be_written_is_told_before_the_work(
    program, no_work, option, table, why, dry, volume, mine
):
    (mine / "folder").mkdir()
    os.mkfifo(mine / "fifo")
    (mine / "kept.csv").touch(0o444)
    before = names(mine)
    words = ["--quiet", *BOX, option, str(mine / table), *dry]
    status, lines = program(*words, inputs=volume, outputs=mine / "out.nii")
    assert (status, len(lines)) == (1, 1)
    assert lines[0].startswith(f"{mine / table}: ")
    assert why in lines[0]
    assert names(mine) == before


def test_both_tables_need_names_of_their_own(program, no_work, volume, mine):
    words = ["--quiet", *BOX, "--stats", str(mine / "t"), "--failures", str(mine / "." / "t")]
    status, lines = program(*words, inputs=volume, outputs=mine / "out.nii")
    assert (status, lines) == (1, [f"{mine / 't'}: is the name of another output, too"])


def test_what_is_not_there_is_one_line(program, no_work, mine):
    (mine / "broken.nii.gz").symlink_to("nowhere")
    (mine / "file").touch()
    (mine / "empty").mkdir()
    photo = mine / "photo.png"
    Image.fromarray(image_case()["imgs"]).save(photo)
    for inputs, outputs, message in (
        ("none.nii.gz", "out", "none.nii.gz: expected a scan or a folder, found nothing"),
        ("broken.nii.gz", "out", "broken.nii.gz: expected a scan or a folder, found a link to no"),
        ("empty", "out", "empty: expected DICOM images, or boxes that name its files"),
        ("photo.png", "file", "file: expected a folder, found a file"),
        ("photo.png", "file/out", "file/out: Not a directory"),
        ("photo.png", "x" * 300, ": File name too long"),
    ):
        status, lines = program("--quiet", *FLAT_BOX, inputs=mine / inputs, outputs=mine / outputs)
        assert (status, len(lines)) == (1, 1)
        assert message in lines[0]
        assert "Errno" not in lines[0]


def test_a_full_disk_leaves_nothing_of_a_scan(program, photo, mine, monkeypatch):
    """Neither labels without their names, nor names without labels, whichever is one too many."""
    result = Result(np.ones((48, 80), np.uint8))
    monkeypatch.setattr(command, "segment", lambda *_, **__: result)
    for last in range(1, 4):
        calls, real = [], os.fsync

        def fsync(handle, calls=calls, last=last, real=real):
            calls.append(handle)
            if len(calls) == last:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(handle)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            status, lines = program("--quiet", *FLAT_BOX, inputs=photo, outputs=mine / "out.png")
        message = "photo.png: the labels could not be written (No space left on device)"
        assert (status, lines, names(mine)) == (1, [message], ["photo.png"])


def test_a_table_that_fills_the_disk_does_not_unsay_the_labels(program, volume, mine, monkeypatch):
    def table(rows):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(stats, "table", table)
    words = ["--quiet", *BOX, "--stats", str(mine / "t.csv")]
    status, lines = program(*words, inputs=volume, outputs=mine / "out.nii")
    assert status == 1
    assert lines[0].startswith("scan.nii.gz: the labels are written, ")
    assert lines[0].endswith("t.csv could not be (No space left on device)")
    assert names(mine) == ["out.labels.json", "out.nii", "scan.nii.gz"]


def test_a_temporary_folder_that_is_full_is_one_line(mine, monkeypatch):
    """SimpleITK writes to names only, so its files go through one."""

    def write_image(*_, **__):
        raise RuntimeError("Exception thrown in SimpleITK ImageFileWriter_Execute: /tmp/SimpleITK/")

    monkeypatch.setattr(sitk, "WriteImage", write_image)
    scan = scan_of(np.zeros((4, 3, 2), np.uint8), np.eye(4))
    with pytest.raises(ScanError, match=r"^out.mha: could not be written by way of .*may be full$"):
        check_encoding(Outputs(mine / "out.mha"), scan, segments_up_to(1))


# Encodings


def segments_up_to(value):
    return [Segment(value, "a", (0, 0, 0), (0, 0, 0))]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff"])
def test_more_labels_than_a_picture_can_say_are_refused_before_the_work(suffix, mine):
    scan = scan_of(np.zeros((4, 3, 1), np.uint8), np.eye(4))
    outputs = Outputs(mine / f"out{suffix}")
    check_encoding(outputs, scan, segments_up_to(65535))
    with pytest.raises(ScanError, match=f"^out{suffix}: label 65536 does not fit into a picture"):
        check_encoding(outputs, scan, segments_up_to(65536))


@pytest.mark.parametrize(
    "suffix", [".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".mha", ".tif", ".npz"]
)
def test_the_trial_of_an_encoding_does_not_grow_with_the_volume(suffix, mine, monkeypatch):
    sizes, real = [], write._encoded

    def encoded(path, labels, *more):
        sizes.append(labels.size)
        return real(path, labels, *more)

    monkeypatch.setattr(write, "_encoded", encoded)
    voxels = np.broadcast_to(np.zeros(1, np.uint8), (512, 512, 300))
    scan = made_scan(mine / "scan.mha", voxels, np.eye(4))
    check_encoding(Outputs(mine / f"out{suffix}"), scan, segments_up_to(300))
    assert sizes == [1]
    assert names(mine) == []


def test_the_trial_of_a_dicom_segmentation_reads_one_image(mine, monkeypatch):
    scan = read_scan(series(mine / "study", np.zeros((7, 5, 9), np.int16)))
    read, real = [], pydicom.dcmread

    def dcmread(path, *more, **options):
        read.append(options)
        return real(path, *more, **options)

    monkeypatch.setattr(pydicom, "dcmread", dcmread)
    check_encoding(Outputs(mine / "out.dcm"), scan, segments_up_to(4))
    assert read == [{"stop_before_pixels": True}]


# --only, and scans with the same name


def batch(mine, *files):
    for file in files:
        path = mine / file
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image_case()["imgs"]).save(path)
    rows = [{"file": file, "box": [7, 10, 43, 30]} for file in files]
    (mine / "boxes.json").write_text(json.dumps(rows))
    return ["--boxes", str(mine / "boxes.json")]


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_only_scans_that_match_are_done(program, dry, mine):
    words = batch(mine, "a1.png", "a2.png", "b.png")
    out = mine / "out"
    out.mkdir()
    (out / "b_labels.png").write_bytes(b"kept")
    assert program(*words, *dry, "--only", "a*", inputs=mine, outputs=out)[0] == 0
    stems = {name.partition("_")[0] for name in names(out) if "overlay" in name or "box" in name}
    assert stems == {"a1", "a2"}
    assert (out / "b_labels.png").read_bytes() == b"kept"
    status, lines = program(*words, *dry, "--only", "c*", inputs=mine, outputs=out)
    assert (status, lines) == (1, [f"{mine}: --only c* matches none of its 3 scans"])
    status, lines = program(*FLAT_BOX, *dry, "--only", "c*", inputs=mine / "a1.png", outputs=out)
    assert (status, len(lines)) == (1, 1)


def test_what_only_leaves_out_loses_neither_its_labels_nor_itself(program, no_work, mine):
    words = batch(mine, "photo.png", "photo.jpg")
    status, lines = program(*words, "--only", "*.jpg", inputs=mine, outputs=None)
    assert (status, len(lines)) == (1, 1)
    assert lines[0].startswith("photo.jpg: labels would replace those of photo.png in ")
    words = batch(mine, "a.png", "a_labels.png")
    status, lines = program(*words, "--only", "a.png", inputs=mine, outputs=None)
    assert (status, lines[-1]) == (1, "a_labels.png: is an input, and is not overwritten")


def test_scans_of_the_same_name_are_refused_by_whatever_path(program, no_work, mine):
    words = batch(mine, "one/a.png", "two/a.png")
    status, lines = program(*words, inputs=mine, outputs=mine / "out")
    assert (status, len(lines)) == (1, 1)
    assert lines[0].startswith("two/a.png: labels would replace those of one/a.png in ")
    (mine / "link").symlink_to("one")
    words = batch(mine, "one/a.png", "link/a.png")
    status, lines = program(*words, inputs=mine, outputs=None)
    assert (status, len(lines)) == (1, 1)
    assert lines[0].startswith("link/a.png: labels would replace those of one/a.png in ")


def test_the_dtype_of_labels_is_the_smallest():
    assert [np.dtype(label_dtype(n)).itemsize for n in (255, 256, 65535, 65536)] == [1, 2, 2, 4]


def test_a_nifti_of_any_shape_is_tried(mine):
    """The trial takes the header of the source, also of one with many axes."""
    path = mine / "a.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 3, 2, 5), np.int16), np.eye(4)), path)
    scan = read_scan(path, 1)
    check_encoding(Outputs(mine / "out.nii"), scan, segments_up_to(1))

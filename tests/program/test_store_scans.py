"""Scans in a store: found by tables of boxes, with all their files, and labels beside them."""

import contextlib
import functools
import http.server
import threading

import cv2
import nibabel
import numpy as np
import pytest

from swiftmedsam.manifest import sha256_of
from swiftmedsam.program import jobs
from swiftmedsam.store import remote
from tests.helpers import (
    CASE_AFFINE,
    HANGS,
    image_case,
    make_case_file,
    names,
    volume_case,
)
from tests.helpers.dicom import series
from tests.helpers.photos import make_photos

BOX = ["--box", "1", "2", "0", "5", "4", "2"]


@pytest.fixture
def scans(mine, server, bucket, tmp_path):
    """A table of boxes and its scans, in folders, here and in the bucket."""
    table = make_photos(mine, tmp_path / "boxes.csv")
    server.upload(mine, f"{bucket}/scans")
    return table


def new_files(folder, before):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*") if path.is_file() and path not in before
    }  # fmt: skip


def test_scans_in_a_store_get_the_labels_and_the_table_of_a_run_here(
    program, stored, scans, mine, server, bucket, tmp_path
):
    before = set(mine.rglob("*"))
    tables = [tmp_path / f"{where}.csv" for where in ("here", "there")]
    status, here = program(
        "--boxes", str(scans), "--stats", str(tables[0]), inputs=mine, outputs=None
    )
    assert status == 0
    expected = new_files(mine, before)
    assert len(expected) == 9  # labels, names and overlay of each
    options = ["--boxes", str(scans), "--stats", str(tables[1])]
    where = {"inputs": f"s3://{bucket}/scans", "outputs": None}
    status, there = stored(*options, **where)
    assert status == 0, there
    found = server.contents(f"{bucket}/scans")
    assert {name: found[name] for name in expected} == expected
    assert len(found) == 12
    assert tables[0].read_bytes() == tables[1].read_bytes()
    written = [line for line in there if ": written " in line]
    assert f"c.png: written s3://{bucket}/scans/c_labels.png, " in "\n".join(written)
    status, lines = stored(*options, "--skip-existing", **where)
    assert (status, lines[-1][:32]) == (0, "0 written, 3 skipped, 0 failed, ")
    assert tables[0].read_bytes() == tables[1].read_bytes()  # the rows are kept


@pytest.mark.parametrize("where", ["scans", "tables"])
def test_tables_of_boxes_may_be_in_a_store(
    where, program, stored, scans, mine, server, bucket, tmp_path
):
    """Also in the folder of the scans."""
    url = f"s3://{bucket}/{where}/boxes.csv"
    server.files.pipe_file(url, scans.read_bytes())
    here = tmp_path / "here"
    options = {"inputs": mine, "outputs": here}
    assert program("--boxes", str(scans), "--only", "c.png", **options)[0] == 0
    expected = new_files(here, [])
    options = {"inputs": f"s3://{bucket}/scans", "outputs": f"s3://{bucket}/out/"}
    status, lines = stored("--boxes", url, "--only", "c.png", **options)
    assert status == 0, lines
    assert server.contents(f"{bucket}/out") == expected
    options = {"inputs": mine, "outputs": tmp_path / "there"}
    status, lines = stored("--boxes", url, "--only", "c.png", **options)
    assert status == 0, lines
    assert new_files(tmp_path / "there", []) == expected
    none = f"s3://{bucket}/none.csv"
    status, lines = stored("--boxes", none, **options)
    assert (status, lines) == (1, [f"{none}: expected a file, found none of that name"])


def test_boxes_around_a_label_map_in_a_store(program, stored, mine, server, bucket):
    voxels = np.ascontiguousarray(volume_case()["imgs"].T)
    labels = np.zeros(voxels.shape, np.uint8)
    labels[1:6, 2:5, 0:3] = 1
    nibabel.save(nibabel.Nifti1Image(voxels, CASE_AFFINE), mine / "scan.nii.gz")
    nibabel.save(nibabel.Nifti1Image(labels, CASE_AFFINE), mine / "organ.nii.gz")
    server.upload(mine, f"{bucket}/in")
    here = ["--boxes-from", str(mine / "organ.nii.gz")]
    assert program(*here, inputs=mine / "scan.nii.gz", outputs=mine / "out.nii.gz")[0] == 0
    status, lines = stored(
        "--boxes-from", f"s3://{bucket}/in/organ.nii.gz",
        inputs=f"s3://{bucket}/in/scan.nii.gz", outputs=f"s3://{bucket}/new/out.nii.gz",
    )  # fmt: skip
    assert status == 0, lines
    found = server.contents(f"{bucket}/new")
    assert found["out.nii.gz"] == (mine / "out.nii.gz").read_bytes()


HEAD = "file,x_min,y_min,z_min,x_max,y_max,z_max\n"


def test_cases_that_share_files_in_a_store_are_refused(stored, mine, server, bucket, tmp_path):
    """Else the one that ends first would take slices away from the other."""
    series(mine / "7")
    series(mine / "7" / "ct")
    server.upload(mine, f"{bucket}/in")
    table = tmp_path / "boxes.csv"
    table.write_text(f"{HEAD}7,1,2,0,5,4,2\n7/ct,1,2,0,5,4,2\n")
    status, lines = stored("--boxes", str(table), outputs=f"s3://{bucket}/out/")
    assert (status, len(lines)) == (1, 1), lines
    assert " is a file of 7, too; expected cases with files of their own, or two runs" in lines[0]
    assert server.contents(f"{bucket}/out") == {}


def test_a_scan_whose_name_begins_as_a_header_does_is_not_fetched_with_it(
    stored, mine, server, bucket, tmp_path
):
    import SimpleITK

    voxels = np.ascontiguousarray(volume_case()["imgs"])
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels), str(mine / "a.mhd"))
    nibabel.save(nibabel.Nifti1Image(voxels.T, CASE_AFFINE), mine / "a.b.nii.gz")
    server.upload(mine, f"{bucket}/in")
    table = tmp_path / "boxes.csv"
    table.write_text(f"{HEAD}a.mhd,1,2,0,5,4,2\na.b.nii.gz,1,2,0,5,4,2\n")
    server.faults()
    status, lines = stored("--boxes", str(table), outputs=f"s3://{bucket}/out/")
    assert (status, lines[-1][:32]) == (0, "2 written, 0 skipped, 0 failed, "), lines
    for name in ("a.mhd", "a.raw", "a.b.nii.gz"):
        assert len(server.requests("GET", f"in/{name}")) == 1


def test_labels_that_another_program_wrote_are_not_replaced(stored, scans, server, bucket):
    options, where = ["--boxes", str(scans)], {"inputs": f"s3://{bucket}/scans", "outputs": None}
    assert stored(*options, **where)[0] == 0
    assert stored(*options, **where)[0] == 0  # its own ones are
    foreign = b"of another program"
    server.files.pipe_file(f"{bucket}/scans/c_labels.png", foreign)
    status, lines = stored(*options, **where)
    assert (status, lines[-1][:32]) == (1, "2 written, 0 skipped, 1 failed, ")
    (told,) = [line for line in lines if line.startswith("c.png: s3")]
    assert f"s3://{bucket}/scans/c_labels.png exists; name an output" in told
    assert server.contents(f"{bucket}/scans")["c_labels.png"] == foreign
    assert stored(*options, "--overwrite", **where)[0] == 0
    assert server.contents(f"{bucket}/scans")["c_labels.png"] != foreign


@pytest.mark.usefixtures("quick")
def test_labels_that_could_not_be_replaced_are_not_left_with_the_names_of_others(
    stored, scans, server, bucket
):
    """Nor do they keep the next run from writing new ones."""
    where = {"inputs": f"s3://{bucket}/scans", "outputs": None}
    assert stored("--boxes", str(scans), **where)[0] == 0
    scans.write_text(scans.read_text().replace("c.png,disc", "c.png,other disc"))
    server.faults({"do": "503", "method": "PUT", "key": "c_labels.png", "times": 1000})
    status, lines = stored("--boxes", str(scans), **where)
    assert (status, lines[-1][:32]) == (1, "2 written, 0 skipped, 1 failed, ")
    server.faults()
    found = server.contents(f"{bucket}/scans")
    assert b"other disc" in found["c_labels.labels.json"]
    assert "c_labels.png" not in found
    status, lines = stored("--boxes", str(scans), **where)
    assert (status, lines[-1][:32]) == (0, "3 written, 0 skipped, 0 failed, "), lines


def test_a_case_is_done_again_whose_worker_died_when_it_had_stored_some_files(
    stored, scans, server, bucket, monkeypatch
):
    """What it has replaced counts as this program's, though the store was listed before."""
    where = {"inputs": f"s3://{bucket}/scans", "outputs": None}
    assert stored("--boxes", str(scans), **where)[0] == 0
    scans.write_text(scans.read_text().replace("c.png,disc", "c.png,other disc"))
    true = remote.store
    tries = []

    class Died(BaseException):
        pass

    def store(path, url):
        tries.append(path.name)
        if tries.count(path.name) == 1 and path.name == "c_labels.png":
            raise Died
        true(path, url)

    def run_job(job, *words):
        with contextlib.suppress(Died):
            return once(job, *words)
        return once(job, *words)

    once = jobs.run_job
    monkeypatch.setattr(remote, "store", store)
    monkeypatch.setattr(jobs, "run_job", run_job)
    status, lines = stored("--boxes", str(scans), **where)
    assert (status, lines[-1][:32]) == (0, "3 written, 0 skipped, 0 failed, "), lines
    assert tries.count("c_labels.png") == 2
    found = server.contents(f"{bucket}/scans")
    assert b"other disc" in found["c_labels.labels.json"]
    assert sha256_of(found["c_labels.png"]).encode() in found["c_labels.labels.json"]


@pytest.mark.parametrize("suffix", [".nii.gz", ".seg.nrrd"])
def test_a_scan_is_named_and_so_are_its_labels(suffix, program, stored, mine, server, bucket):
    path = mine / "scan.nii.gz"
    voxels = np.ascontiguousarray(volume_case()["imgs"].T)
    nibabel.save(nibabel.Nifti1Image(voxels, CASE_AFFINE), path)
    server.upload(mine, f"{bucket}/in")
    here = mine / f"out{suffix}"
    assert program(*BOX, inputs=path, outputs=here)[0] == 0
    where = {"inputs": f"s3://{bucket}/in/scan.nii.gz"}
    status, lines = stored(*BOX, outputs=f"s3://{bucket}/new/out{suffix}", **where)
    assert status == 0, lines
    found = server.contents(f"{bucket}/new")
    assert found[f"out{suffix}"] == here.read_bytes()
    assert set(found) == {one.name for one in mine.iterdir() if one.name.startswith("out")}
    status, lines = stored(*BOX, outputs=f"s3://{bucket}/new/out.xyz", **where)
    assert (status, lines) == (1, [lines[0]])
    assert "cannot be written as .xyz, expected a folder or a name ending in" in lines[0]


def test_a_header_is_fetched_with_its_pixels(program, stored, mine, server, bucket):
    import SimpleITK

    voxels = np.ascontiguousarray(volume_case()["imgs"])
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels), str(mine / "scan.mhd"))
    assert names(mine) == ["scan.mhd", "scan.raw"]
    server.upload(mine, f"{bucket}/in")
    assert program(*BOX, inputs=mine / "scan.mhd", outputs=mine / "out.nrrd")[0] == 0
    status, lines = stored(
        *BOX, inputs=f"s3://{bucket}/in/scan.mhd", outputs=f"s3://{bucket}/new/out.nrrd"
    )
    assert status == 0, lines
    assert server.contents(f"{bucket}/new")["out.nrrd"] == (mine / "out.nrrd").read_bytes()


def test_a_dicom_folder_is_a_prefix(program, stored, mine, server, bucket):
    series(mine / "ct")
    server.upload(mine / "ct", f"{bucket}/patients/7/ct")
    assert program(*BOX, inputs=mine / "ct", outputs=mine / "out.nii.gz")[0] == 0
    url = f"s3://{bucket}/patients/7/ct"
    status, lines = stored(*BOX, inputs=url, outputs=f"s3://{bucket}/new/out.nii.gz")
    assert status == 0, lines
    assert server.contents(f"{bucket}/new")["out.nii.gz"] == (mine / "out.nii.gz").read_bytes()
    assert stored(*BOX, inputs=f"{url}/", outputs=None)[0] == 0
    assert "ct_labels.dcm" in server.contents(f"{bucket}/patients/7")
    status, lines = stored(*BOX, inputs=f"{url}/", outputs=None)  # its own file is replaced
    assert status == 0, lines


@pytest.mark.usefixtures("quick")
def test_a_slice_that_does_not_arrive_fails_the_scan(stored, mine, server, bucket):
    """A volume without it would look whole."""
    series(mine / "ct")
    server.upload(mine / "ct", f"{bucket}/ct")
    name = names(mine / "ct")[1]
    server.faults({"do": "break", "method": "GET", "key": name, "times": 1000})
    status, lines = stored(*BOX, inputs=f"s3://{bucket}/ct", outputs=f"s3://{bucket}/out/")
    assert status == 1
    assert f"ct: s3://{bucket}/ct/{name}: could not be read: " in lines[-2]
    server.faults()
    assert server.contents(f"{bucket}/out") == {}


def test_boxes_are_shown_of_a_scan_in_a_store(stored, scans, bucket, tmp_path):
    out = tmp_path / "shown"
    options = ["--boxes", str(scans), "--dry-run", "--only", "c.png"]
    status, lines = stored(*options, inputs=f"s3://{bucket}/scans", outputs=out)
    assert status == 0, lines
    assert "c_labels_box1.png" in names(out)
    status, lines = stored(*options, inputs=f"s3://{bucket}/scans")
    assert (status, lines) == (
        1, ["--dry-run draws on this machine: expected OUTPUTS to be a folder here"]
    )  # fmt: skip


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def website(mine):
    """A web server with an index page of each folder: Python's own."""
    handler = functools.partial(Quiet, directory=str(mine))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(HANGS)


def test_cases_and_scans_are_read_from_a_web_server(
    program, stored, mine, inputs, outputs, website, tmp_path
):
    pytest.importorskip("aiohttp")
    (mine / "in put").mkdir()
    for i in range(3):
        imgs = np.roll(image_case()["imgs"], 5 * i, axis=1)
        for folder in (inputs, mine / "in put"):
            make_case_file(folder, f"2DBox_US_{i}.npz", imgs=imgs)
    assert program()[0] == 0
    status, lines = stored(inputs=f"{website}/in%20put/", outputs=tmp_path / "there")
    assert status == 0, lines
    assert new_files(tmp_path / "there", []) == new_files(outputs, [])
    one = f"{website}/in%20put/2DBox_US_1.npz?signature=secret"
    status, lines = stored(inputs=one, outputs=tmp_path / "one")
    assert status == 0, lines
    assert names(tmp_path / "one") == ["2DBox_US_1.npz"]
    status, lines = stored(inputs=f"{website}/none.npz?signature=secret", outputs=tmp_path / "x")
    assert (status, lines) == (
        1, [f"{website}/none.npz: expected a file or a folder, found nothing of that name"]
    )  # fmt: skip
    # a page that lists files does not say how large they are
    status, lines = stored("--cache-size", "500", inputs=f"{website}/in%20put/", outputs=outputs)
    assert (status, lines[-1][:32]) == (1, "0 written, 0 skipped, 3 failed, "), lines
    assert "MB or more, the local cache may take 0.0 MB of a case (--cache-size)" in lines[-2]
    cv2.imwrite(str(mine / "photo.png"), image_case()["imgs"])
    box = ["--box", "7", "10", "43", "30"]
    status, lines = stored(*box, inputs=f"{website}/photo.png", outputs=None)
    assert (status, lines) == (
        1, [f"{website}/photo.png: http:// is for reading alone, name OUTPUTS"]
    )  # fmt: skip
    assert stored(*box, inputs=f"{website}/photo.png", outputs=tmp_path / "p.png")[0] == 0
    assert (tmp_path / "p.png").exists()

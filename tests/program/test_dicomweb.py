"""A series of a DICOMweb server is segmented, and its segmentation stored there: with Orthanc.

It needs `apt-get install orthanc orthanc-dicomweb`.
"""

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from swiftmedsam.commands import main as swiftmedsam
from tests.helpers import HANGS, free_ports, names, volume_case
from tests.helpers.dicom import SERIES, STUDY, series

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
BOX = ["--box", "one", "1", "2", "0", "5", "4", "2"]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    """The URL of the DICOMweb service of an Orthanc of this test's own."""
    program = shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None or not PLUGIN.exists():
        if os.environ.get("REQUIRE_ORTHANC"):  # .ci/run has installed it
            pytest.fail("Orthanc or its plugin for DICOMweb is not installed")
        pytest.skip("Orthanc or its plugin for DICOMweb is not installed")
    pytest.importorskip("dicomweb_client")
    folder = tmp_path_factory.mktemp("orthanc")
    (port,) = free_ports(1)
    configuration = folder / "orthanc.json"
    configuration.write_text(json.dumps({
        "HttpPort": port, "DicomServerEnabled": False, "AuthenticationEnabled": False,
        "RemoteAccessAllowed": False, "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        "StorageDirectory": str(folder / "files"), "IndexDirectory": str(folder / "files"),
    }))  # fmt: skip
    said = (folder / "log").open("wb")
    process = subprocess.Popen([program, configuration], stdout=said, stderr=said, cwd=folder)
    url = f"http://127.0.0.1:{port}/dicom-web"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        until = time.monotonic() + HANGS
        while not answers(f"{url}/studies"):
            if process.poll() is not None or time.monotonic() > until:
                pytest.fail((folder / "log").read_text())
            time.sleep(0.2)
        yield url
    process.terminate()
    process.wait(HANGS)
    said.close()


def ask(url, method="GET"):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, method=method), timeout=HANGS) as answer:
        return json.loads(answer.read())


def answers(url):
    try:
        ask(url)
    except urllib.error.URLError:
        return False
    return True


@pytest.fixture
def client(orthanc):
    from dicomweb_client.web import DICOMwebClient

    return DICOMwebClient(orthanc)


@pytest.fixture
def ct(orthanc, client, mine):
    """A series, here and on the server, which has it alone."""
    folder = series(mine / "ct", np.ascontiguousarray(volume_case()["imgs"].T).astype(np.int16))
    own = orthanc.removesuffix("dicom-web")  # Orthanc's own interface
    for name in ask(f"{own}studies"):
        ask(f"{own}studies/{name}", "DELETE")
    client.store_instances([pydicom.dcmread(path) for path in sorted(folder.iterdir())])
    return folder


@pytest.fixture
def from_server(program, orthanc, tmp_path):
    cache = tmp_path / "cache"

    def run(*options, study=STUDY, uid=SERIES, server=orthanc, outputs=None):
        words = ["--dicomweb", server, "--study", study, "--cache", str(cache)]
        words += [] if uid is None else ["--series", uid]
        return program(*words, *options, inputs=outputs, outputs=None)

    yield run
    assert not cache.exists() or names(cache) == []


def segmentations(client):
    found = client.search_for_series(STUDY, search_filters={"Modality": "SEG"})
    return [one["0020000E"]["Value"][0] for one in found]


def test_a_series_is_segmented_and_the_segmentation_stored_in_its_study(
    program, from_server, client, ct, mine
):
    assert program(*BOX, inputs=ct, outputs=mine / "here.dcm")[0] == 0
    status, lines = from_server(*BOX)
    assert status == 0, lines
    (uid,) = segmentations(client)
    assert any(f"stored in study {STUDY} as series {uid}" in line for line in lines)
    (stored,) = client.retrieve_series(STUDY, uid)
    stored.save_as(mine / "there.dcm", enforce_file_format=True)
    here = pydicom.dcmread(mine / "here.dcm")
    assert stored.PixelData == here.PixelData
    assert stored.SegmentSequence[0].SegmentLabel == "one"
    assert stored.PatientID == here.PatientID
    referenced = stored.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    images = {pydicom.dcmread(path).SOPInstanceUID for path in ct.iterdir()}
    assert {one.ReferencedSOPInstanceUID for one in referenced} == images


def test_the_images_come_as_they_were_stored(orthanc, client, ct, tmp_path):
    from swiftmedsam.store import dicomweb

    dicomweb.fetch(dicomweb.Series(orthanc, STUDY, SERIES), tmp_path)
    sent = [pydicom.dcmread(path) for path in tmp_path.glob("*.dcm")]
    there = [pydicom.dcmread(path) for path in ct.iterdir()]
    assert sorted(sent, key=str) == sorted(there, key=str)
    assert len(sent) == len(names(ct)) > 1


def test_outputs_that_are_named_are_written_and_not_stored(from_server, client, ct, tmp_path):
    status, lines = from_server(*BOX, outputs=tmp_path / "out.nii.gz")
    assert status == 0, lines
    assert (tmp_path / "out.nii.gz").exists()
    assert segmentations(client) == []
    assert from_server(*BOX, "--dry-run", outputs=tmp_path / "shown")[0] == 0
    assert [name for name in names(tmp_path / "shown") if name.endswith("_box1.png")]


@pytest.fixture
def two(ct, client, mine):
    """The UIDs of two series of one study on the server; the folder of each is called so, too."""
    other = generate_uid(entropy_srcs=["another series"])
    voxels = np.ascontiguousarray(volume_case()["imgs"].T[::-1]).astype(np.int16)
    ct.rename(mine / SERIES)
    folder = series(mine / other, voxels, SeriesInstanceUID=other)
    client.store_instances([pydicom.dcmread(path) for path in sorted(folder.iterdir())])
    return SERIES, other


@pytest.fixture
def table(two, tmp_path):
    rows = ["file,name,x_min,y_min,z_min,x_max,y_max,z_max"]
    rows += [f"{uid},one,1,2,0,5,4,2" for uid in two]
    path = tmp_path / "boxes.csv"
    path.write_text("\n".join(rows))
    return path


def test_series_that_a_table_names_are_segmented_in_one_run(
    program, from_server, client, two, table, mine, tmp_path, merge
):
    here = tmp_path / "here"
    assert program("--boxes", str(table), inputs=mine, outputs=here)[0] == 0
    made = [pydicom.dcmread(path) for path in here.iterdir()]
    expected = {series_of(one): one.PixelData for one in made}
    assert sorted(expected) == sorted(two)
    log = tmp_path / "run.jsonl"
    for i in range(2):
        words = ["--boxes", str(table), "--part", f"{i}/2", "--log", str(log)]
        status, lines = from_server(*words, uid=None)
        assert (status, lines[-1][:32]) == (0, "1 written, 0 skipped, 0 failed, "), lines
    stored = [one for uid in segmentations(client) for one in client.retrieve_series(STUDY, uid)]
    assert {series_of(one): one.PixelData for one in stored} == expected
    assert merge("--log", log)[0] == 0  # the segmentations are on the server
    status, lines = from_server("--boxes", str(table), uid=None, outputs=tmp_path / "out")
    assert (status, lines[-1][:32]) == (0, "2 written, 0 skipped, 0 failed, "), lines
    options = ["--boxes", str(table), "--skip-existing"]
    status, lines = from_server(*options, uid=None, outputs=tmp_path / "out")
    assert (status, lines[-1][:32]) == (0, "0 written, 2 skipped, 0 failed, "), lines


def series_of(segmentation):
    """The UID of the series that a segmentation is of."""
    return segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID


def test_boxes_of_a_study_have_to_name_its_series(from_server, client, table, tmp_path):
    table.write_text(f"{table.read_text()}\n1.2.3,one,1,2,0,5,4,2")
    status, lines = from_server("--boxes", str(table), uid=None)
    assert (status, len(lines)) == (1, 1), lines
    assert "is for 1.2.3, which is not in that folder" in lines[0]
    nameless = tmp_path / "nameless.csv"
    nameless.write_text("x_min,y_min,z_min,x_max,y_max,z_max\n1,2,0,5,4,2\n")
    status, lines = from_server("--boxes", str(nameless), uid=None)
    assert (status, lines) == (
        1, ["--dicomweb without --series: expected boxes that name series by UID"]
    )  # fmt: skip
    assert segmentations(client) == []


@pytest.mark.usefixtures("ct")
def test_a_series_larger_than_the_cache_may_hold_is_not_segmented(from_server, client):
    status, lines = from_server(*BOX, "--cache-size", "1000")
    assert status == 1
    assert "MB or more, the local cache may take 0.0 MB of a case (--cache-size)" in lines[-2]
    assert segmentations(client) == []


@pytest.mark.usefixtures("ct", "quick")
def test_what_a_server_does_not_have_is_one_line(from_server, client):
    status, lines = from_server(*BOX, uid="1.2.3")
    assert status == 1
    assert ": series 1.2.3: expected images, found none in study " in lines[-2]
    status, lines = from_server(*BOX, server="http://127.0.0.1:9/dicom-web")
    assert status == 1
    assert lines[-2].endswith("(3 tries)")
    assert segmentations(client) == []


@pytest.mark.usefixtures("quick")
def test_a_series_that_does_not_arrive_whole_is_not_segmented(from_server, client, ct, monkeypatch):
    """The server lists one image more than it sends."""
    from dicomweb_client.web import DICOMwebClient

    true = DICOMwebClient.search_for_instances

    def more(*words, **options):
        return [*true(*words, **options), {}]

    monkeypatch.setattr(DICOMwebClient, "search_for_instances", more)
    count = len(names(ct))
    status, lines = from_server(*BOX)
    assert status == 1
    assert f"the server lists {count + 1} images, and sent {count} (3 tries)" in lines[-2]
    assert segmentations(client) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--series", "1.2"], "argument --study: --dicomweb expects a UID, got none"),
        (["--study", "1.2"], "expects a UID, or --boxes alone that name series, got none"),
        (["--study", "1.2", "--series", "../x"], "argument --series: --dicomweb expects a UID"),
        (["in", "out", "--study", "1", "--series", "1"], "expected OUTPUTS alone"),
        (["--study", "1", "--series", "1", "--skip-existing"], "a server keeps every segmentation"),
        (["--study", "1", "--boxes", "b.csv", "--box", "1", "2", "3", "4"], "--boxes alone"),
    ],
)
def test_wrong_usage_is_told(words, message, capsys):
    with pytest.raises(SystemExit):
        swiftmedsam(["--dicomweb", "https://host/dicom-web", *words])
    assert message in capsys.readouterr().err.splitlines()[-1]

"""Runs with URLs of Google Cloud Storage and of Azure Blob Storage, on servers of this machine.

The servers are gcp-storage-emulator and Azurite (`npm install -g azurite@3.35.0`). What all stores
have in common is in test_store.py; here is what gcsfs and adlfs do and say in their own way.
"""

import importlib.util
import json
import os

import numpy as np
import pytest

from swiftmedsam.store import remote
from tests.helpers import make_shifted_cases
from tests.helpers.dicom import series
from tests.helpers.stores import connected, new_bucket

THREE = [f"2DBox_US_{i}.npz" for i in range(3)]
BOX = ["--box", "1", "2", "0", "5", "4", "2"]


@pytest.fixture(scope="module", params=["gs", "az"])
def cloud(request, tmp_path_factory):
    """A server, and the environment in which the program finds it."""
    from tests.helpers.clouds import Azure, Google

    for package in {"gs": ("gcsfs", "gcp_storage_emulator"), "az": ("adlfs",)}[request.param]:
        if importlib.util.find_spec(package) is None:  # gcsfs reads the environment at its import
            pytest.skip(f"{package} is not installed")
    if request.param == "az" and Azure.program() is None:
        if os.environ.get("REQUIRE_AZURITE"):  # .ci/run has installed it
            pytest.fail("Azurite is not installed")
        pytest.skip("Azurite is not installed")
    kind = {"gs": Google, "az": Azure}[request.param]
    zonal = {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}  # as `remote` sets it
    with connected(kind(tmp_path_factory.mktemp(request.param)), **zonal) as cloud:
        yield cloud


@pytest.fixture
def bucket(cloud, tmp_path):
    return new_bucket(cloud, tmp_path)


@pytest.fixture
def cases(inputs, cloud, bucket):
    """Three cases whose masks differ, here and in the bucket."""
    make_shifted_cases(inputs, THREE)
    cloud.upload(inputs, f"{bucket}/in")
    cloud.files.pipe_file(f"{bucket}/in2/2DBox_US_7.npz", b"of another folder")
    return inputs


@pytest.fixture
def expected(program, cases, outputs):
    """The outputs of a run on this machine, by name."""
    assert program("--quiet")[0] == 0
    return {path.name: path.read_bytes() for path in outputs.iterdir()}


@pytest.fixture
def stored(program, cloud, bucket, cache):
    """Run the program from `in` to `out` of the bucket."""

    def run(*options, inputs="in", outputs="out", bucket=bucket):
        where = {"inputs": f"{cloud.scheme}://{bucket}/{inputs}",
                 "outputs": f"{cloud.scheme}://{bucket}/{outputs}"}  # fmt: skip
        return program("--cache", str(cache), *options, **where)

    return run


def test_a_run_in_a_cloud_writes_what_a_run_here_writes(
    stored, cloud, bucket, expected, tmp_path, merge
):
    log = tmp_path / "run.jsonl"
    for i in range(2):
        status, lines = stored("--part", f"{i}/2", "--log", str(log))
        assert status == 0, lines
    assert cloud.contents(f"{bucket}/out") == expected
    status, lines = merge("--log", log)
    assert (status, lines) == (0, ["2 of 2 parts: 3 written, 0 skipped, 0 failed, 0 not done"])
    cloud.files.pipe_file(f"{bucket}/out/{THREE[1]}", b"kept")
    cloud.files.rm_file(f"{bucket}/out/{THREE[2]}")
    status, lines = stored("--skip-existing")
    assert (status, lines[-1][:32]) == (0, "1 written, 2 skipped, 0 failed, ")
    assert cloud.contents(f"{bucket}/out") == expected | {THREE[1]: b"kept"}


def test_a_dicom_folder_is_a_prefix(program, stored, mine, cloud, bucket):
    series(mine / "ct")
    cloud.upload(mine / "ct", f"{bucket}/7/ct")
    assert program(*BOX, inputs=mine / "ct", outputs=mine / "out.nii.gz")[0] == 0
    status, lines = stored(*BOX, inputs="7/ct", outputs="new/out.nii.gz")
    assert status == 0, lines
    assert cloud.contents(f"{bucket}/new")["out.nii.gz"] == (mine / "out.nii.gz").read_bytes()


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # adlfs
@pytest.mark.usefixtures("quick")
def test_an_output_of_several_parts_is_whole(cloud, bucket, tmp_path):
    """Above 5 MB gcsfs uploads in another way."""
    from swiftmedsam.urls import parse_url

    path = tmp_path / "large"
    path.write_bytes(np.random.default_rng(0).bytes(6 << 20))
    url = parse_url(f"{cloud.scheme}://{bucket}/out/large")
    remote.store(path, url)
    found = remote.look(url)
    assert found.size == 6 << 20
    remote.fetch(found, tmp_path / "again", remote.Room())
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    path.write_bytes(b"other")
    remote.store(path, url)
    with pytest.raises(remote.StoreError, match="was replaced since it was listed|should have"):
        remote.fetch(found, tmp_path / "again", remote.Room())


@pytest.mark.parametrize("do", ["late", "503", "break"])
@pytest.mark.parametrize("what", ["list", "fetch", "store"])
@pytest.mark.usefixtures("quick")
def test_a_fault_that_goes_away_costs_no_case(do, what, stored, cloud, bucket, expected):
    listed = {"gs": f"/b/{bucket}/o?", "az": f"/{bucket}?"}[cloud.scheme]
    method, key = {"list": ("GET", listed), "fetch": ("GET", f"in/{THREE[1]}"),
                   "store": (cloud.uploads, f"out/{THREE[1]}")}[what]  # fmt: skip
    cloud.faults({"do": do, "seconds": 1, "method": method, "key": key, "times": 2})
    status, lines = stored()
    assert (status, lines[-1][:32]) == (0, "3 written, 0 skipped, 0 failed, "), lines
    assert cloud.contents(f"{bucket}/out") == expected
    told = [line for line in lines if "trying again" in line]
    # the clients of HTTP and of Azure may themselves ask again where a connection broke; that of
    # Google lists the folder where it cannot look at a file
    assert len(told) in {"late": (0,), "503": (1, 2), "break": (0, 1, 2)}[do], lines


@pytest.mark.parametrize("do", ["503", "break"])
@pytest.mark.usefixtures("quick")
def test_a_fault_that_stays_fails_its_case_alone(do, stored, cloud, bucket, expected, tmp_path):
    cloud.files.pipe_file(f"{bucket}/out/{THREE[1]}", b"of an earlier run")
    fault = {"do": do, "method": cloud.uploads, "key": f"out/{THREE[1]}", "times": 1000}
    cloud.faults(fault)
    status, lines = stored("--failures", str(tmp_path / "failures.json"))
    assert (status, lines[-1][:32]) == (1, "2 written, 0 skipped, 1 failed, "), lines
    cloud.faults()
    del expected[THREE[1]]
    assert cloud.contents(f"{bucket}/out") == expected
    (failure,) = json.loads((tmp_path / "failures.json").read_text())
    where = f"{THREE[1]}: {cloud.scheme}://{bucket}/out/{THREE[1]}: could not be written: "
    assert failure["message"].startswith(where)
    assert failure["message"].endswith("(3 tries)")


@pytest.mark.parametrize("do", ["401", "403"])
@pytest.mark.parametrize("what", ["list", "fetch", "store"])
@pytest.mark.usefixtures("quick")
def test_what_is_denied_is_one_line_and_not_tried_again(do, what, stored, cloud, bucket, cases):
    listed = {"gs": f"/b/{bucket}/o?", "az": f"/{bucket}?"}[cloud.scheme]
    method, key = {"list": ("GET", listed), "fetch": ("GET", f"in/{THREE[1]}"),
                   "store": (cloud.uploads, "out/")}[what]  # fmt: skip
    cloud.faults({"do": do, "method": method, "key": key, "times": 1000})
    status, lines = stored()
    asked = len(cloud.requests(method, key))
    cloud.faults()
    assert status == 1
    (told,) = [line for line in lines if "access is denied (" in line or "credentials" in line]
    assert asked <= 3  # gcsfs asks in two ways where a file is
    if what == "fetch":
        assert lines[-1].startswith("2 written, 0 skipped, 1 failed, ")
        assert told.startswith(f"{THREE[1]}: {cloud.scheme}://{bucket}/in/{THREE[1]}: could not be")
    else:
        assert lines == [told]  # before the first case


def test_who_may_list_files_need_not_see_the_bucket(stored, cloud, bucket, expected):
    """As the role Storage Object User: the folder of the outputs is empty at first."""
    cloud.faults({"do": "403", "key": f"/{bucket}", "ends": True, "times": 1000})
    status, lines = stored()
    asked = cloud.requests(f"/{bucket}")
    cloud.faults()
    assert status == 0, lines
    assert [one for one in asked if one.partition("?")[0].endswith(f"/{bucket}")]
    assert cloud.contents(f"{bucket}/out") == expected


@pytest.mark.usefixtures("cases")
def test_a_bucket_that_is_not_there_is_one_line(stored, cloud):
    status, lines = stored(bucket="no-such-bucket")
    kind = {"gs": "bucket", "az": "container"}[cloud.scheme]
    line = f"{cloud.scheme}://no-such-bucket: there is no such {kind}"
    assert (status, lines) == (1, [line])


def test_a_server_that_is_not_there_is_one_line_after_some_tries(
    stored, cloud, bucket, quick, monkeypatch
):
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value.replace(cloud.url, "http://127.0.0.1:9"))
    remote.filesystem.cache_clear()
    status, lines = stored()
    remote.filesystem.cache_clear()
    assert (status, len(lines)) == (1, 3), lines
    assert lines[-1].endswith("(3 tries)")


def test_missing_credentials_are_one_line(program, cache, monkeypatch):
    pytest.importorskip("adlfs")
    for name in list(os.environ):
        if name.startswith("AZURE_"):
            monkeypatch.delenv(name)
    remote.filesystem.cache_clear()
    where = {"inputs": "az://container/in", "outputs": "az://container/out"}
    status, lines = program("--cache", str(cache), **where)
    remote.filesystem.cache_clear()
    assert (status, len(lines)) == (1, 1), lines
    assert lines[0].startswith("az:// cannot be used: unable to connect to account for Must")

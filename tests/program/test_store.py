"""Runs with URLs on a real S3 server: what is written, which faults of the store it bears."""

import functools
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("moto")

from swiftmedsam.program.run_log import read_log
from swiftmedsam.store import remote, retries
from tests.helpers import HANGS, ROOT, image_case, make_case_file, names
from tests.helpers.s3_server import S3Server

FIVE = [f"2DBox_US_{i}.npz" for i in range(5)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = S3Server(tmp_path_factory.mktemp("s3"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        remote.filesystem.cache_clear()
        server.connect()
        yield server
        remote.filesystem.cache_clear()
    server.close()


@pytest.fixture
def bucket(server, tmp_path):
    """A bucket of this test's own."""
    name = f"b{abs(hash(str(tmp_path)))}"
    server.files.mkdir(name)
    server.faults()
    return name


@pytest.fixture
def cache(tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    yield folder
    assert names(folder) == []  # whatever became of the run


@pytest.fixture
def stored(program, bucket, cache):
    """Run the program from `in` to `out` of the bucket."""

    def run(*options, inputs=f"s3://{bucket}/in", outputs=f"s3://{bucket}/out"):
        return program("--cache", str(cache), *options, inputs=inputs, outputs=outputs)

    return run


@pytest.fixture
def cases(inputs, server, bucket):
    """Five cases whose masks differ, here and in the bucket."""
    for i, name in enumerate(FIVE):
        make_case_file(inputs, name, imgs=np.roll(image_case()["imgs"], 5 * i, axis=1))
    server.upload(inputs, f"{bucket}/in")
    return inputs


@pytest.fixture
def expected(program, cases, outputs):
    """The outputs of a run on this machine, by name."""
    assert program("--quiet")[0] == 0
    return {path.name: path.read_bytes() for path in outputs.iterdir()}


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(retries, "PAUSES", (0.01, 0.01))


def test_a_run_in_a_store_writes_what_a_run_here_writes(stored, server, bucket, expected, tmp_path):
    status, lines = stored("--log", str(tmp_path / "run.jsonl"))
    assert (status, lines[-1][:33]) == (0, "5 written, 0 skipped, 0 failed, ")
    assert server.contents(f"{bucket}/out") == expected
    log = read_log(tmp_path / "run.jsonl")
    assert log.cases[FIVE[0]]["output"] == f"s3://{bucket}/out/{FIVE[0]}"
    assert len(server.requests("GET", f"{bucket}?list-type=2", "prefix=in")) == 1

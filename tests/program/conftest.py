"""Fixtures of the tests of runs in parts, in stores and by fleets."""

import functools

import pytest

from tests.helpers.stores import connected, new_bucket


@pytest.fixture
def jobs(tmp_path):
    """Make `count` jobs whose outputs hold their own names."""
    from tests.helpers.fleet import make_jobs

    return functools.partial(make_jobs, tmp_path)


@pytest.fixture
def merge(capsys):
    """Run `swiftmedsam merge`; return exit status and the lines it wrote to stderr."""
    from swiftmedsam.commands import main as swiftmedsam
    from tests.helpers import fresh_logging

    def run(*words):
        with fresh_logging():
            status = swiftmedsam(["merge", *map(str, words)])
        return status, capsys.readouterr().err.splitlines()

    return run


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """An S3 server, and the environment in which the program finds it."""
    for package in ("moto", "s3fs"):
        pytest.importorskip(package)
    from tests.helpers.s3_server import S3Server

    with connected(S3Server(tmp_path_factory.mktemp("s3"))) as server:
        yield server


@pytest.fixture
def bucket(server, tmp_path):
    """A bucket of this test's own."""
    return new_bucket(server, tmp_path)


@pytest.fixture
def cache(tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []  # whatever became of the run


@pytest.fixture
def stored(program, bucket, cache):
    """Run the program from `in` to `out` of the bucket."""

    def run(*options, inputs=f"s3://{bucket}/in", outputs=f"s3://{bucket}/out"):
        return program("--cache", str(cache), *options, inputs=inputs, outputs=outputs)

    return run


@pytest.fixture
def quick(monkeypatch):
    """Three tries, without pauses."""
    monkeypatch.setattr("swiftmedsam.store.retries.PAUSES", (0.01, 0.01))

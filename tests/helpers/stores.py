"""Tests with a server of a store: `S3Server`, or a `Cloud`."""

import contextlib

import pytest


@contextlib.contextmanager
def connected(server, **more):
    """`server`, while the program finds it; `more` are further variables of the environment."""
    from swiftmedsam.store import remote

    with pytest.MonkeyPatch.context() as patch:
        for name, value in (server.environment | more).items():
            patch.setenv(name, value)
        remote.filesystem.cache_clear()
        server.connect()
        yield server
        remote.filesystem.cache_clear()
    server.close()


def new_bucket(server, folder):
    """The name of a new bucket, another one for each `folder`; there are no faults any more."""
    name = f"b{abs(hash(str(folder)))}"
    server.files.mkdir(name)
    server.faults()
    return name

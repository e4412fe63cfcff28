"""A journal whose disk was full, whose folder others can read, or that two servers want."""

import errno
import os
from dataclasses import replace

import numpy as np
import pytest

from swiftmedsam import open_image
from swiftmedsam.server.journal import Journal, fingerprint, restore
from swiftmedsam.server.session import Session
from swiftmedsam.settings import BEST
from tests.helpers import BrightInBox
from tests.helpers.server import phantom

SHAPE = (11, 48, 56)


def session_of():
    return Session(open_image(phantom(SHAPE), BrightInBox(), BEST, modality="MR"))


def followed(folder, session=None):
    session = session or session_of()
    journal = Journal.of(session, folder)
    assert journal.claim()
    for kept in journal.kept:
        restore(session, kept)
    journal.follow(session)
    return session, journal


def content(session):
    return [(one.name, one.colour, one.box, one.mask.tolist()) for one in session.objects.values()]


def seed(session, number, start):
    mask = np.zeros(SHAPE, bool)
    mask[2:5, start : start + 9, 5:30] = True
    session.seed(number, mask)


class Filling:
    """A file on a disk that gets full in the middle of the next entry."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, content):
        self._stream.write(content[: len(content) // 2])
        self._stream.flush()
        raise OSError(errno.ENOSPC, "No space left on device")

    def __getattr__(self, name):
        return getattr(self._stream, name)


def test_after_a_full_disk_had_room_again_nothing_is_lost(tmp_path, caplog):
    session, journal = followed(tmp_path)
    session.new_object("a")
    seed(session, 1, 5)
    journal._stream = Filling(journal._stream)
    session.new_object("b")
    assert "cannot be written (No space left on device)" in caplog.text
    seed(session, 2, 20)
    session.rename(1, "c")
    journal.close()
    again, journal = followed(tmp_path)
    assert content(again) == content(session)
    journal.close()


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX's")
def test_nobody_else_reads_a_journal_whatever_its_folder_is(tmp_path):
    tmp_path.chmod(0o755)
    session, journal = followed(tmp_path)
    session.new_object("a name")
    journal.close()
    (path,) = tmp_path.glob("*.journal")
    assert path.stat().st_mode & 0o777 == 0o600


def test_two_servers_do_not_write_one_journal(tmp_path, caplog):
    first, journal = followed(tmp_path)
    first.new_object("mine")
    assert not Journal.of(session_of(), tmp_path).claim()
    seed(first, 1, 5)
    journal.close()
    again, journal = followed(tmp_path)
    assert content(again) == content(first)
    journal.close()
    assert {path.suffix for path in tmp_path.iterdir()} == {".journal"}


def test_what_a_server_left_half_written_goes(tmp_path):
    (tmp_path / ".segs-abc.partial").write_bytes(b"half")
    _, journal = followed(tmp_path)
    journal.close()
    assert not list(tmp_path.glob(".segs-*"))


@pytest.mark.parametrize("kind", [">i2", "<u2", ">f4", "f8", "bool", "u1"])
def test_voxels_of_any_kind_have_a_fingerprint(kind, tmp_path):
    scan = session_of().image.scan
    voxels = (scan.voxels > 300).astype(kind)
    assert len(fingerprint(replace(scan, voxels=voxels))) == 32

"""Objects that were not saved come back, whenever the server was killed."""

import numpy as np
import pytest

from swiftmedsam import open_image
from swiftmedsam.server import journal as journals
from swiftmedsam.server.journal import Journal, fingerprint, restore
from swiftmedsam.server.session import Session
from swiftmedsam.settings import BEST
from tests.helpers import BrightInBox
from tests.helpers.server import phantom

SHAPE = (11, 48, 56)
BALL = ((5, 16, 16), 4)


def session_of(volume=None):
    image = phantom(SHAPE, BALL) if volume is None else volume
    return Session(open_image(image, BrightInBox(), BEST, modality="MR"))


def content(session):
    return [(one.name, one.colour, one.box, one.mask.tolist()) for one in session.objects.values()]


def restored(folder, volume=None):
    """A new session of the same image, with what its journal has."""
    session = session_of(volume)
    journal = Journal.of(session, folder)
    for kept in journal.kept:
        restore(session, kept)
    return session, journal


@pytest.fixture
def followed(tmp_path):
    session = session_of()
    journal = Journal.of(session, tmp_path)
    journal.follow(session)
    yield session, journal
    journal.close()


def draw(session):
    """Some steps; after each of them what the session has."""
    whole = np.zeros(SHAPE, bool)
    whole[3:8, 10:22, 10:22] = True
    yield session.new_object("left\u00a0kidney", (1, 2, 3))
    yield session.add_box(1, ((5, 6), (10, 23), (10, 23)))
    yield session.new_object()
    yield session.seed(2, whole)
    yield session.set_slice(2, 0, 4, np.zeros(SHAPE[1:]))
    yield session.undo(1)
    yield session.rename(2, "spleen")
    yield session.remove(1)
    yield session.reset(2)


def test_after_each_step_a_killed_server_has_lost_nothing(followed, tmp_path):
    session, _ = followed
    for _ in draw(session):
        again, _ = restored(tmp_path)  # the file is read as it is: nothing was closed
        assert content(again) == content(session)


def test_what_came_back_is_kept_again(followed, tmp_path):
    session, journal = followed
    session.new_object("a")
    session.seed(1, np.ones(SHAPE))
    journal.close()
    again, second = restored(tmp_path)
    second.follow(again)
    again.rename(1, "b")
    second.close()
    assert [one.name for one in restored(tmp_path)[0].objects.values()] == ["b"]
    assert not restored(tmp_path)[0][1].history  # to undo it would lose it


def test_saved_objects_do_not_come_back_but_later_changes_do(followed, tmp_path):
    session, journal = followed
    session.new_object("a")
    session.seed(1, np.ones(SHAPE))
    journal.saved()
    assert not list(tmp_path.iterdir()) and not restored(tmp_path)[0].objects
    session.rename(1, "b")
    again, _ = restored(tmp_path)
    assert content(again) == content(session)


def test_a_journal_belongs_to_its_image_whatever_the_files_name(tmp_path):
    volume = phantom(SHAPE, BALL)
    first = fingerprint(open_image(volume, BrightInBox()).scan)
    assert fingerprint(open_image(volume.copy(), BrightInBox()).scan) == first
    other = volume.copy()
    other[0, 0, 0] += 1
    assert fingerprint(open_image(other, BrightInBox()).scan) != first
    spaced = open_image(volume, BrightInBox(), spacing_mm=[2, 1, 1]).scan
    assert fingerprint(spaced) != first


def test_an_entry_that_was_cut_off_does_not_count(followed, tmp_path):
    session, _ = followed
    lengths, states = [], []
    (path,) = [None]
    for _ in draw(session):
        (path,) = tmp_path.iterdir()
        lengths.append(path.stat().st_size)
        states.append(content(session))
    whole = path.read_bytes()
    for length in range(lengths[0], len(whole) + 1, 7):
        path.write_bytes(whole[:length])
        last = max(n for n, size in enumerate(lengths) if size <= length)
        assert content(restored(tmp_path)[0]) == states[last]


@pytest.mark.parametrize("at", [0, 30, 45, 80, 120, -1])
def test_a_broken_journal_gives_what_can_be_read(followed, tmp_path, at):
    session, _ = followed
    for _ in draw(session):
        pass
    (path,) = tmp_path.iterdir()
    broken = bytearray(path.read_bytes())
    broken[at] ^= 0xFF
    path.write_bytes(broken)
    assert len(restored(tmp_path)[0].objects) <= 2


def test_a_long_journal_is_written_anew(followed, tmp_path, monkeypatch):
    session, _ = followed
    monkeypatch.setattr(journals, "LARGE", 2000)
    session.new_object()
    rng = np.random.default_rng(3)
    for _ in range(30):
        session.seed(1, rng.random(SHAPE) > 0.5)
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size < 3 * SHAPE[0] * SHAPE[1] * SHAPE[2] // 8
    assert content(restored(tmp_path)[0]) == content(session)


def test_a_disk_that_cannot_be_written_keeps_nobody_from_drawing(followed, monkeypatch, caplog):
    session, journal = followed

    def full(*_):
        raise OSError(28, "No space left on device")

    session.new_object()
    monkeypatch.setattr(journal, "_add", full)
    session.seed(1, np.ones(SHAPE))
    assert session[1].box == tuple((0, length) for length in SHAPE)
    assert "cannot be written (No space left on device)" in caplog.text


def test_the_folder_is_for_its_owner_alone(tmp_path):
    Journal.of(session_of(), tmp_path / "state" / "journals")
    assert (tmp_path / "state" / "journals").stat().st_mode & 0o077 == 0

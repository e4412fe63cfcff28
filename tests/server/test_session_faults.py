"""Boxes that reach far outside, and steps that fail in the middle."""

import nibabel
import numpy as np
import pytest

from swiftmedsam import open_image
from swiftmedsam.display import DEFAULT_WINDOW
from swiftmedsam.server import session as sessions
from swiftmedsam.server.opened import Opened
from swiftmedsam.server.planes import SessionError
from swiftmedsam.server.session import Session
from swiftmedsam.settings import BEST
from tests.helpers import BrightInBox

SHAPE = (14, 64, 96)


@pytest.fixture
def session():
    image = np.zeros(SHAPE, np.uint8)
    image[0:9, 20:40, 30:50] = 255
    return Session(open_image(image, BrightInBox(), BEST, modality="MR"))


def test_a_thick_box_of_which_one_slice_is_inside_bounds_the_object_in_it(session):
    number = session.new_object().number
    box = ((-5, 1), (15, 45), (25, 55))
    assert session.add_box(number, box).box == ((0, 1), (20, 40), (30, 50))
    session.add_box(number, box, positive=False)
    assert session[number].box is None


def test_a_box_of_one_slice_is_followed_though_it_reaches_outside(session):
    number = session.new_object().number
    change = session.add_box(number, ((4, 5), (-9, 45), (25, 55)))
    assert change.box == ((0, 9), (20, 40), (30, 50))


def test_a_box_that_cannot_be_refined_stays_as_it_was(session, monkeypatch):
    number = session.new_object().number
    session.add_box(number, ((4, 5), (15, 45), (25, 55)), extend=False, quick=True)
    before, marks = session[number].mask, session[number].marks

    def none(*_, **__):
        raise MemoryError

    monkeypatch.setattr(session.planes, "in_slice", none)
    with pytest.raises(MemoryError):
        session.refine(number)
    np.testing.assert_array_equal(session[number].mask, before)
    assert session[number].marks == marks and session[number].drawn is not None
    monkeypatch.undo()
    session.refine(number)
    assert session[number].drawn is None and len(session[number].history) == 1
    np.testing.assert_array_equal(session[number].mask, before)


def test_of_a_label_map_all_objects_are_added_or_none(session, tmp_path, monkeypatch):
    labels = np.zeros(SHAPE, np.uint8)
    labels[3, 20:40, 30:50] = np.arange(20)[:, np.newaxis] % 4
    image = nibabel.Nifti1Image(np.full(SHAPE, 7, np.int16).T, np.eye(4))
    nibabel.save(image, tmp_path / "scan.nii.gz")
    nibabel.save(nibabel.Nifti1Image(labels.T, np.eye(4)), tmp_path / "labels.nii.gz")
    scan = open_image(tmp_path / "scan.nii.gz", BrightInBox(), BEST, modality="MR")
    (tmp_path / "own").mkdir()
    path = tmp_path / "scan.nii.gz"
    opened = Opened(Session(scan), path, None, DEFAULT_WINDOW, tmp_path / "own")
    opened.session.new_object("mine")
    monkeypatch.setattr(sessions, "MAX_LABELS", 3)
    with pytest.raises(SessionError, match="^a session can have 3 objects$"):
        opened.add_labels(tmp_path / "labels.nii.gz", None)
    assert [one.name for one in opened.session.objects.values()] == ["mine"]
    opened.close()

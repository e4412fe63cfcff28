"""Objects of an open volume: boxes in any plane, corrections, undo, and who counts where."""

from dataclasses import replace

import numpy as np
import pytest

from swiftmedsam import open_image
from swiftmedsam.extend import Enough
from swiftmedsam.server.region import around, parts_of
from swiftmedsam.server.session import Session, SessionError
from swiftmedsam.settings import BEST
from tests.helpers import BrightInBox, dsc, ellipse, picture

# At a longer side of 256 the frame changes nothing: slice pixels are input pixels.
DEPTH, HEIGHT, WIDTH = 14, 64, 256
NO_CROPS = replace(BEST, volume_crops=0, image_crops=0)


def bars(*columns, slices=range(3, 10)):
    """A volume with bright bars of 20 x 20 pixels that go through some slices."""
    image = np.zeros((DEPTH, HEIGHT, WIDTH), np.uint8)
    for left in columns:
        image[slices.start : slices.stop, 20:40, left : left + 20] = 255
    return image


def session_of(image, network=None, **more):
    options = {"modality": "MR", "settings": NO_CROPS, **more}
    return Session(open_image(image, network or BrightInBox(), **options))


def whole(session, number):
    """The object's mask in the whole volume."""
    one, mask = session[number], np.zeros(session.shape, bool)
    if one.box is not None:
        mask[parts_of(one.box)] = one.mask
    return mask


def at(k, left, margin=3):
    """A box in slice k around a bar."""
    return ((k, k + 1), (20 - margin, 40 + margin), (left - margin, left + 20 + margin))


@pytest.fixture
def session():
    return session_of(bars(60))


@pytest.fixture
def liver(session):
    return session.new_object("liver").number


# Boxes


def test_a_thin_box_gives_the_whole_object_and_says_where_it_changed(session, liver):
    change = session.add_box(liver, at(6, 60))
    np.testing.assert_array_equal(whole(session, liver), bars(60) > 0)
    assert change.box == ((3, 10), (20, 40), (60, 80)) == session[liver].box
    assert change.mask.all() and change.mask.shape == (7, 20, 20)
    assert (change.number, change.warnings) == (liver, ())


def test_without_extending_only_its_slice_changes_and_extending_can_follow(session, liver):
    change = session.add_box(liver, at(6, 60), extend=False)
    assert change.box == ((6, 7), (20, 40), (60, 80))
    change = session.extend(liver)
    assert change.box == ((3, 10), (20, 40), (60, 80))
    np.testing.assert_array_equal(whole(session, liver), bars(60) > 0)
    assert session.extend(liver).box is None


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_box_that_is_thin_along_any_axis_is_a_box_in_that_plane(axis):
    image = np.zeros((64, 64, 64), np.uint8)
    image[16:40, 20:44, 24:48] = 255
    session = session_of(image, settings=replace(NO_CROPS, extend_reach=0.0))
    number = session.new_object().number
    box = [(12, 44), (16, 48), (20, 52)]
    box[axis] = (30, 31)
    inside = session.add_box(number, box, extend=False).box
    assert inside[axis] == (30, 31)
    assert all(high - low >= 22 for n, (low, high) in enumerate(inside) if n != axis)
    session.add_box(number, box)
    assert dsc(whole(session, number), image > 0) > 0.95


def test_another_plane_of_a_flipped_and_turned_file_is_asked_on_the_files_own_grid(tmp_path):
    import nibabel

    image = np.zeros((40, 64, 64), np.int16)  # (K, J, I)
    image[10:30, 20:44, 8:32] = 100
    turned = np.array([[0, -1.0, 0, 9], [0, 0, 2, -4], [1.5, 0, 0, 3], [0, 0, 0, 1]])
    path = tmp_path / "turned.nii.gz"
    nibabel.save(nibabel.Nifti1Image(image.T, turned), path)
    session = Session(open_image(path, BrightInBox(), NO_CROPS, modality="MR"))
    assert session.shape == (40, 64, 64)
    for axis in range(3):
        number = session.new_object().number
        box = [(6, 34), (16, 48), (4, 36)]
        box[axis] = (25, 26)
        session.add_box(number, box)
        assert dsc(whole(session, number), image > 0) > 0.95


def test_a_thick_box_is_a_bound(session, liver):
    session.add_box(liver, ((4, 8), (17, 43), (57, 83)))
    assert session[liver].box == ((4, 8), (20, 40), (60, 80))
    session.undo(liver)
    assert session[liver].box is None


def test_a_box_is_cut_to_the_volume_and_refused_outside(session, liver):
    session.add_box(liver, ((6, 7), (-5, 99), (-1, 1000)), extend=False)
    assert session[liver].box == ((6, 7), (20, 40), (60, 80))
    for box in [((14, 15), (0, 9), (0, 9)), ((3, 4), (9, 9), (0, 9)), ((3, 4), (0, 9)), 7,
                ((3, 4), (0, 9), (0, 9.5)), ((3, 4), (0, 9), (0, None))]:  # fmt: skip
        with pytest.raises(SessionError) as refused:
            session.add_box(liver, box)
        assert "\n" not in str(refused.value)
    assert session[liver].box == ((6, 7), (20, 40), (60, 80))
    with pytest.raises(SessionError, match="^there is no object 9$"):
        session.add_box(9, at(6, 60))


def test_more_boxes_in_one_slice_are_one_object():
    session = session_of(bars(60, 120))
    number = session.new_object().number
    session.add_box(number, at(6, 60), extend=False)
    change = session.add_box(number, at(6, 120), extend=False)
    assert change.box == ((6, 7), (20, 40), (120, 140))
    session.extend(number)
    np.testing.assert_array_equal(whole(session, number), bars(60, 120) > 0)


def test_a_second_box_corrects_what_followed_from_the_first():
    """From slice 7 on the object is elsewhere."""
    image = bars(60, slices=range(7))
    image |= bars(160, slices=range(7, DEPTH))
    session = session_of(image)
    number = session.new_object().number
    session.add_box(number, at(4, 60))
    assert session[number].box[0] == (0, 7)
    session.add_box(number, at(9, 160))
    np.testing.assert_array_equal(whole(session, number)[9:], image[9:] > 0)
    session.undo(number)
    assert session[number].box[0] == (0, 7)


def test_boxes_in_two_planes_are_one_object():
    """A bar through the slices, and one across them."""
    image = bars(60)
    image[:, 45:60, 100:200] = 255
    image[:, 45:60, 100:200][5:7] = 255
    session = session_of(image, settings=replace(NO_CROPS, extend_reach=0.0))
    number = session.new_object().number
    session.add_box(number, at(6, 60))
    session.add_box(number, ((0, DEPTH), (50, 51), (95, 205)))
    mask = whole(session, number)
    np.testing.assert_array_equal(mask[:, :43, :90], image[:, :43, :90] > 0)
    assert mask[:, 50, 100:200].all()


# Negative boxes


def test_a_negative_box_takes_away_what_is_found_in_it():
    session = session_of(bars(60, 120))
    number = session.new_object().number
    session.seed(number, bars(60, 120) > 0)
    change = session.add_box(number, at(6, 120), positive=False)
    np.testing.assert_array_equal(whole(session, number), bars(60) > 0)
    assert change.box == ((3, 10), (20, 40), (120, 140)) and not change.mask.any()
    session.undo(number)
    session.add_box(number, at(6, 120), positive=False, extend=False)
    assert (whole(session, number) != bars(60, 120) // 255).sum() == 400


def test_of_a_followed_object_the_slices_around_a_negative_box_follow():
    """Two bars in one box; one of them does not belong to the object."""
    image = bars(60, 80, slices=range(DEPTH))
    session = session_of(image)
    number = session.new_object().number
    session.add_box(number, ((6, 7), (17, 43), (57, 103)))
    np.testing.assert_array_equal(whole(session, number), image > 0)
    session.add_box(number, ((8, 9), (17, 43), (80, 105)), positive=False)
    mask = whole(session, number)
    np.testing.assert_array_equal(mask[8], bars(60, slices=range(DEPTH))[8] > 0)
    np.testing.assert_array_equal(mask[:7], image[:7] > 0)  # up to the first box
    areas = mask.sum(axis=(1, 2))
    assert (areas[9:] < 800).all() and (areas[9:] >= 400).all()
    # what was taken away comes back if a box says so
    session.add_box(number, ((8, 9), (17, 43), (57, 103)))
    np.testing.assert_array_equal(whole(session, number)[8], image[8] > 0)


def test_a_negative_box_in_which_nothing_is_found_empties_the_box():
    session = session_of(np.zeros((DEPTH, HEIGHT, WIDTH), np.uint8))
    number = session.new_object().number
    session.seed(number, bars(60) > 0)
    session.add_box(number, ((6, 7), (20, 30), (60, 80)), positive=False)
    assert (bars(60) > 0).sum() - whole(session, number).sum() == 10 * 20


def test_a_thick_negative_box_is_a_bound(liver, session):
    session.add_box(liver, at(6, 60))
    session.add_box(liver, ((2, 6), (17, 43), (57, 83)), positive=False)
    assert session[liver].box == ((6, 10), (20, 40), (60, 80))


# Masks


def test_a_mask_of_a_slice_is_kept_as_it_is_and_can_be_followed(session, liver):
    drawn = np.zeros((HEIGHT, WIDTH), bool)
    drawn[20:40, 60:70] = True
    session.add_box(liver, at(6, 60))
    change = session.set_slice(liver, 0, 8, drawn)
    assert change.box == ((8, 9), (20, 40), (70, 80)) and not change.mask.any()
    session.add_box(liver, at(5, 60))
    np.testing.assert_array_equal(whole(session, liver)[8], drawn)
    session.set_slice(liver, 0, 8, np.zeros_like(drawn), extend=True)
    assert session[liver].box == ((3, 8), (20, 40), (60, 80))


def test_a_mask_of_another_plane_or_shape(session, liver):
    mask = np.zeros((DEPTH, WIDTH), bool)
    mask[3:10, 60:80] = True
    assert session.set_slice(liver, 1, 30, mask).box == ((3, 10), (30, 31), (60, 80))
    with pytest.raises(SessionError, match=r"should have the shape \(64, 256\), got \(14, 256\)$"):
        session.set_slice(liver, 0, 3, mask)
    with pytest.raises(SessionError, match="^there is no slice 14 along axis 0 of 14 x 64 x 256"):
        session.set_slice(liver, 0, DEPTH, mask)


def test_an_object_from_outside_stays_and_boxes_add_to_it():
    session = session_of(bars(60, 120))
    number = session.new_object().number
    change = session.seed(number, bars(60) > 0)
    assert change.box == ((3, 10), (20, 40), (60, 80))
    session.add_box(number, at(6, 120))
    np.testing.assert_array_equal(whole(session, number), bars(60, 120) > 0)
    session.seed(number, bars(120) > 0)
    np.testing.assert_array_equal(whole(session, number), bars(120) > 0)
    with pytest.raises(SessionError, match="^the mask should have the shape"):
        session.seed(number, np.zeros((2, 2, 2)))


def test_slices_of_an_object_that_was_corrected_by_hand_are_kept_and_followed(session, liver):
    session.add_box(liver, at(6, 60))
    corrected = whole(session, liver)
    corrected[8:, :, 70:] = False
    session.correct(liver, corrected)
    np.testing.assert_array_equal(whole(session, liver), corrected)
    assert {index for index, mark in session[liver].marks[0].items() if mark.mask is not None} == {
        8, 9,
    }  # fmt: skip
    session.add_box(liver, at(4, 60))
    np.testing.assert_array_equal(whole(session, liver)[8:], corrected[8:])
    for _ in range(2):
        session.undo(liver)
    np.testing.assert_array_equal(whole(session, liver), bars(60) > 0)
    session.reset(liver)
    session.correct(liver, corrected)  # without marks it is a mask from outside
    assert not session[liver].marks
    np.testing.assert_array_equal(whole(session, liver), corrected)


# Undo


def test_steps_are_undone_one_by_one_and_each_object_by_itself():
    session = session_of(bars(60, 120))
    first, second = session.new_object().number, session.new_object().number
    drawn = np.zeros((HEIGHT, WIDTH), bool)
    steps = [
        lambda: session.add_box(first, at(6, 60)),
        lambda: session.set_slice(first, 0, 5, drawn, extend=True),
        lambda: session.add_box(first, at(8, 60), positive=False),
        lambda: session.add_box(first, at(4, 120), extend=False),
        lambda: session.seed(first, bars(120) > 0),
        lambda: session.add_box(first, ((4, 8), (17, 43), (57, 83))),
        lambda: session.reset(first),
    ]
    before = []
    for step in steps:
        before.append(whole(session, first))
        step()
    session.add_box(second, at(6, 120))
    for former in reversed(before):
        was = whole(session, first)
        change = session.undo(first)
        now = whole(session, first)
        np.testing.assert_array_equal(now, former)
        assert change.box == around(was != now)
    assert session.undo(first).box is None
    np.testing.assert_array_equal(whole(session, second), bars(120) > 0)


def test_an_undone_box_is_forgotten_by_the_next():
    session = session_of(bars(60, 120))
    number = session.new_object().number
    session.add_box(number, at(6, 120))
    session.undo(number)
    session.add_box(number, at(6, 60))
    np.testing.assert_array_equal(whole(session, number), bars(60) > 0)


def test_undo_keeps_only_what_changed(session, liver):
    session.add_box(liver, at(6, 60))
    session.set_slice(liver, 0, 8, np.zeros((HEIGHT, WIDTH), bool))
    kept = sum(len(packed.bits) for _, packed in session[liver].history[-1].voxels)
    assert kept == 2 * 50  # 400 voxels, a bit each: of the object, and of what was followed


# Quick answers


def test_a_quick_answer_encodes_once_and_is_refined_by_crops():
    network = BrightInBox()
    image = picture(300, 400, ellipse(300, 400, (54, 94), (6, 7)))
    session = session_of(image, network, settings=None)
    number = session.new_object().number
    box = ((0, 1), (46, 62), (84, 104))
    session.add_box(number, box, quick=True)
    quick = whole(session, number)
    assert quick.any() and sum(network.encoded.values()) == 1
    change = session.refine(number)
    refined = whole(session, number)
    assert sum(network.encoded.values()) == 2
    assert change.box == around(quick != refined)
    assert session.refine(number).box is None
    session.undo(number)
    assert session[number].box is None and session.undo(number).box is None


# Pictures


@pytest.mark.parametrize("colour", [False, True])
def test_a_picture_is_a_volume_of_one_slice(colour):
    masks = ellipse(200, 300, (60, 80), (30, 40)), ellipse(200, 300, (140, 220), (30, 40))
    image = picture(200, 300, *masks, colour=colour)
    session = session_of(image)
    assert (session.shape, session.is_volume) == ((1, 200, 300), False)
    number = session.new_object().number
    session.add_box(number, ((0, 1), (25, 95), (35, 125)))
    assert dsc(whole(session, number)[0], masks[0]) > 0.9
    session.add_box(number, ((0, 1), (105, 175), (175, 265)))
    assert dsc(whole(session, number)[0], masks[0] | masks[1]) > 0.9
    session.add_box(number, ((0, 1), (25, 95), (35, 125)), positive=False)
    assert dsc(whole(session, number)[0], masks[1]) > 0.9
    assert session.extend(number).box is None
    assert session.image.display.shape == image.shape


def test_a_volume_of_one_slice_along_another_axis_is_a_picture():
    image = bars(60)[:, 30:31]
    session = session_of(image)
    assert not session.is_volume
    number = session.new_object().number
    session.add_box(number, ((1, 12), (0, 1), (55, 85)))
    assert session[number].box == ((3, 10), (0, 1), (60, 80))


# Objects


def test_earlier_objects_are_not_overwritten_unless_asked():
    session = session_of(bars(60))
    first, second = session.new_object("a").number, session.new_object("b").number
    session.seed(first, bars(60) > 0)
    session.seed(second, bars(70) > 0)
    labels = session.label_map()
    assert (labels.shape, labels.dtype, labels.max()) == (session.shape, np.uint8, 2)
    assert set(labels[5, 30, 60:80]) == {1} and set(labels[5, 30, 80:90]) == {2}
    assert set(session.label_map(later_wins=True)[5, 30, 70:90]) == {2}
    assert set(session.label_map([2]).ravel()) == {0, 2}
    np.testing.assert_array_equal(
        session.labels_in(((5, 6), (0, HEIGHT), (65, 99))), labels[5:6, :, 65:99]
    )


def test_objects_have_names_colours_and_numbers_that_are_not_used_again():
    session = session_of(bars(60))
    heard = []
    session.listen(lambda event: heard.append((event.kind, event.object.number)))
    first, second = session.new_object(" left\nlung "), session.new_object()
    assert (first.name, second.name) == ("left lung", "2")
    assert first.colour != second.colour
    session.add_box(second.number, at(6, 60))
    session.rename(second.number, "liver", (1, 2, 3))
    assert (session[2].name, session[2].colour) == ("liver", (1, 2, 3))
    change = session.remove(second.number)
    assert change.box == ((3, 10), (20, 40), (60, 80)) and not change.mask.any()
    assert session.new_object().number == 3
    assert heard == [("new", 1), ("new", 2), ("changed", 2), ("named", 2), ("removed", 2),
                     ("new", 3)]  # fmt: skip


# Long walks


def test_what_was_found_counts_when_time_is_up_and_the_object_says_so(session, liver):
    def enough(done, _):
        if done >= 3:
            raise Enough

    change = session.add_box(liver, at(6, 60), progress=enough)
    assert session[liver].box == ((6, 9), (20, 40), (60, 80))
    assert change.warnings == ("liver: it was not followed to its ends",)
    session.extend(liver)
    assert session[liver].box[0] == (3, 10)


def test_a_walk_that_is_broken_off_changes_nothing(session, liver):
    def stop(done, _):
        if done >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.add_box(liver, at(6, 60), progress=stop)
    assert session[liver].box is None and not session[liver].history

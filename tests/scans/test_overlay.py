"""Overlays and previews: tint and box lie on the object, whichever way the file stores its axes."""

import nibabel
import numpy as np
import pytest
from PIL import Image

import swiftmedsam
from swiftmedsam.program import cases
from swiftmedsam.program import scan_jobs as command
from swiftmedsam.scans.orientation import Orientation
from swiftmedsam.scans.preview import drawn
from swiftmedsam.scans.scan import Segment
from tests.helpers import BrightInBox, dsc, ellipse, fresh_logging
from tests.helpers.dicom import image, place_tags

COLOUR = Segment(1, "a", (0, 0, 0), (0, 0, 0)).colour
HEIGHT, WIDTH = 60, 80
OBJECT = ellipse(HEIGHT, WIDTH, (16, 55), (8, 14))  # in no symmetry of the picture
# as a radiologist sees it: an object that is brighter than the ground under any tint
PAGE = np.where(OBJECT, 220, 30 + np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)) // 4)
PAGE = PAGE.astype(np.int16)
X_MIN, Y_MIN, X_MAX, Y_MAX = 38, 6, 72, 27  # the box, in that picture

# How the columns of the picture, its rows and its depth become i, j and k: the axis of the picture
# (0 columns, 1 rows) and whether it is turned round; and the affine that makes it so.
KINDS = {
    "LPS, as it is shown": ((0, False), (1, False), np.diag([-1, -1, 1, 1])),
    "RAS": ((0, True), (1, True), np.eye(4)),
    "rows first": ((1, True), (0, False), np.array(
        [[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])),
    # columns to the back, rows to the feet
    "sagittal, i superior, j anterior": ((1, True), (0, True), np.array(
        [[0, 0, -1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])),
    "coronal": ((0, True), (1, True), np.array(
        [[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])),
    "prone DICOM": ((0, True), (1, True), np.diag([1, 1, 1, 1])),
}  # fmt: skip


def stored(page, kind):
    """The picture (H, W) as the file has it, (I, J)."""
    (first, first_turned), (second, second_turned), _ = KINDS[kind]
    assert {first, second} == {0, 1}
    grid = page.T if first == 0 else page
    return grid[:: -1 if first_turned else 1, :: -1 if second_turned else 1]


def shown(grid, kind):
    """The way back."""
    (first, first_turned), (_, second_turned), _ = KINDS[kind]
    grid = grid[:: -1 if first_turned else 1, :: -1 if second_turned else 1]
    return grid.T if first == 0 else grid


def box_in_file(kind):
    """i_min, j_min, i_max, j_max of the box."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[Y_MIN : Y_MAX + 1, X_MIN : X_MAX + 1] = True
    found = np.argwhere(stored(mask, kind))
    return [*found.min(axis=0).tolist(), *found.max(axis=0).tolist()]


def save(folder, kind):
    voxels = np.ascontiguousarray(stored(PAGE, kind)[:, :, np.newaxis])
    affine = np.asarray(KINDS[kind][2], float)
    if "DICOM" in kind:
        path = folder / "scan.dcm"
        pixels = np.ascontiguousarray(voxels[:, :, 0].T)
        image(pixels, Modality="MR", **place_tags(affine, 0)).save_as(
            path, enforce_file_format=True
        )
    else:
        path = folder / "scan.nii.gz"
        nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path


def labels_file(folder, kind):
    """Labels of the object as a NIfTI on the grid of the scan."""
    labels = np.ascontiguousarray(stored(OBJECT, kind)[:, :, np.newaxis].astype(np.uint8))
    path = folder / "scan_truth.nii.gz"
    nibabel.save(nibabel.Nifti1Image(labels, np.asarray(KINDS[kind][2], float)), path)
    return path


def by_command(folder, path, kind, program, monkeypatch):
    def as_bright(case, network, settings, **more):
        return swiftmedsam.segment_case(case, BrightInBox())

    monkeypatch.setattr(command, "segment", as_bright)
    words = ["--box", *map(str, box_in_file(kind)), "--modality", "MR"]
    assert program(*words, inputs=path, outputs=folder / "out.png")[0] == 0
    assert program("--dry-run", *words, inputs=path, outputs=folder / "out.png")[0] == 0
    return folder / "out.png"


def by_opened(folder, path, kind, program, monkeypatch):
    scan = swiftmedsam.open_image(path, BrightInBox(), modality="MR")
    boxes = [box_in_file(kind)]
    scan.write(folder / "out.png", scan.segment(boxes).labels, boxes)
    return folder / "out.png"


def by_cases(folder, path, kind, program, monkeypatch):
    monkeypatch.setattr("swiftmedsam.scans.outputs.default_suffix", lambda path: ".png")
    made, segs, back = (folder / name for name in ("made", "segs", "back"))
    with fresh_logging():
        words = ["make", path, labels_file(folder, kind), made, "--modality", "MR"]
        assert cases.main([str(word) for word in words]) == 0
    segs.mkdir()
    for case in made.glob("*.npz"):
        np.savez(segs / case.name, segs=np.load(case)["gts"])
    with fresh_logging():
        assert cases.main([str(word) for word in ("back", made, segs, path, back)]) == 0
    return back / "scan_labels.png"


@pytest.mark.parametrize("road", [by_command, by_opened, by_cases], ids=lambda one: one.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_tint_and_box_lie_on_the_object(kind, road, program, mine, monkeypatch):
    out = road(mine, save(mine, kind), kind, program, monkeypatch)
    labels = np.asarray(Image.open(out)).T  # (I, J)
    np.testing.assert_array_equal(shown(stored(PAGE, kind), kind), PAGE)  # or this test is wrong
    assert dsc(shown(labels, kind) > 0, OBJECT) > 0.95
    overlay = np.asarray(Image.open(out.with_name(f"{out.stem}_overlay.png"))).astype(int)
    assert overlay.shape == (HEIGHT, WIDTH, 3)
    outline = (overlay == COLOUR).all(axis=-1)
    tinted = (np.ptp(overlay, axis=-1) > 0) & ~outline
    np.testing.assert_array_equal(tinted, (shown(labels, kind) > 0) & ~outline)
    # seen in the picture itself: what is bright is what is tinted
    bright = overlay.min(axis=-1) > 100
    assert dsc(bright & ~outline, tinted) > 0.95
    y, x = np.nonzero(outline)
    if road is not by_cases:  # whose boxes are the extents of the labels
        assert [x.min(), y.min(), x.max(), y.max()] == [X_MIN, Y_MIN, X_MAX, Y_MAX]
    assert (y.min() <= np.nonzero(OBJECT)[0].min()) and (x.max() >= np.nonzero(OBJECT)[1].max())
    if road is by_command:
        preview = np.asarray(Image.open(mine / "out_box1.png")).astype(int)
        zoom = preview.shape[0] // HEIGHT
        y, x = np.nonzero((preview == COLOUR).all(axis=-1))
        assert [x.min(), y.min()] == [X_MIN * zoom, Y_MIN * zoom]
        assert [x.max(), y.max()] == [(X_MAX + 1) * zoom - 1, (Y_MAX + 1) * zoom - 1]


def test_a_picture_that_is_walked_across_is_shown_as_its_file_has_it(program, mine, monkeypatch):
    path = save(mine, "LPS, as it is shown")
    words = ["--box", *map(str, box_in_file("LPS, as it is shown")), "--plane", "coronal"]
    status, _ = program(*words, "--modality", "MR", inputs=path, outputs=mine / "out.png")
    assert status == 0
    overlay = np.asarray(Image.open(mine / "out_overlay.png")).astype(int)
    assert overlay.shape == (HEIGHT, WIDTH, 3)
    assert dsc(overlay.min(axis=-1) > 100, OBJECT) > 0.7  # of what the coronal rows show
    y, x = np.nonzero((overlay == COLOUR).all(axis=-1))
    assert [x.min(), y.min(), x.max(), y.max()] == [X_MIN, Y_MIN, X_MAX, Y_MAX]


def test_only_labels_are_tinted_and_only_the_box_is_outlined():
    page = np.full((6, 8), 100, np.uint8)
    labels = np.zeros((6, 8), np.uint8)
    labels[2:4, 3:5] = 1
    one = Segment(1, "a", (1, 1, 0), (6, 4, 0))
    orientation = Orientation("", (2, 1, 0), (False, False, False), (8, 6, 1))
    found = drawn(page, labels, [one], orientation)
    assert found.shape == (6, 8, 3)
    assert (found[1, 1:7] == one.colour).all()
    assert (found[1:5, 6] == one.colour).all()
    assert (found[0] == 100).all()
    tinted = (found != 100).any(axis=-1)
    assert tinted[2:4, 3:5].all()
    assert not tinted[2, 2]
    mirrored = Orientation("", (2, 1, 0), (False, False, True), (8, 6, 1))
    np.testing.assert_array_equal(
        drawn(page[:, ::-1], labels[:, ::-1], [one], mirrored), found[:, ::-1]
    )

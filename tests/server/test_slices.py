"""The planes of a volume: what is shown, and where a box that was drawn there lies."""

import numpy as np
import pytest

from swiftmedsam.scans.orientation import choose_orientation
from swiftmedsam.server.slices import planes_of
from tests.helpers.scans import AFFINES, ORIENTATIONS, scan_of

GRID = 7, 5, 4  # i, j, k
VOXELS = np.arange(np.prod(GRID), dtype=np.int16).reshape(GRID)
VOLUME = VOXELS.T  # (K, J, I), as a session has it


def turned(columns):
    """An affine of unit steps: `columns` has the world axis and the sign of i, j and k."""
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, (world, sign) in enumerate(columns):
        affine[int(world), axis] = sign
    return affine


ALL = [turned(one) for one in ORIENTATIONS] + list(AFFINES.values())


@pytest.mark.parametrize("affine", ALL)
def test_a_shown_slice_is_what_the_network_sees(affine):
    scan = scan_of(VOXELS, affine)
    planes = planes_of(scan)
    assert len(planes) == 3 and planes[0].name == choose_orientation(scan).plane
    for plane in planes:
        slices = choose_orientation(scan, plane.name).to_slices(VOXELS)
        assert slices.shape == plane.size
        for index, each in enumerate(slices):
            np.testing.assert_array_equal(plane.shown(VOLUME, index), each)


@pytest.mark.parametrize("affine", ALL)
def test_a_drawn_box_holds_the_voxels_that_were_shown_in_it(affine):
    for plane in planes_of(scan_of(VOXELS, affine)):
        index, rows, columns = plane.size[0] - 1, (1, 3), (0, 2)
        box = plane.box(index, rows, columns)
        found = VOLUME[tuple(slice(*ends) for ends in box)]
        shown = plane.shown(VOLUME, index)[slice(*rows), slice(*columns)]
        np.testing.assert_array_equal(plane.turned(found), shown)
        assert plane.part(box, index) == (rows, columns)
        assert plane.part(box, index - 1) is None


@pytest.mark.parametrize("affine", ALL)
def test_a_painted_mask_comes_back_to_the_pixels_that_were_painted(affine):
    for plane in planes_of(scan_of(VOXELS, affine)):
        painted = np.zeros(plane.size[1:], np.bool_)
        painted[0, -1] = painted[1, 0] = True
        volume = np.zeros(VOLUME.shape, np.bool_)
        place = [slice(None)] * 3
        place[plane.axis] = plane.index(1)
        volume[tuple(place)] = plane.mask(painted)
        np.testing.assert_array_equal(plane.shown(volume, 1), painted)
        assert volume.sum() == 2


def test_millimetres_belong_to_slices_rows_and_columns():
    affine = turned([(0, 1), (1, 1), (2, 1)]) @ np.diag([0.5, 2, 3, 1])
    by_name = {plane.name: plane.mm for plane in planes_of(scan_of(VOXELS, affine))}
    assert by_name == {"axial": (3, 2, 0.5), "coronal": (2, 3, 0.5), "sagittal": (0.5, 3, 2)}
    assert planes_of(scan_of(VOXELS, affine, has_mm=False))[0].mm is None


def test_a_picture_has_one_plane_and_a_thin_volume_none_of_lines():
    assert len(planes_of(scan_of(VOXELS[:, :, :1], np.eye(4)))) == 1
    assert len(planes_of(scan_of(VOXELS[:1], np.eye(4)))) == 1
    thin = planes_of(scan_of(VOXELS[:, :1], np.eye(4), slice_axis=2))
    assert [plane.name for plane in thin] == ["axial", "coronal"]

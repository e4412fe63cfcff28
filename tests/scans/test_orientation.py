"""Slices of a scan do not depend on how the file stores its axes; the way back is exact."""

from itertools import product

import nibabel
import numpy as np
import pytest
from nibabel.orientations import apply_orientation

from swiftmedsam.display import DEFAULT_WINDOW
from swiftmedsam.modality import find_modality
from swiftmedsam.scans.boxes.drawn import drawn_box, on_grid
from swiftmedsam.scans.formats.by_suffix import read_scan
from swiftmedsam.scans.orientation import PLANES, anatomical_axes, choose_orientation
from swiftmedsam.scans.place import case_of, to_grid
from tests.helpers import BrightInBox, labels_of, volume_case
from tests.helpers.scans import (
    AFFINES,
    ALIGNED,
    ORIENTATIONS,
    grid_of,
    labels_by_npz,
    mm_of,
    rotation,
    scan_of,
)

MR = find_modality("MR")


def labels_on_grid(scan, drawn, plane="acquired"):
    orientation = choose_orientation(scan, plane)
    segments = [on_grid(box, scan, value) for value, box in enumerate(drawn, start=1)]
    return to_grid(
        labels_of(case_of(scan, segments, orientation, MR, DEFAULT_WINDOW), BrightInBox()),
        orientation,
    )


def extents(mask):
    """First and last index of a mask along each axis, (6,)."""
    found = np.argwhere(mask)
    return [*found.min(axis=0), *found.max(axis=0)]


def test_the_mask_of_the_npz_could_show_a_mistake():
    labels = labels_by_npz()
    assert len(np.unique(labels)) == 4
    for axis in range(3):
        assert not np.array_equal(labels, np.flip(labels, axis))


@pytest.mark.parametrize("placed", AFFINES)
def test_all_48_orientations_give_the_mask_of_the_npz_in_world_space(placed, tmp_path):
    case, affine = volume_case(), AFFINES[placed]
    source = nibabel.Nifti1Image(grid_of(case["imgs"]), affine)
    wanted = nibabel.as_closest_canonical(nibabel.Nifti1Image(grid_of(labels_by_npz()), affine))
    path = tmp_path / "scan.nii"
    for orientation in ORIENTATIONS:
        stored = source.as_reoriented(orientation)
        nibabel.save(stored, path)
        drawn = []
        for box in case["boxes"]:
            painted = np.zeros(source.shape, np.uint8)
            painted[tuple(slice(box[axis], box[axis + 3] + 1) for axis in range(3))] = 1
            drawn.append(drawn_box("", extents(apply_orientation(painted, orientation))))
        labels = labels_on_grid(read_scan(path), drawn)
        assert labels.shape == stored.shape
        found = nibabel.as_closest_canonical(nibabel.Nifti1Image(labels, stored.affine))
        np.testing.assert_array_equal(found.dataobj, wanted.dataobj)
        np.testing.assert_allclose(found.affine, wanted.affine, atol=1e-4)  # stored as float32


@pytest.mark.parametrize("space", ["RAS", "LPS"])
def test_voxel_and_mm_boxes_agree_in_all_48_orientations(space):
    """In mm of the voxels' centres as in mm of their outer sides."""
    case = volume_case()
    source = nibabel.Nifti1Image(grid_of(case["imgs"]), ALIGNED)
    sign = 1 if space == "RAS" else np.array([-1, -1, 1, -1, -1, 1])
    for orientation in ORIENTATIONS:
        stored = source.as_reoriented(orientation)
        scan = scan_of(np.asanyarray(stored.dataobj), stored.affine)
        for box in case["boxes"]:
            painted = np.zeros(source.shape, np.uint8)
            painted[tuple(slice(box[axis], box[axis + 3] + 1) for axis in range(3))] = 1
            wanted = extents(apply_orientation(painted, orientation))
            for outer in (0, 0.5):
                sides = [*(box[:3] - outer), *(box[3:] + outer)]
                corners = np.array(mm_of(sides, ALIGNED)) * sign
                found = on_grid(drawn_box("", corners, "mm", space), scan, 1)
                assert [*found.first, *found.last] == wanted


def test_a_box_in_mm_on_an_oblique_grid_is_the_extent_of_its_corners():
    scan = scan_of(np.zeros((64, 40, 6), np.uint8), AFFINES["oblique"])
    centre = (scan.affine @ [30, 20, 3, 1])[:3]
    found = on_grid(drawn_box("", [*(centre - 5), *(centre + 5)], "mm", "RAS"), scan, 1)
    corners = np.array(list(product(*zip(centre - 5, centre + 5, strict=True), [1])))
    voxels = (np.linalg.inv(scan.affine) @ corners.T)[:3]
    assert list(found.first) == np.ceil(voxels.min(axis=1)).tolist()
    assert list(found.last) == np.floor(voxels.max(axis=1)).tolist()


@pytest.mark.parametrize("plane", PLANES)
def test_the_way_back_to_the_grid_is_exact(plane):
    voxels = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    for affine in AFFINES.values():
        image = nibabel.Nifti1Image(voxels.astype(np.int16), affine)
        for orientation in ORIENTATIONS:
            stored = image.as_reoriented(orientation)
            scan = scan_of(np.asanyarray(stored.dataobj), stored.affine)
            orientation = choose_orientation(scan, plane)
            slices = orientation.to_slices(scan.voxels)
            assert slices.shape == orientation.shape
            np.testing.assert_array_equal(orientation.to_grid(slices), scan.voxels)
            for index in np.ndindex(scan.grid):
                x, y, z = orientation.box(index, index)[:3]
                assert slices[z, y, x] == scan.voxels[index]


def test_planes_are_looked_at_as_a_radiologist_does():
    """World positions grow to the left, the back and the head, or so: checked on the voxels."""
    grid = np.indices((4, 3, 2)).transpose(1, 2, 3, 0).astype(np.float64)
    positions = grid @ ALIGNED[:3, :3].T + ALIGNED[:3, 3]  # RAS of each voxel
    for plane, (down_stack, down, across) in {
        "axial": ((0, 0, 1), (0, -1, 0), (-1, 0, 0)),
        "coronal": ((0, -1, 0), (0, 0, -1), (-1, 0, 0)),
        "sagittal": ((-1, 0, 0), (0, 0, -1), (0, -1, 0)),
    }.items():
        orientation = choose_orientation(scan_of(np.zeros((4, 3, 2), np.uint8), ALIGNED), plane)
        walked = np.stack(
            [orientation.to_slices(positions[..., axis]) for axis in range(3)], axis=-1
        )
        for axis, direction in enumerate((down_stack, down, across)):
            step = np.diff(walked, axis=axis).reshape(-1, 3)
            assert (np.sign(step) == direction).all()


@pytest.mark.parametrize(
    ("shape", "spacing", "slice_axis", "along"),
    [
        ((9, 8, 7), (3, 1, 1), None, 0),
        ((9, 8, 7), (1, 3, 1.5), None, 1),
        ((9, 8, 7), (1, 1, 1), None, 2),  # isotropic: axial
        ((9, 8, 7), (2, 1, 2), None, 2),  # no one axis is longest
        ((1, 8, 7), (1, 1, 5), None, 0),  # one slice
        ((9, 8, 7), (1, 1, 3), 1, 1),  # the file says so
    ],
)  # fmt: skip
def test_the_acquired_slices_are_found(shape, spacing, slice_axis, along):
    scan = scan_of(np.zeros(shape, np.uint8), np.diag([*spacing, 1]), slice_axis=slice_axis)
    assert choose_orientation(scan).axes[0] == along


def test_each_world_axis_is_given_once():
    turned = rotation(0, np.pi / 5) @ np.diag([1.0, 1, 1, 1])
    assert anatomical_axes(turned) == ((0, 1, 2), (1, 1, 1))
    assert sorted(anatomical_axes(rotation(np.pi / 4, np.pi / 4))[0]) == [0, 1, 2]

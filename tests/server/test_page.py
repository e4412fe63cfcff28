"""The page in a real browser, on the real server: draw, extend, correct, save, as a person would.

The tests find an object on the screen by its brightness, as a person does, and read what was saved
with other readers than ours.
"""

import csv
import json
import re

import cv2
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from tests.helpers import dsc
from tests.helpers.scans import RAS_OF_LPS

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from tests.helpers.browsing import (  # noqa: E402 - it needs playwright
    AFFINES,
    MIDDLE,
    NUCLEI,
    SHAPE,
    drag,
    draw_around,
    idle,
    message,
    object_mask,
    saved,
    view,
    voxel_at,
)

expect = sync_api.expect


@pytest.mark.parametrize("name", AFFINES)
def test_a_drawn_object_lies_where_it_was_seen_in_every_saved_format(open_page, name, tmp_path):
    page = open_page(f"{name}.nii.gz")
    plane = page.locator(".view").first.get_attribute("data-plane")
    left, top, right, bottom = draw_around(page, plane)
    assert "box of" in message(page)
    # what the page says of the place, by nibabel's own arithmetic
    (i, j, k), mm = voxel_at(page, (left + right) / 2, (top + bottom) / 2)
    affine = AFFINES[name]
    np.testing.assert_allclose(mm, nibabel.affines.apply_affine(affine, (i, j, k)), atol=0.051)
    shown = nibabel.aff2axcodes(affine)
    across = next(a for a, code in enumerate(shown) if code in PLANE_CODES[plane])
    assert all(abs(found - middle) <= 2 for axis, (found, middle) in
               enumerate(zip((i, j, k), MIDDLE[::-1], strict=True)) if axis != across)  # fmt: skip

    page.keyboard.press("x")
    idle(page)
    assert re.fullmatch(r"1: \d+ slices", message(page))
    # a part is erased, that is undone, and something is added far from it
    page.keyboard.press("e")
    drag(page, (left + right) / 2, (top + bottom) / 2, (left + right) / 2 + 9, (top + bottom) / 2)
    idle(page)
    size = page.locator("#objects output").inner_text()
    page.keyboard.press("Control+z")
    idle(page)
    assert page.locator("#objects output").inner_text() != size
    page.keyboard.press("p")
    away = right + 30, bottom + 20
    drag(page, *away, away[0] + 4, away[1])
    idle(page)
    (i, j, k), _ = voxel_at(page, *away)

    truth = object_mask().T
    (labels, names), (segmentation,), (meta, _) = (
        saved(page, suffix, tmp_path) for suffix in (".nii.gz", ".seg.nrrd", ".mha")
    )
    image = nibabel.load(labels)
    found = np.asarray(image.dataobj)
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)
    assert found[i, j, k] == 1
    assert dsc(found == 1, truth) > 0.8
    entry = json.loads(names.read_text())["labels"][0]
    assert entry["name"] == "1"
    for path in (segmentation, meta):
        other = sitk.ReadImage(path)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(other).T, found)
        at = np.array(other.TransformIndexToPhysicalPoint((i, j, k)))
        np.testing.assert_allclose(
            RAS_OF_LPS[:3, :3] @ at, nibabel.affines.apply_affine(affine, (i, j, k)), atol=1e-3
        )
    assert sitk.ReadImage(segmentation).GetMetaData("Segment0_Name") == "1"
    (table,) = saved(page, ".csv", tmp_path)
    (row,) = csv.DictReader(table.read_text().splitlines())
    assert int(row["voxels"]) == (found == 1).sum()


PLANE_CODES = {"axial": "SI", "coronal": "AP", "sagittal": "LR"}


def test_a_dicom_series_is_saved_as_dicom(open_page, tmp_path):
    page = open_page("series/")
    draw_around(page, "axial")
    page.keyboard.press("x")
    idle(page)
    page.keyboard.press("F2")
    page.keyboard.type("kidney")
    page.keyboard.press("Enter")
    idle(page)
    (path,) = saved(page, ".dcm", tmp_path)
    dataset = pydicom.dcmread(path)
    assert dataset.SegmentSequence[0].SegmentLabel == "kidney"
    truth = object_mask()
    frames = np.atleast_3d(dataset.pixel_array).reshape(-1, *SHAPE[1:])
    places = [
        float(group.PlanePositionSequence[0].ImagePositionPatient[2])
        for group in dataset.PerFrameFunctionalGroupsSequence
    ]
    found = np.zeros(SHAPE, bool)
    for frame, z in zip(frames, places, strict=True):
        found[round(z / 2)] = frame
    assert dsc(found, truth) > 0.8


def test_a_box_in_another_plane_gives_the_same_object(open_page, tmp_path):
    page = open_page("flipped.nii.gz")
    page.keyboard.press("2")  # the second plane alone
    expect(view(page, "axial")).to_be_hidden()
    plane = page.locator(".view:visible").get_attribute("data-plane")
    slider = page.locator(".view:visible input[type=range]")
    draw_around(page, plane)
    page.keyboard.press("x")
    idle(page)
    assert slider.get_attribute("aria-valuetext").endswith(" mm")
    found = np.asarray(nibabel.load(saved(page, ".nii.gz", tmp_path)[0]).dataobj)
    assert dsc(found == 1, object_mask().T) > 0.75


def test_a_picture_takes_many_boxes_each_an_object_of_its_own(open_page, tmp_path):
    page = open_page("nuclei.png")
    with np.load(NUCLEI) as archive:
        boxes = archive["boxes"][:6]
    canvas = page.locator(".picture")
    place = canvas.bounding_box()
    zoom = min(place["width"] / 256, place["height"] / 256)
    x0 = place["x"] + place["width"] / 2 - 128 * zoom
    y0 = place["y"] + place["height"] / 2 - 128 * zoom
    for left, top, right, bottom in boxes.tolist():
        drag(page, x0 + (left + 0.5) * zoom, y0 + (top + 0.5) * zoom,
             x0 + (right + 0.5) * zoom, y0 + (bottom + 0.5) * zoom)  # fmt: skip
    idle(page)
    assert page.locator("#objects li").count() == 6
    assert page.locator("#extend").is_hidden()
    page.keyboard.press("u")
    idle(page)
    labels, *beside = saved(page, ".png", tmp_path)
    found = cv2.imread(str(labels), cv2.IMREAD_UNCHANGED)
    assert {path.name for path in beside} == {"nuclei_labels.labels.json",
                                              "nuclei_labels_overlay.png"}  # fmt: skip
    assert set(np.unique(found)) == {0, 1, 2, 3, 4, 5}
    for value, (left, top, right, bottom) in enumerate(boxes[:5].tolist(), start=1):
        rows, columns = np.nonzero(found == value)
        assert left <= columns.min() and columns.max() <= right
        assert top <= rows.min() and rows.max() <= bottom


def test_an_uploaded_file_is_segmented_and_gone_on_with_later(open_page, scans, tmp_path):
    page = open_page()
    page.keyboard.press("o")
    page.locator("#file").set_input_files(scans / "flipped.nii.gz")
    expect(page.locator("#title")).to_have_text("flipped.nii.gz")
    idle(page)
    draw_around(page, "axial")
    page.locator("#objects [type=text]").fill("mine")
    page.keyboard.press("Enter")
    idle(page)
    assert page.locator("#there").is_hidden()
    (path,) = saved(page, ".seg.nrrd", tmp_path)
    size = page.locator("#objects output").inner_text()

    again = open_page("flipped.nii.gz")
    again.keyboard.press("o")
    again.locator("#as-labels").check()
    again.locator("#file").set_input_files(path)
    expect(again.locator("#message")).to_have_text("1 objects came from the label map.")
    names = [one.input_value() for one in again.locator("#objects [type=text]").all()]
    assert names == ["1", "mine"]
    assert again.locator("#objects output").all_inner_texts() == ["empty", size]

"""Readers of DICOM structure sets that use nothing of ours.

They use the outlines in mm and the headers of the images that they name. matplotlib fills by
centres of pixels, OpenCV by points that are rounded to whole pixels.
"""

import cv2
import numpy as np
import pydicom
from matplotlib.path import Path as Polygon

READERS = ("matplotlib, united", "matplotlib, exclusive", "OpenCV, rounded")


def filled(contour, header):
    """What each reader of `READERS` finds inside an outline: masks (rows, columns)."""
    points = np.array(contour.ContourData, np.float64).reshape(-1, 3)
    assert len(points) == contour.NumberOfContourPoints
    row, column = np.array(header.ImageOrientationPatient, np.float64).reshape(2, 3)
    rows_mm, columns_mm = map(float, header.PixelSpacing)
    away = points - np.array(header.ImagePositionPatient, np.float64)
    assert np.abs(away @ np.cross(row, column)).max() < 1e-3  # they lie in the slice
    pixels = np.column_stack([away @ row / columns_mm, away @ column / rows_mm])
    shape = header.Rows, header.Columns
    centres = np.stack(np.meshgrid(np.arange(shape[1]), np.arange(shape[0])), axis=-1)
    closed = Polygon(np.vstack([pixels, pixels[:1]]), closed=True)
    inside = closed.contains_points(centres.reshape(-1, 2)).reshape(shape)
    drawn = np.zeros(shape, np.uint8)
    cv2.fillPoly(drawn, [np.rint(pixels).astype(np.int32)], 1)
    return inside, drawn > 0


def read_back(path, headers):
    """By name of the structure and of the reader: a mask (K, rows, columns).

    `headers` are those of the slices in their order.
    """
    dataset = pydicom.dcmread(path)
    order = [one.SOPInstanceUID for one in headers]
    names = {one.ROINumber: one.ROIName for one in dataset.StructureSetROISequence}
    found = {}
    for roi in dataset.ROIContourSequence:
        masks = np.zeros((3, len(headers), headers[0].Rows, headers[0].Columns), bool)
        for contour in roi.get("ContourSequence", []):
            assert contour.ContourGeometricType == "CLOSED_PLANAR"
            (image,) = contour.ContourImageSequence
            k = order.index(image.ReferencedSOPInstanceUID)
            inside, drawn = filled(contour, headers[k])
            masks[0, k] |= inside
            masks[1, k] ^= inside
            masks[2, k] |= drawn
        found[names[roi.ReferencedROINumber]] = dict(zip(READERS, masks, strict=True))
    return found


def headers_of(folder):
    """The headers of a series, from the lowest slice along the normal of the slices up."""
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in folder.iterdir()]
    row, column = np.array(headers[0].ImageOrientationPatient, np.float64).reshape(2, 3)
    along = np.cross(row, column)
    return sorted(headers, key=lambda one: np.array(one.ImagePositionPatient, float) @ along)

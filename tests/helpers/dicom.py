"""DICOM files made tag by tag."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from swiftmedsam.scans.formats.by_suffix import read_scan
from swiftmedsam.scans.scan import RAS_OF_LPS, ScanError, Segment
from tests.helpers.scans import ALIGNED

CT, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4.1"


VOXELS = np.arange(7 * 5 * 4, dtype=np.int16).reshape(7, 5, 4)  # (I, J, K)


ROUNDED = 1e-4  # mm: decimal strings have 16 characters


TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"


SERIES, STUDY, FRAME_OF_REFERENCE = (generate_uid(entropy_srcs=[word]) for word in "abc")


def decimals(numbers):
    return [f"{number:.10g}"[:16] for number in np.ravel(numbers)]


def image(pixels, sop_class=CT, **tags):
    """A dataset of pixels (rows, columns) or (frames, rows, columns)."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = UID(sop_class)
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID = UID(sop_class)
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = SERIES
    dataset.Modality, dataset.SeriesNumber = "CT", 3
    if sop_class == CT:
        dataset.RescaleSlope, dataset.RescaleIntercept = "1", "0"
    dataset.PatientID, dataset.PatientName, dataset.PatientBirthDate = "7", "Nobody", ""
    dataset.PatientSex = dataset.StudyID = dataset.AccessionNumber = ""
    dataset.StudyDate = dataset.StudyTime = dataset.ReferringPhysicianName = ""
    dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = STUDY, FRAME_OF_REFERENCE
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    if pixels.ndim == 3:
        dataset.NumberOfFrames = len(pixels)
    dataset.PixelData = pixels.tobytes()
    for tag, value in tags.items():
        setattr(dataset, tag, value)
    return dataset


def place_tags(affine, k):
    """Position, orientation and spacing of slice k of a grid with an affine in RAS."""
    lps = RAS_OF_LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    return {
        "ImagePositionPatient": decimals((lps @ [0, 0, k, 1])[:3]),
        "ImageOrientationPatient": decimals((lps[:3, :2] / spacing[:2]).T),
        "PixelSpacing": decimals(spacing[[1, 0]]),  # rows first
    }


def series(folder, voxels=VOXELS, affine=ALIGNED, **tags):
    """Write a classic series whose file names and instance numbers say nothing of its order."""
    folder.mkdir(exist_ok=True)
    for count, k in enumerate(np.random.default_rng(1).permutation(voxels.shape[2])):
        own = {"InstanceNumber": count + 1, "SliceThickness": "9", **place_tags(affine, k), **tags}
        path = folder / f"{own.get('SeriesNumber', '')}IM{count:04d}"
        pixels = np.ascontiguousarray(voxels[:, :, k].T)
        image(pixels, **own).save_as(path, enforce_file_format=True)
    return folder


TILT = np.deg2rad(20)


# Rows lean back from the head, the table goes to the head: 1, 2 and 3 mm.
TILTED = np.array([[-1, 0, 0, 30], [0, -2 * np.cos(TILT), 0, 40], [0, 2 * np.sin(TILT), 3, -50],
                   [0, 0, 0, 1]])  # fmt: skip


ORDER = (2, 0, 3, 1)  # of the slices in the enhanced file


def enhanced(affine=ALIGNED, order=ORDER, slopes=(1, 1, 1, 1)):
    """All slices in one file, its frames in any order."""
    frames = np.stack([VOXELS[:, :, k].T for k in order])
    dataset = image(frames, ENHANCED_MR, Modality="MR")
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    tags = place_tags(affine, 0)
    measures.PixelSpacing, measures.SliceThickness = tags["PixelSpacing"], "9"
    plane.ImageOrientationPatient = tags["ImageOrientationPatient"]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = []
    for k, slope in zip(order, slopes, strict=True):
        group, position, values = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = place_tags(affine, k)["ImagePositionPatient"]
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = str(slope), "5", "US"
        group.PlanePositionSequence = [position]
        group.PixelValueTransformationSequence = [values]
        dataset.PerFrameFunctionalGroupsSequence.append(group)
    return dataset


def values(path):
    """What is read of one slice, (rows, columns[, 3])."""
    return read_scan(path).voxels[:, :, 0].swapaxes(0, 1)


def refusal(path):
    with pytest.raises(ScanError) as raised:
        read_scan(path)
    message = str(raised.value)
    assert "\n" not in message
    return message


SEGMENTS = [
    Segment(1, "left lung", (0, 0, 0), (2, 2, 1)),
    Segment(2, "heart", (3, 1, 0), (4, 3, 2), (51, 102, 255)),
    Segment(3, "not found", (0, 0, 0), (1, 1, 1)),
]


def some_labels(grid):
    labels = np.zeros(grid, np.uint8)
    labels[0:3, 0:3, 0:2] = 1
    labels[3:5, 1:4, 0:3] = 2
    return labels

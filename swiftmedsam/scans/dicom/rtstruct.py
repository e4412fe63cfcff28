"""Writes DICOM structure sets (RTSTRUCT), the outlines that programs of radiotherapy read."""

import io
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from swiftmedsam import __version__
from swiftmedsam.messages import printable
from swiftmedsam.result import Labels
from swiftmedsam.scans.dicom.outlines import Mask, outlines
from swiftmedsam.scans.dicom.seg import SERIES_NUMBER_OFFSET, UTF_8, name_of, warn_of_names
from swiftmedsam.scans.dicom.tags import TagError, readable, text_of, value_of
from swiftmedsam.scans.scan import (
    RAS_OF_LPS,
    Float64Array,
    Scan,
    ScanError,
    Segment,
    extra,
)

SUFFIX = ".rtstruct.dcm"
STORAGE = "1.2.840.10008.5.1.4.1.1.481.3"  # RT Structure Set Storage
STUDY = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management: what a referenced study is
NO_STRUCTURES = "lacks what a DICOM structure set must say, an output as .nii.gz can be made"
ROUNDED = 1e-4  # of a pixel: the precision of points
# Tags of the images that must be there; that are copied, empty if they are not there; and others.
NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
COPIED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "StudyID", "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator",
)  # fmt: skip
COPIED_IF_THERE = (
    "IssuerOfPatientID", "PatientAge", "PatientSize", "PatientWeight", "StudyDescription",
    "PatientIdentityRemoved", "DeidentificationMethod",
)  # fmt: skip


def check(scan: Scan, segments: list[Segment], path: Path) -> None:
    """Encode the first slice alone, so that a missing tag is found early.

    Names that DICOM cannot hold cause a warning.

    Raises:
        ScanError: `encoded` cannot encode that slice.
    """
    warn_of_names(segments, path)
    first = replace(scan, voxels=scan.voxels[:, :, :1], sources=scan.sources[:1])
    encoded(np.zeros(first.grid, np.uint8), first, segments, path)


def encoded(labels: Labels, scan: Scan, segments: list[Segment], path: Path) -> bytes:
    """The content of `path`: a structure set with the outlines of labels (I, J, K).

    Structures are numbered from 1: structure i + 1 is `segments[i]`; its value does not matter. One
    without voxels has no outlines.

    Args:
        labels: (I, J, K), on the grid of `scan`.
        scan: of DICOM files, with a place in the patient.
        segments: name, value and colour of each label.
        path: of the output, for messages.

    Raises:
        ScanError: the scan is not DICOM or has no place, or lacks a tag that a structure set needs.
    """
    name = printable(path.name)
    if not scan.sources:
        raise ScanError(f"{name}: a DICOM structure set needs DICOM images, found {scan.name}")
    if not scan.has_mm:
        raise ScanError(
            f"{name}: a DICOM structure set is in mm, and the images of {scan.name} have no "
            "position (ImagePositionPatient)"
        )
    pydicom = extra("pydicom", name)
    with readable(scan.name, pydicom, NO_STRUCTURES):
        images = {
            file: pydicom.dcmread(file, stop_before_pixels=True)
            for file in dict.fromkeys(file for file, _ in scan.sources)
        }
        image = next(iter(images.values()))
        image.decode()  # its texts are copied
        dataset = _about(image, pydicom)
        dataset.ReferencedFrameOfReferenceSequence = [_referenced(images, image, pydicom)]
        dataset.StructureSetROISequence = []
        dataset.ROIContourSequence = []
        dataset.RTROIObservationsSequence = []
        for number, segment in enumerate(segments, start=1):
            roi, contours, seen = (pydicom.Dataset() for _ in range(3))
            roi.ROINumber = contours.ReferencedROINumber = number
            seen.ObservationNumber = seen.ReferencedROINumber = number
            roi.ReferencedFrameOfReferenceUID = image.FrameOfReferenceUID
            roi.ROIName, roi.ROIGenerationAlgorithm = name_of(segment), "SEMIAUTOMATIC"
            contours.ROIDisplayColor = list(segment.colour)
            found = _contours(labels == segment.value, scan, images, pydicom)
            if found:
                contours.ContourSequence = found
            seen.RTROIInterpretedType = seen.ROIInterpreter = ""
            dataset.StructureSetROISequence.append(roi)
            dataset.ROIContourSequence.append(contours)
            dataset.RTROIObservationsSequence.append(seen)
        content = io.BytesIO()
        dataset.save_as(content, enforce_file_format=True)
    return content.getvalue()


def _about(image: Any, pydicom: Any) -> Any:
    """A dataset with all but the structures: patient and study of an image, and what made it."""
    for keyword in NEEDED:
        if not text_of(image, keyword):
            raise TagError(f"{NO_STRUCTURES} ({keyword} is missing)")
    dataset = pydicom.Dataset()
    for keyword in COPIED:
        setattr(dataset, keyword, image.get(keyword) or "")
    for keyword in COPIED_IF_THERE:
        if value_of(image, keyword) is not None:
            setattr(dataset, keyword, image.get(keyword))
    dataset.StudyInstanceUID = image.StudyInstanceUID
    dataset.FrameOfReferenceUID = image.FrameOfReferenceUID
    dataset.SpecificCharacterSet = UTF_8
    now = datetime.now()
    dataset.InstanceCreationDate = dataset.StructureSetDate = now.strftime("%Y%m%d")
    dataset.InstanceCreationTime = dataset.StructureSetTime = now.strftime("%H%M%S")
    dataset.SOPClassUID, dataset.SOPInstanceUID = STORAGE, pydicom.uid.generate_uid()
    dataset.Modality, dataset.SeriesInstanceUID = "RTSTRUCT", pydicom.uid.generate_uid()
    dataset.SeriesNumber = int(image.get("SeriesNumber") or 0) + SERIES_NUMBER_OFFSET
    dataset.SeriesDescription = dataset.StructureSetLabel = "SwiftMedSAM"
    dataset.OperatorsName = ""
    dataset.Manufacturer = dataset.ManufacturerModelName = "SwiftMedSAM"
    dataset.SoftwareVersions, dataset.ApprovalStatus = __version__, "UNAPPROVED"
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    # In explicit syntaxes a list of points has at most 64 kB: 16 bits for its length.
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    return dataset


def _referenced(images: dict[Path, Any], image: Any, pydicom: Any) -> Any:
    """The frame of reference with the study, the series and all images of the volume."""
    frame, study, series = (pydicom.Dataset() for _ in range(3))
    frame.FrameOfReferenceUID = image.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    study.ReferencedSOPClassUID = STUDY
    study.ReferencedSOPInstanceUID = image.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    series.SeriesInstanceUID = image.SeriesInstanceUID
    series.ContourImageSequence = [_reference(one, pydicom) for one in images.values()]
    return frame


def _reference(image: Any, pydicom: Any) -> Any:
    reference = pydicom.Dataset()
    reference.ReferencedSOPClassUID = image.SOPClassUID
    reference.ReferencedSOPInstanceUID = image.SOPInstanceUID
    return reference


def _contours(mask: Mask, scan: Scan, images: dict[Path, Any], pydicom: Any) -> list[Any]:
    """The outlines of one structure (I, J, K), each with the image that it lies on."""
    found = []
    to_lps = RAS_OF_LPS @ scan.affine
    decimals = round(-np.log10(scan.spacing_mm[:2].min() * ROUNDED))
    for k, (file, frame) in enumerate(scan.sources):
        plane = mask[:, :, k].T
        if not plane.any():
            continue
        left, top, width, height = cv2.boundingRect(plane.astype(np.uint8))
        part = plane[top : top + height, left : left + width]
        for polygon in outlines(part):
            points = _in_mm(polygon + (left, top), k, to_lps).round(decimals)
            contour = pydicom.Dataset()
            reference = _reference(images[file], pydicom)
            if int(images[file].get("NumberOfFrames") or 1) > 1:
                reference.ReferencedFrameNumber = frame + 1
            contour.ContourImageSequence = [reference]
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            contour.ContourData = [
                pydicom.valuerep.format_number_as_ds(number) for number in points.ravel().tolist()
            ]
            found.append(contour)
    return found


def _in_mm(points: Float64Array, k: int, to_lps: Float64Array) -> Float64Array:
    """Points (P, 2), column and row of slice k, in mm (P, 3)."""
    voxels = np.column_stack([points, np.full(len(points), k), np.ones(len(points))])
    return np.asarray((voxels @ to_lps.T)[:, :3], np.float64)

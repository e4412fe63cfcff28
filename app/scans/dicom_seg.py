"""DICOM segmentations (SEG) with highdicom: labels that refer to the images they were made on."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from app import __version__
from app.case import printable
from app.scans.dicom import readable
from app.scans.label_maps import MAX_LABELS
from app.scans.scan import Scan, ScanError, Segment, Voxels, extra

SUFFIX = ".dcm"
NO_SEGMENTATION = "lacks what a DICOM segmentation must say, an output as .nii.gz can be made"
SERIES_NUMBER_OFFSET = 1000  # added to that of the images, so that viewers list it behind them


def check(scan: Scan, segments: list[Segment], path: Path) -> None:
    """Try it with the first slice alone, without its pixels: what a SEG lacks is known early.

    Raises:
        ScanError: what `encoded` finds in that slice.
    """
    first = replace(scan, voxels=scan.voxels[:, :, :1], sources=scan.sources[:1])
    value = segments[0].value if segments else 0
    labels = np.full(first.grid, value, np.min_scalar_type(value))
    encoded(labels, first, segments, path, is_trial=True)


def encoded(
    labels: Voxels, scan: Scan, segments: list[Segment], path: Path, *, is_trial: bool = False
) -> bytes:
    """The content of `path`, a SEG of labels (I, J, K) on the slices of `scan`.

    A binary one, which every viewer reads; a segment's code is "tissue", since names are anybody's.
    DICOM counts segments from 1 on: segment i + 1 is `segments[i]`, whatever its value. A trial
    reads no pixels, and of a file of many frames takes the one of its slice for the only one.

    Raises:
        ScanError: the scan is no DICOM, or lacks what a SEG must say of it.
    """
    name = printable(path.name)
    if not scan.sources:
        raise ScanError(f"{name}: a DICOM segmentation needs DICOM images, found {scan.name}")
    if len(segments) > MAX_LABELS:
        raise ScanError(
            f"{name}: a DICOM segmentation holds {MAX_LABELS} segments, found {len(segments)}"
        )
    highdicom, pydicom = extra("highdicom", name), extra("pydicom", name)
    with readable(scan.name, pydicom, NO_SEGMENTATION):
        files = list(dict.fromkeys(file for file, _ in scan.sources))
        # a SEG takes nothing of their pixels
        images = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
        if is_trial and "PerFrameFunctionalGroupsSequence" in images[0]:
            frame = scan.sources[0][1]
            groups = images[0].PerFrameFunctionalGroupsSequence
            images[0].PerFrameFunctionalGroupsSequence = groups[frame : frame + 1]
            images[0].NumberOfFrames = 1
        count = len(segments)
        # a value that no segment has is one too many, and highdicom refuses it
        numbers = np.full(MAX_LABELS + 1, count + 1, np.min_scalar_type(count + 1))
        numbers[[0, *(one.value for one in segments)]] = np.arange(count + 1)
        planes = np.empty(labels.shape[::-1], numbers.dtype)  # (K, rows, columns)
        for plane, page in zip(planes, labels.T, strict=True):
            plane[...] = numbers[page]  # numpy makes 8 bytes of each index: not of all at once
        if len(images) == 1 and (frames := int(images[0].get("NumberOfFrames") or 1)) > 1:
            # in the order of the file, and empty where the frame is of another volume
            every = np.zeros((frames, *planes.shape[1:]), planes.dtype)
            every[[frame for _, frame in scan.sources]] = planes
            planes = every
        segmentation = highdicom.seg.Segmentation(
            source_images=images,
            pixel_array=planes,
            segmentation_type="BINARY",
            segment_descriptions=_descriptions(segments, highdicom, pydicom),
            series_instance_uid=highdicom.UID(),
            series_number=int(images[0].get("SeriesNumber") or 0) + SERIES_NUMBER_OFFSET,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="SwiftMedSAM",
            manufacturer_model_name="SwiftMedSAM",
            software_versions=__version__,
            device_serial_number="0",
            series_description="SwiftMedSAM",
        )
        content = io.BytesIO()
        segmentation.save_as(content)
    return content.getvalue()


def _descriptions(segments: list[Segment], highdicom: Any, pydicom: Any) -> list[Any]:
    seg, codes = highdicom.seg, pydicom.sr.codedict.codes
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="SwiftMedSAM", version=__version__, family=codes.cid7162.ArtificialIntelligence
    )
    return [
        seg.SegmentDescription(
            segment_number=number,
            segment_label=one.name[:64],  # as many characters as a long string may have
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type="SEMIAUTOMATIC",
            algorithm_identification=algorithm,
            display_color=highdicom.color.CIELabColor.from_rgb(*one.colour),
        )
        for number, one in enumerate(segments, start=1)
    ]

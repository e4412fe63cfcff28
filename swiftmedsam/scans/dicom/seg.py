"""DICOM segmentations (SEG) with highdicom: labels that refer to the images they were made on."""

import io
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from swiftmedsam import __version__
from swiftmedsam.messages import printable
from swiftmedsam.scans.dicom.tags import TagError, readable
from swiftmedsam.scans.scan import MAX_LABELS, Scan, ScanError, Segment, Voxels, extra

log = logging.getLogger(__name__)

SUFFIX = ".dcm"
UTF_8 = "ISO_IR 192"
LONG_STRING = 64  # characters that a name may have (PS3.5 6.2, LO), without these
NOT_IN_NAMES = re.compile(r"[\x00-\x1f\x7f-\x9f\\\u2028\u2029]")
NO_SEGMENTATION = "lacks what a DICOM segmentation must say, an output as .nii.gz can be made"
SERIES_NUMBER_OFFSET = 1000  # added to that of the images, so that viewers list it behind them


def check(scan: Scan, segments: list[Segment], path: Path) -> None:
    """Try it with the first slice alone, without its pixels: what a SEG lacks is known early.

    Names that DICOM cannot say are warned of.

    Raises:
        ScanError: what `encoded` finds in that slice.
    """
    warn_of_names(segments, path)
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
        for image in images:  # whose texts the segmentation takes over
            image.decode()
            image.SpecificCharacterSet = UTF_8
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
        # a frame for each slice of each segment, or some would be lost without a word
        wanted = sum(np.count_nonzero(np.bincount(plane.ravel())[1:]) for plane in planes)
        if wanted and int(segmentation.NumberOfFrames) != wanted:
            raise TagError(f"{NO_SEGMENTATION} (its frames have no position)")
        segmentation.SpecificCharacterSet = UTF_8
        content = io.BytesIO()
        segmentation.save_as(content)
    return content.getvalue()


def name_of(segment: Segment) -> str:
    """The name of a segment, as far as DICOM can say it."""
    text = segment.name.encode("utf-8", "replace").decode()
    short = NOT_IN_NAMES.sub(" ", text)[:LONG_STRING].strip()
    return short or f"label {segment.value}"


def warn_of_names(segments: list[Segment], path: Path) -> None:
    """Say which names are written otherwise than they are, since DICOM cannot say them."""
    for one in segments:
        if name_of(one) != one.name:
            log.warning(
                "%s: the name '%s' is written as '%s': DICOM allows %d characters, no line break, "
                "no backslash and no space around them",
                printable(path.name), printable(one.name), name_of(one), LONG_STRING,
            )  # fmt: skip


def _descriptions(segments: list[Segment], highdicom: Any, pydicom: Any) -> list[Any]:
    seg, codes = highdicom.seg, pydicom.sr.codedict.codes
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="SwiftMedSAM", version=__version__, family=codes.cid7162.ArtificialIntelligence
    )
    return [
        seg.SegmentDescription(
            segment_number=number,
            segment_label=name_of(one),
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type="SEMIAUTOMATIC",
            algorithm_identification=algorithm,
            display_color=highdicom.color.CIELabColor.from_rgb(*one.colour),
        )
        for number, one in enumerate(segments, start=1)
    ]

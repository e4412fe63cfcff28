"""Writes DICOM segmentations (SEG) with highdicom; they refer to the images that were segmented."""

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
# A name (VR LO, PS3.5 6.2) has at most 64 characters, none of these.
LONG_STRING = 64
NOT_IN_NAMES = re.compile(r"[\x00-\x1f\x7f-\x9f\\\u2028\u2029]")
NO_SEGMENTATION = "lacks what a DICOM segmentation must say, an output as .nii.gz can be made"
SERIES_NUMBER_OFFSET = 1000  # added to the images' number, so that viewers list the SEG after them


def check(scan: Scan, segments: list[Segment], path: Path) -> None:
    """Encode the first slice alone, without its pixels, so that a missing tag is found early.

    Names that DICOM cannot hold cause a warning.

    Raises:
        ScanError: `encoded` cannot encode that slice.
    """
    warn_of_names(segments, path)
    first = replace(scan, voxels=scan.voxels[:, :, :1], sources=scan.sources[:1])
    value = segments[0].value if segments else 0
    labels = np.full(first.grid, value, np.min_scalar_type(value))
    encoded(labels, first, segments, path, is_trial=True)


def encoded(
    labels: Voxels, scan: Scan, segments: list[Segment], path: Path, *, is_trial: bool = False
) -> bytes:
    """The content of `path`: a binary SEG of labels (I, J, K) on the slices of `scan`.

    The code of each segment is "tissue", since a name can be any text. DICOM counts segments from
    1: segment i + 1 is `segments[i]`; its value does not matter.

    Args:
        labels: (I, J, K), on the grid of `scan`.
        scan: of DICOM files.
        segments: name, value and colour of each label.
        path: of the output, for messages.
        is_trial: `labels` and `scan` are one slice; of a multi-frame file only its frame is used.

    Raises:
        ScanError: the scan is not DICOM, or lacks a tag that a SEG needs.
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
        # a SEG needs only their headers
        images = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
        if is_trial and "PerFrameFunctionalGroupsSequence" in images[0]:
            frame = scan.sources[0][1]
            groups = images[0].PerFrameFunctionalGroupsSequence
            images[0].PerFrameFunctionalGroupsSequence = groups[frame : frame + 1]
            images[0].NumberOfFrames = 1
        for image in images:  # the SEG copies their texts
            image.decode()
            image.SpecificCharacterSet = UTF_8
        count = len(segments)
        # a value without segment becomes count + 1, which highdicom refuses
        numbers = np.full(MAX_LABELS + 1, count + 1, np.min_scalar_type(count + 1))
        numbers[[0, *(one.value for one in segments)]] = np.arange(count + 1)
        planes = np.empty(labels.shape[::-1], numbers.dtype)  # (K, rows, columns)
        for plane, page in zip(planes, labels.T, strict=True):
            plane[...] = numbers[page]  # by slices: numpy converts indices to 8 bytes each
        if len(images) == 1 and (frames := int(images[0].get("NumberOfFrames") or 1)) > 1:
            # all frames in the order of the file; those of other volumes are empty
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
        # highdicom must write a frame for each slice of each segment, and may drop some silently
        wanted = sum(np.count_nonzero(np.bincount(plane.ravel())[1:]) for plane in planes)
        if wanted and int(segmentation.NumberOfFrames) != wanted:
            raise TagError(f"{NO_SEGMENTATION} (its frames have no position)")
        segmentation.SpecificCharacterSet = UTF_8
        content = io.BytesIO()
        segmentation.save_as(content)
    return content.getvalue()


def name_of(segment: Segment) -> str:
    """The name of a segment in the form that DICOM allows."""
    text = segment.name.encode("utf-8", "replace").decode()
    short = NOT_IN_NAMES.sub(" ", text)[:LONG_STRING].strip()
    return short or f"label {segment.value}"


def warn_of_names(segments: list[Segment], path: Path) -> None:
    """Warn about names that are changed because DICOM does not allow them."""
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

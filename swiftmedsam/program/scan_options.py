"""The options for scans. Of the code for scans, only this file is always loaded."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from swiftmedsam.memory import parse_size
from swiftmedsam.modality import parse_modality
from swiftmedsam.urls import local_path, place

ANATOMICAL = ("axial", "coronal", "sagittal")

T = TypeVar("T")


def as_option(parse: Callable[[str], T]) -> Callable[[str], T]:
    """`parse` as the type of an option: the text of its ValueError becomes the message."""

    def parsed(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parsed


def natural(text: str) -> int:
    """The value of an option that is a whole number, 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, got '{text}'")
    return int(text)


def positive(text: str) -> int:
    """The value of an option that is a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got '{text}'")
    return int(text)


def add_memory_limit(parser: argparse.ArgumentParser) -> None:
    """Add --memory-limit; its value is in bytes, or None if it is not given."""
    parser.add_argument(
        "--memory-limit", type=as_option(parse_size), metavar="SIZE",
        help="refuse a case that needs more memory, like 8G (default: the container's limit, or "
        "all)",
    )  # fmt: skip


def add_choices(parser: argparse._ActionsContainer) -> None:
    """Add the options that choose one of several scans in a file or folder; default None."""
    parser.add_argument(
        "--volume", type=natural, metavar="K", help="which volume, from 0, of a file with several"
    )
    parser.add_argument(
        "--series", metavar="NUMBER|UID", help="which series of a DICOM folder with several"
    )


def add_scan_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for scans, as a group of the help; the default of each is None."""
    group = parser.add_argument_group(
        "your own files",
        "INPUTS may be a scan (NIfTI, NRRD, MetaImage, a DICOM file or folder, PNG, JPEG, BMP, "
        "TIFF), with boxes; OUTPUTS is then a folder or a file (.nii.gz, .seg.nrrd, .mha, .dcm, "
        ".rtstruct.dcm, .png, .tif, .npz), by default of the kind that came in, beside the scan",
    )
    group.add_argument(
        "--box", action="append", nargs="+", metavar=("NAME", "NUMBER"),
        help="4 numbers, i_min j_min i_max j_max, or 6, with k; a name before them if you like; "
        "once for each object",
    )  # fmt: skip
    group.add_argument(
        "--boxes", action="append", type=as_option(place), metavar="FILE",
        help="a file of boxes, or its URL: a CSV or JSON table, ROIs of 3D Slicer (.mrk.json), "
        "COCO or LabelMe; may be repeated; if INPUTS is a folder of scans, each box names its scan",
    )  # fmt: skip
    group.add_argument(
        "--boxes-from",
        type=as_option(place),
        metavar="FILE",
        help="a label map, or its URL: a box around each label",
    )
    group.add_argument(
        "--margin", type=natural, metavar="N", help="voxels around the labels of --boxes-from"
    )
    group.add_argument(
        "--extend", action="store_true", default=None,
        help="follow the object of a box that is one slice thick to where it ends; boxes of the "
        "same name are of one object",
    )  # fmt: skip
    group.add_argument(
        "--dry-run", action="store_true", default=None,
        help="segment nothing; print each box as the program understood it, and draw it on its "
        "middle slice",
    )  # fmt: skip
    group.add_argument(
        "--units", choices=("voxel", "mm"),
        help="units of boxes: voxels of the file's own grid, from 0, both ends inclusive "
        "(default), or mm, then x y z",
    )  # fmt: skip
    group.add_argument(
        "--space", choices=("RAS", "LPS"),
        help="space of boxes in mm: RAS (NIfTI, 3D Slicer) or LPS (DICOM, ITK)",
    )  # fmt: skip
    group.add_argument(
        "--plane", choices=("acquired", *ANATOMICAL),
        help="plane of the slices (default acquired)",
    )  # fmt: skip
    group.add_argument(
        "--modality", type=as_option(parse_modality), metavar="NAME",
        help="CT, MR, ... (default: from the file, else guessed from the values)",
    )  # fmt: skip
    add_choices(group)
    group.add_argument(
        "--stats", type=as_option(local_path), metavar="FILE",
        help="write a CSV table of the objects' sizes",
    )  # fmt: skip


def asks_for_scans(options: argparse.Namespace) -> bool:
    """Whether an option is given that is for scans."""
    given = (options.box, options.boxes, options.boxes_from, options.margin, options.extend,
             options.dry_run, options.units, options.space, options.plane, options.modality,
             options.volume, options.series, options.stats)  # fmt: skip
    return any(one is not None for one in given)


def about_scans(options: argparse.Namespace) -> bool:
    """Whether the inputs are scans, and not npz files of the challenge."""
    path: Path = options.inputs
    return asks_for_scans(options) or (path.is_file() and path.suffix != ".npz")

"""Plans the jobs for scans: which scans, with which boxes, and where their labels go."""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from swiftmedsam.atomic import make_folder, same_place, why_tables_fail
from swiftmedsam.messages import printable
from swiftmedsam.scans.boxes.drawn import Drawn, Entry, Meaning, drawn_box
from swiftmedsam.scans.boxes.files import read_boxes
from swiftmedsam.scans.boxes.matching import boxes_for_scan, boxes_in_folder
from swiftmedsam.scans.dicom.reader import is_dicom
from swiftmedsam.scans.outputs import (
    Outputs,
    outputs_of,
    refuse_inputs,
)
from swiftmedsam.scans.scan import ScanError
from swiftmedsam.urls import shown

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Plan:
    """One scan, its boxes, and where its labels go."""

    path: Path
    file: str  # the scan's name, relative to the folder of a batch
    drawn: list[Drawn]
    label_map: Path | None  # its labels give more boxes
    outputs: Outputs

    @property
    def inputs(self) -> list[Path]:
        """The files and folders that are read."""
        return [self.path] if self.label_map is None else [self.path, self.label_map]


def boxes_of_words(all_words: Sequence[Sequence[str]], meaning: Meaning) -> list[Drawn]:
    """The boxes of all --box options, each given as words: an optional name, then numbers.

    Raises:
        ScanError: the words are no box.
    """
    boxes = []
    for words in all_words:
        name, numbers = "", list(words)
        try:
            float(words[0])
        except ValueError:
            name, *numbers = words
        try:
            corners = [float(word) for word in numbers]
        except ValueError:
            found = " ".join(map(printable, numbers))
            raise ScanError(
                f"--box {' '.join(map(printable, words))}: expected numbers, found {found}"
            ) from None
        boxes.append(drawn_box(name, corners, meaning.units, meaning.space))
    return boxes


def _numbered(drawn: Sequence[Drawn]) -> list[Drawn]:
    """The boxes, each with a name; a box without a name gets its number as name."""
    return [
        box if box.name else replace(box, name=f"box {count}")
        for count, box in enumerate(drawn, start=1)
    ]


def make_plans(options: argparse.Namespace) -> list[Plan]:
    """A plan for each scan that `options` choose; the output folders are made.

    Scans that --only leaves out are protected from being overwritten, too.

    Raises:
        OSError: a folder cannot be read or made.
        ScanError: there is no scan or box, an output or table cannot be written or is an input, or
            two scans have the same output.
    """
    inputs: Path = options.inputs
    if inputs.name in ("", ".."):
        inputs = inputs.resolve()
    if not inputs.exists():
        found = "a link to nothing" if inputs.is_symlink() else "nothing of that name"
        raise ScanError(f"{printable(shown(inputs))}: expected a scan or a folder, found {found}")
    meaning = Meaning(options.units or "voxel", options.space)
    entries = [Entry(box) for box in boxes_of_words(options.box or [], meaning)]
    tables: list[Path] = options.boxes or []
    for table in tables:
        entries += read_boxes(table, meaning)
    label_map: Path | None = options.boxes_from
    if options.margin is not None and label_map is None:
        raise ScanError("--margin is for --boxes-from, which is not given")
    is_named = any(one.file is not None for one in entries)
    if options.dicomweb is not None and options.series is None and not is_named:
        raise ScanError("--dicomweb without --series: expected boxes that name series by UID")
    if inputs.is_dir() and is_named:
        if label_map is not None:
            raise ScanError(f"--boxes-from is for one scan, and {shown(inputs)} is a folder")
        by_file = boxes_in_folder(inputs, entries)
        folder = inputs
    else:
        by_file, folder = {inputs.name: boxes_for_scan(inputs, entries)}, inputs.parent
    asked = (options.stats, options.failures, options.log)
    tables_out = [path for path in asked if path is not None]
    # The images of a DICOM folder are not known yet; so a table must not replace any DICOM file.
    protected = [
        *tables,
        *([] if label_map is None else [label_map]),
        *filter(is_dicom, tables_out),
    ]
    plans: list[Plan] = []
    for file, drawn in by_file.items():
        path = folder / file
        if not drawn and label_map is None:
            raise ScanError(
                f"{printable(path.name)}: expected boxes (--box, --boxes, --boxes-from), found none"
            )
        outputs = outputs_of(path, options.outputs)
        plans.append(Plan(path, file, _numbered(drawn), label_map, outputs))
    if not plans:
        raise ScanError(
            f"{shown(inputs)}: expected boxes that name its files (--boxes), found none"
        )
    chosen = [plan for plan in plans if Path(plan.file).match(options.only)]
    if not chosen:
        raise ScanError(
            f"{shown(inputs)}: --only {options.only} matches none of its {len(plans)} scans"
        )
    written = [path for plan in chosen for path in plan.outputs.all()]
    refuse_inputs([*written, *tables_out], [*(plan.path for plan in plans), *protected])
    _refuse_twins(chosen, plans)
    for plan in chosen:
        make_folder(plan.outputs.labels.parent)
    if why := why_tables_fail(tables_out, written):
        raise ScanError(why)
    return chosen


def _refuse_twins(chosen: Sequence[Plan], plans: Sequence[Plan]) -> None:
    """Raise ScanError if a plan of `chosen` has an output in common with another of `plans`."""
    writers: dict[Path, Plan] = {}
    for plan in plans:
        for path in plan.outputs.all():
            other = writers.setdefault(same_place(path), plan)
            if other is not plan and (plan in chosen or other in chosen):
                raise ScanError(
                    f"{printable(plan.file)}: labels would replace those of "
                    f"{printable(other.file)} in {shown(path)}"
                )

"""What is asked for: which scans, with which boxes, and where their labels go."""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from app.case import printable
from app.scans.box_files import read_boxes
from app.scans.boxes import Drawn, Entry, Meaning, drawn_box
from app.scans.dicom import is_dicom
from app.scans.files import WRITTEN, default_suffix, stem_of, suffix_of
from app.scans.matching import boxes_for_scan, boxes_in_folder
from app.scans.scan import ScanError
from app.scans.write import Outputs, refuse_inputs

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Plan:
    """One scan, its boxes, and where its labels go."""

    path: Path
    file: str  # its name, relative to the folder of a batch
    drawn: list[Drawn]
    label_map: Path | None  # whose labels are boxes, too
    outputs: Outputs


def boxes_of_words(all_words: Sequence[Sequence[str]], meaning: Meaning) -> list[Drawn]:
    """Boxes of the words after each --box: a name, or none, and numbers.

    Raises:
        ScanError: words that are no box.
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


def labels_of(path: Path, asked: Path | None) -> Path:
    """Where the labels of a scan go: `asked` is a file, a folder, or None for beside the scan."""
    if asked is not None and suffix_of(asked, WRITTEN) and not asked.is_dir():
        return asked
    folder = path.parent if asked is None else asked
    return folder / f"{stem_of(path)}_labels{default_suffix(path)}"


def _numbered(drawn: Sequence[Drawn]) -> list[Drawn]:
    """Boxes with a name each: those that have none are called by their number."""
    return [
        box if box.name else replace(box, name=f"box {count}")
        for count, box in enumerate(drawn, start=1)
    ]


def make_plans(options: argparse.Namespace) -> list[Plan]:
    """What `options` ask for, a plan a scan; the folder of the outputs is made.

    Raises:
        OSError: a folder cannot be read or made.
        ScanError: there is no box, an output is an input, or two scans have the same output.
    """
    inputs: Path = options.inputs if options.inputs.name else options.inputs.resolve()
    meaning = Meaning(options.units or "voxel", options.space)
    entries = [Entry(box) for box in boxes_of_words(options.box or [], meaning)]
    tables = [Path(table) for table in options.boxes or []]
    for table in tables:
        entries += read_boxes(table, meaning)
    label_map: Path | None = options.boxes_from
    if options.margin is not None and label_map is None:
        raise ScanError("--margin is for --boxes-from, which is not given")
    if inputs.is_dir() and any(one.file is not None for one in entries):
        if label_map is not None:
            raise ScanError(f"--boxes-from is for one scan, and {inputs} is a folder")
        by_file = boxes_in_folder(inputs, entries)
        folder = inputs
    else:
        by_file, folder = {inputs.name: boxes_for_scan(inputs, entries)}, inputs.parent
    tables_out = [path for path in (options.stats, options.failures) if path is not None]
    # which images a DICOM folder has is known when it is read; no table belongs over any of them
    read = [*tables, *([] if label_map is None else [label_map]), *filter(is_dicom, tables_out)]
    plans: list[Plan] = []
    for file, drawn in by_file.items():
        path = folder / file
        if not drawn and label_map is None:
            raise ScanError(
                f"{printable(path.name)}: expected boxes (--box, --boxes, --boxes-from), found none"
            )
        outputs = Outputs(labels_of(path, options.outputs))
        plans.append(Plan(path, file, _numbered(drawn), label_map, outputs))
    if not plans:
        raise ScanError(f"{inputs}: expected boxes that name its files (--boxes), found none")
    written = [path for plan in plans for path in plan.outputs.all()]
    refuse_inputs([*written, *tables_out], [*(plan.path for plan in plans), *read])
    _refuse_twins(plans)
    for plan in plans:
        plan.outputs.labels.parent.mkdir(parents=True, exist_ok=True)
    return plans


def _refuse_twins(plans: Sequence[Plan]) -> None:
    writers: dict[Path, str] = {}
    for plan in plans:
        for path in plan.outputs.all():
            if path in writers:
                raise ScanError(
                    f"{printable(plan.file)}: labels would replace those of "
                    f"{printable(writers[path])} in {path}"
                )
            writers[path] = plan.file

"""Jobs for scans: read, place the boxes, orient, segment, write on the scan's own grid."""

from __future__ import annotations

import argparse
import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from swiftmedsam.atomic import atomic_file
from swiftmedsam.case import Case
from swiftmedsam.extend import extend_boxes
from swiftmedsam.memory import available_memory
from swiftmedsam.messages import printable
from swiftmedsam.network import Network
from swiftmedsam.program.jobs import LOADING, Done, Job, LocalOutput, attempt
from swiftmedsam.program.options import chosen_settings
from swiftmedsam.program.scan_plan import Plan, make_plans
from swiftmedsam.program.stats_table import Rows, StatsTable
from swiftmedsam.result import Clock, Progress
from swiftmedsam.scans.boxes.drawn import on_grid
from swiftmedsam.scans.formats.by_suffix import read_scan
from swiftmedsam.scans.infer_modality import modality_of
from swiftmedsam.scans.label_maps import boxes_around_labels
from swiftmedsam.scans.orientation import ACQUIRED, Orientation, choose_orientation
from swiftmedsam.scans.outputs import (
    check_places,
    refuse_foreign,
    refuse_foreign_outputs,
    refuse_inputs,
)
from swiftmedsam.scans.place import case_of, describe, to_grid
from swiftmedsam.scans.preview import box_line, box_picture
from swiftmedsam.scans.provenance import signed
from swiftmedsam.scans.scan import Scan, Segment
from swiftmedsam.scans.stats import measure, read_table
from swiftmedsam.scans.write import check_encoding, write
from swiftmedsam.segment import segment
from swiftmedsam.urls import shown

if TYPE_CHECKING:
    from swiftmedsam.program.stored import Mirror

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Placed:
    """A scan with its boxes, ready to be segmented."""

    scan: Scan
    orientation: Orientation
    segments: list[Segment]
    case: Case


def place(plan: Plan, options: argparse.Namespace) -> Placed:
    """Read the scan of a plan and place its boxes on its grid.

    Raises:
        CaseError: the scan or a box cannot be used, or an output cannot be written, is one of the
            scan's files, or is a file that this program did not write.
    """
    check_places(plan.outputs, printable(plan.path.name))
    limit = options.memory_limit or available_memory()
    scan = read_scan(plan.path, options.volume, options.series, memory_limit=limit)
    refuse_inputs(plan.outputs.all(), scan.files)
    if not options.overwrite:
        refuse_foreign_outputs(plan.outputs, scan.name)
    orientation = choose_orientation(scan, options.plane or ACQUIRED)
    log.info("%s", describe(scan, orientation))
    drawn = list(plan.drawn)
    if plan.label_map is not None:
        left = limit - scan.voxels.nbytes
        margin = options.margin or 0
        drawn += boxes_around_labels(plan.label_map, scan, margin, memory_limit=left)
    thin_along = orientation.axes[0] if options.extend else None
    segments = [
        on_grid(box, scan, value, thin_along=thin_along) for value, box in enumerate(drawn, start=1)
    ]
    check_encoding(plan.outputs, scan, segments)
    modality = modality_of(scan, options.modality)
    return Placed(
        scan, orientation, segments, case_of(scan, segments, orientation, modality, options.window)
    )


def _run(
    plan: Plan, options: argparse.Namespace,
    network: Network, clock: Clock, progress: Progress,
) -> Done:  # fmt: skip
    """Segment one scan; this is `Job.run` of a scan."""
    rows: Rows = []
    with clock.measure("read"):
        placed = place(plan, options)
    with clock.measure(LOADING):
        network.wait()
    scan, case = placed.scan, placed.case
    progress(0, 1)
    # the voxels stay in memory beside the case
    left = max(1, (options.memory_limit or available_memory()) - scan.voxels.nbytes)
    settings = chosen_settings(options, network)
    segments = placed.segments
    if options.extend and case.is_volume:
        segments, objects = by_name(segments)
        result = extend_boxes(
            case, network, settings, objects=objects, memory_limit=left, progress=progress
        )
    else:
        result = segment(case, network, settings, memory_limit=left, progress=progress)
    clock.add(result.seconds)
    with clock.measure("write"):
        on_its_grid = to_grid(result.labels, placed.orientation)
        write(plan.outputs, on_its_grid, scan, segments, placed.orientation, case)
        if options.stats is not None:
            found = measure(on_its_grid, scan, placed.orientation, segments, result.predicted_iou)
            # its path in the folder: folders of DICOM are often all called alike
            rows = [row | {"scan": printable(plan.file)} for row in found]
    return Done(case, rows, f"{scan.name}: written {_listed(plan.outputs.all())}")


def by_name(segments: Sequence[Segment]) -> tuple[list[Segment], list[int]]:
    """The objects of segments, those of one name together, and the number of each one's object.

    The box of an object is the one around its segments' boxes.
    """
    objects: dict[str, Segment] = {}
    for one in segments:
        known = objects.get(one.name)
        if known is None:
            objects[one.name] = replace(one, value=len(objects) + 1)
        else:
            first = np.minimum(known.first, one.first).tolist()
            last = np.maximum(known.last, one.last).tolist()
            objects[one.name] = replace(known, first=tuple(first), last=tuple(last))
    names = list(objects)
    return list(objects.values()), [names.index(one.name) for one in segments]


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(printable(shown(path)) for path in paths)


def scan_jobs(options: argparse.Namespace) -> list[Job]:
    """A job for each scan.

    Raises:
        OSError: a folder cannot be read or made.
        ScanError: there is no box, or an output is an input.
    """
    plans = make_plans(options)
    table = None
    if options.stats is not None:
        table = StatsTable(options.stats, _kept_rows(plans, options))
        if options.part is not None:
            table.save()  # also of a part without a scan, for `merge`
    return [
        Job(
            plan.file,
            LocalOutput(plan.outputs.labels),
            functools.partial(_run, plan, options),
            table=table,
            inputs=tuple(plan.inputs),
            outputs=tuple(plan.outputs.all()),
        )
        for plan in plans
    ]


def _kept_rows(plans: Sequence[Plan], options: argparse.Namespace) -> Rows:
    """The rows that an older table has of scans which --skip-existing will skip.

    Raises:
        OSError: the older table cannot be read.
    """
    if not options.skip_existing or not options.stats.exists():
        return []
    kept = {printable(plan.file) for plan in plans if plan.outputs.labels.exists()}
    return [row for row in read_table(options.stats) or [] if row["scan"] in kept]


def dry_run(options: argparse.Namespace, failures: dict[str, str], mirror: Mirror | None) -> None:
    """Log and draw each box as the program understood it; nothing is segmented.

    Messages of scans that cannot be used are added to `failures`, by file name. With a `mirror`,
    paths take the place of URLs in `options`.

    Raises:
        OSError: a folder cannot be read, made or written to.
        ScanError: there is no box, or an output is an input.
        StoreError: a store cannot be used.
    """
    if mirror is not None:
        mirror.look(options)
    plans = make_plans(options)
    inputs = [path for plan in plans for path in plan.inputs]
    if options.part is not None:
        plans = options.part.take(plans, lambda plan: plan.file)
    plans = [plan for plan in plans if not (options.skip_existing and plan.outputs.labels.exists())]
    if mirror is not None:
        mirror.forget(inputs)
    for plan in plans:
        show: Callable[[], None] = functools.partial(_show, plan, options, inputs)
        if mirror is not None and (transfer := mirror.transfer(plan.file, plan.inputs)):
            show = transfer.around(show)
        attempt(show, plan.file, failures, "the pictures of its boxes")


def _show(plan: Plan, options: argparse.Namespace, inputs: Sequence[Path]) -> None:
    """Log and draw each box of one scan; `inputs` are the run's files, which are not replaced.

    Raises:
        CaseError: `place` raises it, or a picture would replace a file that this program did not
            write.
        OSError: a picture cannot be written.
    """
    placed = place(plan, options)
    for one in placed.segments:
        path = plan.outputs.picture(one.value)
        refuse_inputs([path], [*inputs, *placed.scan.files])
        if not options.overwrite:
            refuse_foreign(path, placed.scan.name)
        with atomic_file(path) as stream:
            stream.write(signed(box_picture(one, placed.orientation, placed.case)))
        log.info("%s; shown in %s", box_line(one, placed.scan, placed.orientation), _listed([path]))

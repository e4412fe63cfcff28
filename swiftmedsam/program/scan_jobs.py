"""The road of a scan: read, place its boxes, walk, segment, write on its own grid."""

import argparse
import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from swiftmedsam.atomic import whole_file
from swiftmedsam.case import Case, make_case, one_line, printable
from swiftmedsam.display import Window
from swiftmedsam.memory import available_memory
from swiftmedsam.modality import Modality
from swiftmedsam.network import Network
from swiftmedsam.program.jobs import LOADING, Job, attempt
from swiftmedsam.program.scan_plan import Plan, make_plans
from swiftmedsam.scans.boxes.drawn import on_grid
from swiftmedsam.scans.formats.by_suffix import read_scan
from swiftmedsam.scans.infer_modality import modality_of
from swiftmedsam.scans.label_maps import boxes_around_labels
from swiftmedsam.scans.orientation import ACQUIRED, Walk, anatomical_axes, choose_walk
from swiftmedsam.scans.preview import box_line, box_picture
from swiftmedsam.scans.provenance import signed
from swiftmedsam.scans.scan import Scan, ScanError, Segment, Voxels, grey
from swiftmedsam.scans.stats import Row, measure, table
from swiftmedsam.scans.write import (
    check_encoding,
    check_places,
    refuse_foreign,
    refuse_foreign_outputs,
    refuse_inputs,
    write,
)
from swiftmedsam.segment import Clock, Labels, PredictedIou, Progress, segment

log = logging.getLogger(__name__)

DIRECTIONS = ("LR", "PA", "IS")  # of world axes: towards minus and plus


def without_nan(voxels: Voxels, name: str) -> Voxels:
    """Voxels with the lowest value where there was none, as outside the field of view."""
    missing = np.isnan(voxels)
    count = int(missing.sum())
    if count == 0 or count == missing.size:  # the latter is refused as any other
        return voxels
    log.warning("%s: %d voxels are NaN, and count as the lowest value", name, count)
    return np.asarray(np.where(missing, np.nanmin(voxels), voxels))


def boxes_in_slices(segments: Sequence[Segment], walk: Walk) -> npt.NDArray[np.int64]:
    """Boxes (N, 6) of segments in the slices of `walk`; (N, 4) where there is one slice."""
    boxes = np.array([walk.box(one.first, one.last) for one in segments], np.int64).reshape(-1, 6)
    return boxes if walk.shape[0] > 1 else boxes[:, [0, 1, 3, 4]]


def case_of(
    scan: Scan, segments: Sequence[Segment], walk: Walk, modality: Modality, window: Window
) -> Case:
    """The case of a scan, its slices in the order of `walk`, label i + 1 for segment i.

    A scan of one slice is an image. A volume in colour becomes grey, as the network takes slices
    of a volume.

    Raises:
        CaseError: the values cannot be used.
    """
    voxels = scan.voxels
    if voxels.dtype.kind == "f":
        voxels = without_nan(voxels, scan.name)
    slices = walk.to_slices(voxels)
    is_volume = len(slices) > 1
    if is_volume and slices.ndim == 4:
        slices = grey(slices)
    fractions = slices.dtype.kind == "f" and bool((slices != np.rint(slices)).any())
    case = make_case(
        slices if is_volume else slices[0],
        boxes_in_slices(segments, walk),
        is_volume=is_volume,
        modality=modality,
        window=window,
        raw=fractions,
        name=scan.name,
    )
    if case.image.size > 1 and case.image.min() == case.image.max():
        log.warning("%s: nothing is seen in it, all its values are equal or nearly so", scan.name)
    return case


def to_grid(labels: Labels, walk: Walk) -> Labels:
    """Labels (I, J, K) of labels (D, H, W), or of an image's (H, W)."""
    return walk.to_grid(labels.reshape(walk.shape))


def describe(scan: Scan, walk: Walk) -> str:
    """Size, spacing and orientation of a scan, and how it is walked."""
    size = "x".join(map(str, scan.grid))
    if not scan.has_mm:
        return f"{scan.name}: {size} pixels"
    spacing = " x ".join(f"{mm:.4g}" for mm in scan.spacing_mm)
    axes = "".join(
        DIRECTIONS[world][sign > 0]
        for world, sign in zip(*anatomical_axes(scan.affine), strict=True)
    )
    along = "ijk"[walk.axes[0]]
    return (
        f"{scan.name}: {size} voxels of {spacing} mm, axes to {axes}; "
        f"slices along {along}, {walk.plane}"
    )


@dataclass(frozen=True, eq=False)
class Placed:
    """A scan with its boxes, ready to be segmented."""

    scan: Scan
    walk: Walk
    segments: list[Segment]
    case: Case


def place(plan: Plan, options: argparse.Namespace) -> Placed:
    """Read the scan of a plan and place its boxes in it.

    Raises:
        CaseError: the scan or a box cannot be used, or an output cannot be written, is one of the
            scan's files or somebody's own.
    """
    check_places(plan.outputs, printable(plan.path.name))
    limit = options.memory_limit or available_memory()
    scan = read_scan(plan.path, options.volume, options.series, memory_limit=limit)
    refuse_inputs(plan.outputs.all(), scan.files)
    if not options.overwrite:
        refuse_foreign_outputs(plan.outputs, scan.name)
    walk = choose_walk(scan, options.plane or ACQUIRED)
    log.info("%s", describe(scan, walk))
    drawn = list(plan.drawn)
    if plan.label_map is not None:
        left = limit - scan.voxels.nbytes
        margin = options.margin or 0
        drawn += boxes_around_labels(plan.label_map, scan, margin, memory_limit=left)
    segments = [on_grid(box, scan, value) for value, box in enumerate(drawn, start=1)]
    check_encoding(plan.outputs, scan, segments)
    modality = modality_of(scan, options.modality)
    return Placed(scan, walk, segments, case_of(scan, segments, walk, modality, options.window))


def _run(
    plan: Plan, options: argparse.Namespace, rows: list[Row],
    network: Network, clock: Clock, progress: Progress,
) -> Case:  # fmt: skip
    """Do one scan; what `Job.run` says. `rows` of the table are those of the run so far."""
    with clock.measure("read"):
        placed = place(plan, options)
    with clock.measure(LOADING):
        network.wait()
    scan, case = placed.scan, placed.case
    progress(0, 1)
    predicted_iou: PredictedIou = {}
    # the voxels wait beside the case, so that much less is left to be quick with
    left = max(1, (options.memory_limit or available_memory()) - scan.voxels.nbytes)
    labels = segment(
        case, network, mode=options.mode, max_crops=options.crops, step=options.step,
        memory_limit=left, clock=clock, progress=progress, predicted_iou=predicted_iou,
    )  # fmt: skip
    with clock.measure("write"):
        on_its_grid = to_grid(labels, placed.walk)
        write(plan.outputs, on_its_grid, scan, placed.segments, placed.walk, case)
        if options.stats is not None:
            rows += measure(on_its_grid, scan, placed.walk, placed.segments, predicted_iou)
            _write_table(options.stats, rows, scan.name)
    log.info("%s: written %s", scan.name, _listed(plan.outputs.all()))
    return case


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(printable(str(path)) for path in paths)


def _write_table(path: Path, rows: list[Row], name: str) -> None:
    """Write the table of the run so far.

    Raises:
        ScanError: it cannot be written; the labels of the scan `name` are there.
    """
    try:
        with whole_file(path) as stream:
            stream.write(table(rows))
    except OSError as error:
        raise ScanError(
            f"{name}: the labels are written, {path} could not be ({one_line(error)})"
        ) from error


def scan_jobs(options: argparse.Namespace) -> list[Job]:
    """What is to do, a job a scan.

    Raises:
        OSError: a folder cannot be read or made.
        ScanError: there is no box, or an output is an input.
    """
    rows: list[Row] = []
    return [
        Job(plan.file, plan.outputs.labels, functools.partial(_run, plan, options, rows))
        for plan in make_plans(options)
    ]


def dry_run(options: argparse.Namespace, failures: dict[str, str]) -> None:
    """Say and show each box as it was understood.

    `failures` gets the messages of scans that could not be placed, by file name.

    Raises:
        OSError: a folder cannot be read, made or written to.
        ScanError: there is no box, or an output is an input.
    """
    plans = make_plans(options)
    read = [path for plan in plans for path in (plan.path, plan.label_map) if path is not None]
    for plan in plans:
        if options.skip_existing and plan.outputs.labels.exists():
            continue
        show = functools.partial(_show, plan, options, read)
        attempt(show, plan.file, failures, "the pictures of its boxes")


def _show(plan: Plan, options: argparse.Namespace, read: Sequence[Path]) -> None:
    """Say and show each box of one scan; `read` are files of the run, none of which is replaced.

    Raises:
        CaseError: what `place` says, or a picture would replace a file that is not this program's.
        OSError: a picture cannot be written.
    """
    placed = place(plan, options)
    for one in placed.segments:
        path = plan.outputs.picture(one.value)
        refuse_inputs([path], [*read, *placed.scan.files])
        if not options.overwrite:
            refuse_foreign(path, placed.scan.name)
        with whole_file(path) as stream:
            stream.write(signed(box_picture(one, placed.walk, placed.case)))
        log.info("%s; shown in %s", box_line(one, placed.scan, placed.walk), _listed([path]))

"""The road of a scan: read, place its boxes, walk, segment, write on its own grid."""

import argparse
import functools
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from app.case import Case, make_case, printable
from app.intensity import MODALITIES, UNKNOWN, Modality, Window, find_modality
from app.job import Job
from app.network import Network
from app.scans.boxes import Drawn, drawn_box, on_grid
from app.scans.files import WRITTEN, default_suffix, read_scan, stem_of, suffix_of
from app.scans.scan import Scan, ScanError, Segment, Voxels, grey
from app.scans.walk import ACQUIRED, Walk, anatomical_axes, choose_walk
from app.scans.write import Outputs, refuse_inputs, write
from app.segment import Clock, Labels, Progress, segment

log = logging.getLogger(__name__)

CT = MODALITIES[0]
AIR_HU = -500  # a volume with values below is CT: nothing else is calibrated so that air is -1000
DIRECTIONS = ("LR", "PA", "IS")  # of world axes: towards minus and plus


def modality_of(scan: Scan, asked: Modality | None) -> Modality:
    """What is asked for, else what the file says, else what its values look like; logged."""
    if asked is not None:
        return asked
    if scan.modality:
        log.info("%s: modality %s, as the file says", scan.name, scan.modality)
        return find_modality(scan.modality)
    if scan.voxels.dtype.kind in "if" and float(np.nanmin(scan.voxels)) < AIR_HU:
        log.info("%s: taken for CT, for its values below %d (--modality)", scan.name, AIR_HU)
        return CT
    if scan.voxels.dtype != np.uint8:
        log.info("%s: no CT by its values, taken as they are spread (--modality)", scan.name)
    return UNKNOWN


def without_nan(voxels: Voxels, name: str) -> Voxels:
    """Voxels with the lowest value where there was none, as outside the field of view."""
    missing = np.isnan(voxels)
    count = int(missing.sum())
    if count == 0 or count == missing.size:  # the latter is refused as any other
        return voxels
    log.warning("%s: %d voxels are NaN, and count as the lowest value", name, count)
    return np.asarray(np.where(missing, np.nanmin(voxels), voxels))


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
    boxes = np.array([walk.box(one.first, one.last) for one in segments]).reshape(-1, 6)
    is_volume = len(slices) > 1
    if is_volume and slices.ndim == 4:
        slices = grey(slices)
    fractions = slices.dtype.kind == "f" and bool((slices != np.rint(slices)).any())
    return make_case(
        slices if is_volume else slices[0],
        boxes if is_volume else boxes[:, [0, 1, 3, 4]],
        is_volume=is_volume,
        modality=modality,
        window=window,
        raw=fractions,
        name=scan.name,
    )


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


def boxes_of_words(
    all_words: Sequence[Sequence[str]], units: str | None, space: str | None
) -> list[Drawn]:
    """Boxes of the words after each --box: a name, or none, and numbers.

    Raises:
        ScanError: words that are no box.
    """
    boxes = []
    for count, words in enumerate(all_words, start=1):
        name, numbers = f"box {count}", list(words)
        try:
            float(words[0])
        except ValueError:
            name, *numbers = words
        try:
            corners = [float(word) for word in numbers]
        except ValueError as error:
            raise ScanError(f"--box {' '.join(words)}: {error}") from error
        boxes.append(drawn_box(name, corners, units or "voxel", space))
    return boxes


def outputs_of(path: Path, asked: Path | None) -> Outputs:
    """Where the labels of a scan go: `asked` is a file, a folder, or None for beside the scan.

    Raises:
        OSError: the folder cannot be made.
    """
    if asked is not None and suffix_of(asked, WRITTEN) and not asked.is_dir():
        labels = asked
    else:
        folder = path.parent if asked is None else asked
        labels = folder / f"{stem_of(path)}_labels{default_suffix(path)}"
    labels.parent.mkdir(parents=True, exist_ok=True)
    return Outputs(labels)


def _run(
    path: Path, drawn: Sequence[Drawn], outputs: Outputs, options: argparse.Namespace,
    network: Network, clock: Clock, progress: Progress,
) -> Case:  # fmt: skip
    """Do one scan; what `Job.run` says."""
    with clock.measure("read"):
        scan = read_scan(path, options.volume)
        walk = choose_walk(scan, options.plane or ACQUIRED)
        log.info("%s", describe(scan, walk))
        segments = [on_grid(box, scan, value) for value, box in enumerate(drawn, start=1)]
        case = case_of(scan, segments, walk, modality_of(scan, options.modality), options.window)
    progress(0, 1)
    labels = segment(
        case, network, mode=options.mode, max_crops=options.crops, clock=clock, progress=progress
    )
    with clock.measure("write"):
        page = case.image[0] if case.is_volume else case.image
        write(outputs, to_grid(labels, walk), scan, segments, page)
    log.info("%s: written %s", scan.name, ", ".join(map(str, outputs.all())))
    return case


def scan_jobs(options: argparse.Namespace) -> list[Job]:
    """What is to do for one scan and its boxes.

    Raises:
        OSError: the folder of the output cannot be made.
        ScanError: there is no box, or an output is an input.
    """
    path = options.inputs
    drawn = boxes_of_words(options.box or [], options.units, options.space)
    if not drawn:
        raise ScanError(f"{printable(path.name)}: expected boxes (--box), found none")
    outputs = outputs_of(path, options.outputs)
    refuse_inputs(outputs, [path])
    return [Job(path.name, outputs.labels, functools.partial(_run, path, drawn, outputs, options))]

"""Score a folder of outputs against a folder of truth, and average the scores.

A case is a file of the same name in both folders: outputs have the key 'segs', truth has 'gts'
and, for a volume, 'spacing'. Modality and data set come from the file name, as in
`2DBox_X-Ray_COVID_lungs-SARS.npz`: X-Ray, COVID_lungs.
"""

import multiprocessing
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from swiftmedsam.evaluation.bootstrap import Float64Array, interval, means, resampled_means
from swiftmedsam.evaluation.metrics import (
    IMAGE_SPACING,
    INPUT_SIZE,
    Labels,
    ObjectScore,
    Scores,
    array_spacing_mm,
    score_labels,
)
from swiftmedsam.modality import CASE_NAME, MODALITIES, UNKNOWN, find_modality

MAX_LABEL = 2**20 - 1  # more than a case has; limits the list of objects to 60 MB

_ORDER = {modality.name: position for position, modality in enumerate(MODALITIES)}

Progress = Callable[[int, int], None]


class ScoreError(ValueError):
    """Folders cannot be scored; the message names the file."""


@dataclass(frozen=True)
class CaseScore:
    """The scores of one case, 0..1; they are 0 if the output is missing."""

    name: str  # of the file
    modality: str
    dataset: str  # "" if the name has none
    objects: int
    dsc: float
    nsd: float
    missing: bool
    by_object: tuple[ObjectScore, ...] = ()  # in the order of the labels


@dataclass(frozen=True)
class Size:
    """A class of objects by area: input pixels in the slice where the object is largest."""

    name: str
    below_256: float  # upper limit; the lower limit is that of the smaller class


@dataclass(frozen=True)
class Group:
    """Means over a modality, a data set, all modalities, or all objects of a size; scores are 0..1.

    The intervals (low, high) are from `bootstrap`.
    """

    name: str
    cases: int  # for a size: cases with such objects
    missing: int
    objects: int
    dsc: float
    dsc_interval: tuple[float, float]
    nsd: float
    nsd_interval: tuple[float, float]


@dataclass(frozen=True)
class Summary:
    """All means of a folder of outputs."""

    modalities: list[Group]
    datasets: list[Group]  # named Modality_Dataset; cases without a data set are in none
    average: Group  # of the modalities; each counts once
    sizes: list[Group]  # those that occur; each object counts once


@dataclass(frozen=True)
class Pair:
    """A truth, and the output to score against it."""

    truth: Path
    found: Path | None  # the output of the same name; None: missing
    official: bool


# COCO's limits are 32 x 32 and 96 x 96 pixels in images of length 640. The same parts of our length
# of 256 are about 13 x 13 and 38 x 38 input pixels, or 3 x 3 and 10 x 10 cells of the embedding.
# Half of the objects of our validation cases are small, a fifth are large.
COCO_LENGTH = 640
SMALL_BELOW_256, LARGE_FROM_256 = ((side * INPUT_SIZE / COCO_LENGTH) ** 2 for side in (32, 96))
SIZES = (
    Size("small", SMALL_BELOW_256),
    Size("medium", LARGE_FROM_256),
    Size("large", float("inf")),
)


def parse_name(name: str) -> tuple[str, str]:
    """Return modality and data set of a file name.

    A modality that is not in the table is returned as it is written. The data set is the part
    between the modality and the first '-', or "" without a '-'.

    Raises:
        ScoreError: the name is not the name of a case.
    """
    match = CASE_NAME.fullmatch(name)
    if match is None:
        raise ScoreError(f"{name}: expected a name like 2DBox_*.npz or 3DBox_*.npz")
    dataset, dash, _ = (match["rest"] or "").partition("-")
    modality = find_modality(match["modality"])
    known = match["modality"] if modality is UNKNOWN else modality.name
    return known or UNKNOWN.name, dataset if dash else ""


@contextmanager
def _open(path: Path) -> Iterator["np.lib.npyio.NpzFile"]:
    """Open an npz file; raise ScoreError if it cannot be read."""
    try:
        if not zipfile.is_zipfile(path):
            raise ScoreError(f"{path}: is not an npz file")
        with np.load(path, allow_pickle=False) as archive:
            yield archive
    except KeyError as error:
        raise ScoreError(f"{path}: {error.args[0]}") from error
    except ScoreError:
        raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ScoreError(f"{path}: cannot be read ({error})") from error


def _as_labels(array: npt.NDArray[np.generic], path: Path, key: str) -> Labels:
    """Convert an array of whole numbers, of any dtype, to integers."""
    if np.issubdtype(array.dtype, np.integer):
        return cast(Labels, array)
    if array.dtype.kind in "bf":
        with np.errstate(invalid="ignore"):  # NaN becomes an integer that differs from it
            whole = array.astype(np.int64)
        if (whole == array).all():
            return whole
    raise ScoreError(f"{path}: '{key}' should hold whole numbers, got others of {array.dtype}")


def _read_truth(path: Path, *, official: bool) -> tuple[Labels, tuple[float, float, float]]:
    """Read the labels of a truth file, and their spacing in mm, in the order of the axes."""
    is_volume = path.name.startswith("3")
    with _open(path) as archive:
        truth = _as_labels(archive["gts"], path, "gts")
        spacing = np.asarray(archive["spacing"] if is_volume else IMAGE_SPACING, np.float64)
    wanted = "(D, H, W)" if is_volume else "(H, W)"
    if truth.ndim != (3 if is_volume else 2) or truth.size == 0:
        raise ScoreError(f"{path}: 'gts' should be {wanted}, got {truth.shape}")
    if truth.min() < 0 or truth.max() > MAX_LABEL:
        raise ScoreError(
            f"{path}: 'gts' should hold 0..{MAX_LABEL}, got {truth.min()}..{truth.max()}"
        )
    if spacing.shape != (3,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise ScoreError(f"{path}: 'spacing' should be three lengths above 0, got {spacing}")
    return truth, array_spacing_mm(spacing.tolist(), official=official)


def read_output(path: Path) -> Labels:
    """Read the labels of an output, (H, W) or (D, H, W).

    Raises:
        ScoreError: the file cannot be read, or holds no labels.
    """
    with _open(path) as archive:
        return _as_labels(archive["segs"], path, "segs")


def read_truth(path: Path) -> Labels:
    """Read the labels 0..`MAX_LABEL` of a truth file, (H, W) or (D, H, W).

    Raises:
        ScoreError: the file cannot be read, or is not a truth.
    """
    return _read_truth(path, official=False)[0]


def _score_case(pair: Pair) -> CaseScore:
    modality, dataset = parse_name(pair.truth.name)
    truth, spacing_mm = _read_truth(pair.truth, official=pair.official)
    if pair.found is None:
        nothing = score_labels(truth, np.zeros_like(truth), spacing_mm)
        # not a score of an empty output, which is 1 for a truth without labels
        scores = Scores(nothing.by_object, dsc=0.0, nsd=0.0)
    else:
        found = read_output(pair.found)
        if found.shape != truth.shape:
            raise ScoreError(
                f"{pair.found}: 'segs' should be {truth.shape} like the truth, got {found.shape}"
            )
        scores = score_labels(truth, found, spacing_mm)
    return CaseScore(
        pair.truth.name, modality, dataset, len(scores.by_object), scores.dsc, scores.nsd,
        missing=pair.found is None, by_object=scores.by_object,
    )  # fmt: skip


def npz_files(folder: Path, only: str) -> dict[str, Path]:
    """Return the npz files of a folder that match the glob `only`, by name.

    Raises:
        ScoreError: `folder` is not a folder.
    """
    if not folder.is_dir():
        raise ScoreError(f"{folder}: is not a folder")
    paths = (path for path in sorted(folder.glob("*.npz")) if path.name[0] != ".")
    return {path.name: path for path in paths if path.match(only)}


def find_pairs(segs: Path, gts: Path, *, official: bool, only: str) -> list[Pair]:
    """Return a pair for each file of `gts`, by name, without opening the files.

    Raises:
        ScoreError: `segs` or `gts` is not a folder, `gts` is empty, a file of `segs` has no truth,
            or a name is not the name of a case.
    """
    truths, outputs = npz_files(gts, only), npz_files(segs, only)
    if not truths:
        raise ScoreError(f"{gts}: has no npz file")
    surplus = [name for name in outputs if name not in truths]
    if surplus:
        raise ScoreError(f"{segs}: no truth in {gts} for {', '.join(surplus)}")
    for name in truths:
        parse_name(name)  # check all names before the work begins
    return [Pair(path, outputs.get(name), official) for name, path in truths.items()]


def score(
    segs: Path,
    gts: Path,
    *,
    official: bool = False,
    only: str = "*",
    processes: int = 1,
    progress: Progress | None = None,
) -> list[CaseScore]:
    """Score all files of `gts`, by name. A file without output in `segs` counts as missing.

    Args:
        segs: folder of outputs.
        gts: folder of truth.
        official: use the spacing of volumes in the order (x, y, z) for arrays (z, y, x), as the
            organisers' script does. Use it only to compare with scores of that script.
        only: a glob; other files of both folders are ignored.
        processes: number of cases that are scored at a time.
        progress: called with the number of cases done and of all cases.

    Raises:
        ScoreError: an output has no truth or another shape, or a file cannot be read.
    """
    pairs = find_pairs(segs, gts, official=official, only=only)
    return score_pairs(pairs, processes=processes, progress=progress)


def score_pairs(
    pairs: Sequence[Pair], *, processes: int = 1, progress: Progress | None = None
) -> list[CaseScore]:
    """Score the pairs, in their order; arguments and errors are as in `score`."""

    def collect(results: Iterable[CaseScore]) -> list[CaseScore]:
        rows = []
        for row in results:
            rows.append(row)
            if progress is not None:
                progress(len(rows), len(pairs))
        return rows

    if min(processes, len(pairs)) <= 1:
        return collect(map(_score_case, pairs))
    # spawn: the fork of a process with threads, such as pytest with torch, may hang
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(min(processes, len(pairs)), mp_context=context) as pool:
            return collect(pool.map(_score_case, pairs))
    except BrokenProcessPool as error:
        folder = pairs[0].truth.parent
        raise ScoreError(
            f"{folder}: a process died; is there memory for {processes} processes?"
        ) from error


def by_modality(rows: Sequence[CaseScore]) -> dict[str, list[CaseScore]]:
    """Group rows by modality, in the order of the paper's Table 4, then others by name."""
    groups = defaultdict(list)
    for row in rows:
        groups[row.modality].append(row)
    ordered = sorted(groups, key=lambda name: (_ORDER.get(name, len(_ORDER)), name))
    return {name: groups[name] for name in ordered}


def _objects(row: CaseScore, size: Size) -> list[ObjectScore]:
    """Return the objects of a case that have this size."""
    at = SIZES.index(size)
    above = SIZES[at - 1].below_256 if at else 0.0
    return [each for each in row.by_object if above <= each.area_256 < size.below_256]


def by_size(rows: Sequence[CaseScore]) -> dict[Size, list[CaseScore]]:
    """Return the rows with objects of each size, smallest size first; sizes without objects go."""
    groups = {size: [row for row in rows if _objects(row, size)] for size in SIZES}
    return {size: members for size, members in groups.items() if members}


def count_objects(rows: Sequence[CaseScore], size: Size | None = None) -> int:
    """Count the objects of this size, or all objects, in the truth of `rows`."""
    return sum(row.objects if size is None else len(_objects(row, size)) for row in rows)


def totals(rows: Sequence[CaseScore], size: Size | None = None) -> Float64Array:
    """Return the array (cases, 3) for `bootstrap.means`: sum of DSC, sum of NSD, their number.

    Without a size, each case counts once; with a size, each object of this size counts.
    """
    values: list[tuple[float, float, float]] = []
    for row in rows:
        if size is None:
            values.append((row.dsc, row.nsd, 1))
        else:
            members = _objects(row, size)
            dscs, nsds = sum(each.dsc for each in members), sum(each.nsd for each in members)
            values.append((dscs, nsds, len(members)))
    return np.array(values, np.float64)


def _group(
    name: str, rows: Sequence[CaseScore], objects: int, mean: Float64Array, resampled: Float64Array
) -> Group:
    """Make a group of `mean` (2,) and `resampled` (RESAMPLES, 2), both DSC and NSD."""
    dsc_interval, nsd_interval = interval(resampled).T.tolist()
    return Group(
        name, len(rows), sum(row.missing for row in rows), objects,
        float(mean[0]), tuple(dsc_interval), float(mean[1]), tuple(nsd_interval),
    )  # fmt: skip


def _groups(members: dict[str, list[CaseScore]]) -> tuple[list[Group], Float64Array, Float64Array]:
    """Return groups of whole cases, the mean of their means (2,), and its draws (RESAMPLES, 2)."""
    of_groups = [totals(rows) for rows in members.values()]
    all_means, resampled = [means(each) for each in of_groups], resampled_means(of_groups)
    groups = [
        _group(name, rows, count_objects(rows), mean, drawn)
        for (name, rows), mean, drawn in zip(members.items(), all_means, resampled, strict=True)
    ]
    return groups, np.mean(all_means, axis=0), np.mean(resampled, axis=0)


def _size_group(size: Size, rows: Sequence[CaseScore]) -> Group:
    of_size = totals(rows, size)
    (resampled,) = resampled_means([of_size])
    return _group(size.name, rows, count_objects(rows, size), means(of_size), resampled)


def summarise(rows: Sequence[CaseScore]) -> Summary:
    """Return all means of one or more rows.

    The mean of a modality or data set is over its cases, the average is over modalities, and the
    mean of a size is over objects. Nothing is rounded before. (The organisers' table rounds the
    scores of each case to 4 digits.)
    """
    members = by_modality(rows)
    datasets = {
        f"{modality}_{dataset}": [row for row in of_modality if row.dataset == dataset]
        for modality, of_modality in members.items()
        for dataset in sorted({row.dataset for row in of_modality} - {""})
    }
    modalities, mean, resampled = _groups(members)
    return Summary(
        modalities,
        _groups(datasets)[0] if datasets else [],
        _group("Average", rows, count_objects(rows), mean, resampled),
        [_size_group(size, of_size) for size, of_size in by_size(rows).items()],
    )

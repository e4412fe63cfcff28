"""Scores of a folder of outputs against a folder of truth, and their averages.

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

MAX_LABEL = 2**20 - 1  # more objects than a case has; bounds the list of them to 60 MB

_ORDER = {modality.name: position for position, modality in enumerate(MODALITIES)}

Progress = Callable[[int, int], None]


class ScoreError(ValueError):
    """Folders that cannot be scored; the message names the file."""


@dataclass(frozen=True)
class CaseScore:
    """One row of the result; a missing output has scores of 0."""

    name: str  # of the file
    modality: str
    dataset: str  # "" where the name has none
    objects: int
    dsc: float
    nsd: float
    missing: bool
    by_object: tuple[ObjectScore, ...] = ()  # in the order of the labels


@dataclass(frozen=True)
class Size:
    """Objects whose area, in input pixels of the slice where it is largest, is below a limit."""

    name: str
    below_256: float  # and not below the limit of the size before


@dataclass(frozen=True)
class Group:
    """Means of the cases of a modality or a data set, of the modalities, or of objects of a size.

    Each has its interval, low and high, of `bootstrap`. Scores are 0..1.
    """

    name: str
    cases: int  # of a size: that have such objects
    missing: int
    objects: int
    dsc: float
    dsc_interval: tuple[float, float]
    nsd: float
    nsd_interval: tuple[float, float]


@dataclass(frozen=True)
class Summary:
    """All averages of a folder of outputs."""

    modalities: list[Group]
    datasets: list[Group]  # named Modality_Dataset; cases without a data set are in none
    average: Group  # of the modalities, each counted once
    sizes: list[Group]  # those that occur; each object counts once, whatever its case


@dataclass(frozen=True)
class Pair:
    """One case to score."""

    truth: Path
    found: Path | None  # of the same name; None: missing
    official: bool


# Areas of 32 x 32 and 96 x 96 in COCO, whose images are 640 long: the same part of our 256. That
# is about 13 x 13 and 38 x 38, or 3 x 3 and 10 x 10 cells of the network's embedding; half of the
# objects of our validation cases are small, a fifth large.
COCO_LENGTH = 640
SMALL_BELOW_256, LARGE_FROM_256 = ((side * INPUT_SIZE / COCO_LENGTH) ** 2 for side in (32, 96))
SIZES = (
    Size("small", SMALL_BELOW_256),
    Size("medium", LARGE_FROM_256),
    Size("large", float("inf")),
)


def parse_name(name: str) -> tuple[str, str]:
    """Modality and data set of a file name; a modality that is not in the table, as it is written.

    The data set is what stands between the modality and the first '-'; "" where there is no '-'.

    Raises:
        ScoreError: the name is not that of a case.
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
    """The npz file; whatever cannot be read of it is a ScoreError."""
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
    """Check that the array holds whole numbers, of whatever dtype, and make them integers."""
    if np.issubdtype(array.dtype, np.integer):
        return cast(Labels, array)
    if array.dtype.kind in "bf":
        with np.errstate(invalid="ignore"):  # NaN differs from whatever it becomes
            whole = array.astype(np.int64)
        if (whole == array).all():
            return whole
    raise ScoreError(f"{path}: '{key}' should hold whole numbers, got others of {array.dtype}")


def _read_truth(path: Path, *, official: bool) -> tuple[Labels, tuple[float, float, float]]:
    """Labels of a truth file and their spacing in mm in the order of the axes."""
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
    """The labels of an output, (H, W) or (D, H, W).

    Raises:
        ScoreError: it cannot be read, or holds none.
    """
    with _open(path) as archive:
        return _as_labels(archive["segs"], path, "segs")


def read_truth(path: Path) -> Labels:
    """The labels 0..`MAX_LABEL` of a truth file, (H, W) or (D, H, W).

    Raises:
        ScoreError: it cannot be read, or cannot be scored against.
    """
    return _read_truth(path, official=False)[0]


def _score_case(pair: Pair) -> CaseScore:
    modality, dataset = parse_name(pair.truth.name)
    truth, spacing_mm = _read_truth(pair.truth, official=pair.official)
    if pair.found is None:
        nothing = score_labels(truth, np.zeros_like(truth), spacing_mm)
        # not `nothing` itself: of a truth without labels an empty output would be right
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
    """Every npz file of a folder whose name matches the glob `only`, by name.

    Raises:
        ScoreError: it is no folder.
    """
    if not folder.is_dir():
        raise ScoreError(f"{folder}: is not a folder")
    paths = (path for path in sorted(folder.glob("*.npz")) if path.name[0] != ".")
    return {path.name: path for path in paths if path.match(only)}


def find_pairs(segs: Path, gts: Path, *, official: bool, only: str) -> list[Pair]:
    """One pair per file of `gts`, by name. What `score` does first, before anything is opened.

    Raises:
        ScoreError: a folder is none, there is no truth, a file of `segs` has none, or a name is not
            that of a case.
    """
    truths, outputs = npz_files(gts, only), npz_files(segs, only)
    if not truths:
        raise ScoreError(f"{gts}: has no npz file")
    surplus = [name for name in outputs if name not in truths]
    if surplus:
        raise ScoreError(f"{segs}: no truth in {gts} for {', '.join(surplus)}")
    for name in truths:
        parse_name(name)  # wrong ones are told before the work begins
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
    """One row per file of `gts`, by name; one without an output in `segs` is missing.

    Args:
        segs: folder of outputs.
        gts: folder of truth.
        official: use the spacing of volumes in the order (x, y, z) for arrays (z, y, x), as the
            organisers' script does. Of use only to compare with numbers from that script.
        only: files of both folders that take part, as a glob; others are as if not there.
        processes: how many cases are scored at a time.
        progress: called with cases done and cases in all.

    Raises:
        ScoreError: an output has no truth or another shape, or a file cannot be read.
    """
    pairs = find_pairs(segs, gts, official=official, only=only)
    return score_pairs(pairs, processes=processes, progress=progress)


def score_pairs(
    pairs: Sequence[Pair], *, processes: int = 1, progress: Progress | None = None
) -> list[CaseScore]:
    """One row per pair, in their order; arguments and errors are those of `score`."""

    def collect(results: Iterable[CaseScore]) -> list[CaseScore]:
        rows = []
        for row in results:
            rows.append(row)
            if progress is not None:
                progress(len(rows), len(pairs))
        return rows

    if min(processes, len(pairs)) <= 1:
        return collect(map(_score_case, pairs))
    # spawn: a fork of a process that has threads, as pytest with torch loaded, may hang
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(min(processes, len(pairs)), mp_context=context) as pool:
            return collect(pool.map(_score_case, pairs))
    except BrokenProcessPool as error:
        folder = pairs[0].truth.parent
        raise ScoreError(f"{folder}: a process died; is there memory for {processes}?") from error


def by_modality(rows: Sequence[CaseScore]) -> dict[str, list[CaseScore]]:
    """Rows of each modality, in the order of the paper's Table 4, others by name behind."""
    groups = defaultdict(list)
    for row in rows:
        groups[row.modality].append(row)
    ordered = sorted(groups, key=lambda name: (_ORDER.get(name, len(_ORDER)), name))
    return {name: groups[name] for name in ordered}


def _objects(row: CaseScore, size: Size) -> list[ObjectScore]:
    """The objects of a case that are of this size."""
    at = SIZES.index(size)
    above = SIZES[at - 1].below_256 if at else 0.0
    return [each for each in row.by_object if above <= each.area_256 < size.below_256]


def by_size(rows: Sequence[CaseScore]) -> dict[Size, list[CaseScore]]:
    """Rows that have objects of each size, smallest first; a size without any is left out."""
    groups = {size: [row for row in rows if _objects(row, size)] for size in SIZES}
    return {size: members for size, members in groups.items() if members}


def count_objects(rows: Sequence[CaseScore], size: Size | None = None) -> int:
    """Number of objects of this size, or of all, in the truth of `rows`."""
    return sum(row.objects if size is None else len(_objects(row, size)) for row in rows)


def totals(rows: Sequence[CaseScore], size: Size | None = None) -> Float64Array:
    """What `bootstrap.means` wants of the rows, (cases, 3): sum of DSC, sum of NSD, their number.

    Without a size each case counts as a whole, once; with one each of its objects of that size.
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
    """Put together `mean` (2,) and `resampled` (RESAMPLES, 2), DSC and NSD."""
    dsc_interval, nsd_interval = interval(resampled).T.tolist()
    return Group(
        name, len(rows), sum(row.missing for row in rows), objects,
        float(mean[0]), tuple(dsc_interval), float(mean[1]), tuple(nsd_interval),
    )  # fmt: skip


def _groups(members: dict[str, list[CaseScore]]) -> tuple[list[Group], Float64Array, Float64Array]:
    """Groups of whole cases; then the mean of their means (2,) and the same (RESAMPLES, 2)."""
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
    """Averages of at least one row: the mean of a modality is over cases, the last over modalities.

    That of a size is over objects. Nothing is rounded on the way (the organisers' table rounds the
    scores of a case to 4 digits).
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

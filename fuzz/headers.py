"""Segment scan files with damaged headers: `python -m fuzz.headers --runs N --seed S`.

Each run changes the header of a small valid NIfTI, NRRD, MetaImage, DICOM, TIFF or PNG file, and
segments the file with a stub in place of the network. There are three good results:

- The file is refused with a message of one line.
- It is segmented with a warning.
- It is segmented without a warning, and another reader (`fuzz.independent`) reads the same voxels
  at the same place, or the scan is that of the file before the change.

Nothing else may be written to stderr. Everything else is a finding, and is printed with the number
of its run. `--only NUMBER` repeats this run, and `--keep` keeps its files.
"""

import logging
import random
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from fuzz import runs
from fuzz.header_seeds import Seed, seeds
from fuzz.independent import NoOpinion, Reading, Refused, read
from fuzz.runs import Everywhere, Finding, is_good, stderr_kept
from swiftmedsam.case import CaseError
from swiftmedsam.display import DEFAULT_WINDOW
from swiftmedsam.scans.boxes.drawn import drawn_box, on_grid
from swiftmedsam.scans.formats.by_suffix import read_scan
from swiftmedsam.scans.formats.nifti_header import FORMS_AGREE_MM
from swiftmedsam.scans.infer_modality import modality_of
from swiftmedsam.scans.orientation import choose_orientation
from swiftmedsam.scans.place import case_of, to_grid
from swiftmedsam.scans.scan import Scan
from swiftmedsam.segment import segment
from swiftmedsam.settings import LITEMEDSAM

MEMORY_LIMIT = 1 << 30
REFUSED, WITH_A_WORD = "refused", "segmented with a warning"
SILENT, ENDED = "segmented", "ended by an error of Python's"


class Words(logging.Handler):
    """Collects the warnings that users would see."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        self.lines.append(record.getMessage())


def segmented(path: Path) -> Scan:
    """Read and segment a file; return its scan.

    Raises:
        CaseError: the file is refused.
    """
    scan = read_scan(path, memory_limit=MEMORY_LIMIT)
    orientation = choose_orientation(scan)
    i, j, k = scan.grid
    box = drawn_box("all", [0, 0, 0, i - 1, j - 1, k - 1] if k > 1 else [0, 0, i - 1, j - 1])
    segments = [on_grid(box, scan, 1)]
    case = case_of(scan, segments, orientation, modality_of(scan, None), DEFAULT_WINDOW)
    labels = to_grid(segment(case, Everywhere(), LITEMEDSAM).labels, orientation)
    assert labels.shape == scan.grid
    return scan


def differs(scan: Scan, other: Reading) -> str:
    """Return how a scan differs from another reading of its file; "" if they are equal."""
    if scan.voxels.shape != other.voxels.shape:
        return f"grid {scan.voxels.shape}, the other reader's {other.voxels.shape}"
    mine, theirs = (np.asarray(one, np.float64) for one in (scan.voxels, other.voxels))
    with np.errstate(all="ignore"):
        near = np.isclose(mine, theirs, rtol=1e-5, atol=1e-6, equal_nan=True)
    if not near.all():
        at = tuple(np.argwhere(~near)[0].tolist())
        return f"{(~near).sum()} values, at {at} {mine[at]:g}, the other reader's {theirs[at]:g}"
    if other.affine is not None and scan.has_mm:
        with np.errstate(all="ignore"):
            apart = np.abs(scan.affine - other.affine)
        scale = max(1.0, float(np.abs(other.affine).max()))
        if scan.grid[2] == 1:
            apart[:, 2] = 0  # the thickness of a single slice does not matter
        limit = np.full(apart.shape, 1e-4 * scale)
        # SimpleITK takes the qform of NIfTI, the program the sform, which may differ by rounding
        limit[:, 3] = np.maximum(limit[:, 3], FORMS_AGREE_MM)
        if not (apart <= limit).all():
            rows = [one[:3].round(3).tolist() for one in (scan.affine, other.affine)]
            return f"affine {rows[0]}, the other reader's {rows[1]}"
    return ""


def check(kind: str, path: Path, words: Words, before: Scan) -> tuple[str, str]:
    """Return the outcome of a file (`REFUSED` to `ENDED`), and what is wrong with it, or "".

    `before` is the scan of the file before the change.
    """
    words.lines.clear()
    with stderr_kept() as said:
        outcome, wrong, scan = _outcome(path, words)
    if said and not wrong:
        return outcome, f"on stderr: {' '.join(said)[:200]}"
    if scan is None or wrong or outcome == WITH_A_WORD:
        return outcome, wrong
    same = not differs(scan, Reading(before.voxels, before.affine))
    try:
        with stderr_kept():
            other = read(kind, path)
    except NoOpinion:
        return SILENT, ""
    except Refused as error:
        return SILENT, "" if same else f"in silence, though another reader refuses it: {error}"
    found = "" if _too_large(other) else differs(scan, other)
    return SILENT, f"in silence: {found}" if found and not same else ""


def _too_large(other: Reading) -> bool:
    """Whether there are values at SimpleITK's limit for DICOM; the true ones may be larger."""
    return bool((np.abs(np.asarray(other.voxels, np.float64)) >= 2**31 - 1).any())


def _outcome(path: Path, words: Words) -> tuple[str, str, Scan | None]:
    try:
        scan = segmented(path)
    except CaseError as error:
        message = str(error)
        return REFUSED, "" if is_good(message) else f"message: {message[:300]!r}", None
    except Exception as error:
        steps = traceback.extract_tb(error.__traceback__)
        last = next(one for one in reversed(steps) if "/swiftmedsam/" in one.filename)
        where = f"{Path(last.filename).name}:{last.lineno}"
        found = f"{type(error).__name__} at {where}: {' '.join(str(error).split())[:150]}"
        return ENDED, found, None
    return WITH_A_WORD if words.lines else SILENT, "", scan


def unchanged(seed: Seed) -> Scan:
    """Return the scan of a seed without changes."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in seed.files.items():
            (Path(folder) / name).write_bytes(content)
        return segmented(Path(folder) / seed.scan)


def written(seed: Seed, number: int, root_seed: int, folder: Path) -> tuple[Path, str]:
    """Write the files of a run into `folder`; return the path to read, and the change."""
    for old in folder.iterdir():
        old.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of the wrong values that it writes
        files, change = seed.changed(random.Random(f"{root_seed} {number}"))
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder / seed.scan, change


def work(
    numbers: Sequence[int], root_seed: int, kinds: Sequence[str], folder: Path, tell: Connection
) -> None:
    """Do the runs `numbers`; this function runs in a process of its own.

    It sends (number, kind, change) before each run, and (outcome, what is wrong) after it.
    """
    chosen = [seed for seed in seeds() if not kinds or seed.kind in kinds]
    logging.getLogger().addHandler(logging.NullHandler())  # without it, warnings go to stderr
    scans = [unchanged(seed) for seed in chosen]
    words = Words()
    logging.getLogger("swiftmedsam").addHandler(words)
    for number in numbers:
        which = number % len(chosen)
        path, change = written(chosen[which], number, root_seed, folder)
        tell.send((number, chosen[which].kind, change))
        tell.send(check(chosen[which].kind, path, words, scans[which]))
    tell.close()


def run(
    numbers: Sequence[int], root_seed: int, folder: Path, kinds: Sequence[str] = ()
) -> tuple[Counter[str], list[Finding]]:
    """Do the runs `numbers`; return the number of each outcome, and the findings."""
    return runs.run(work, numbers, root_seed, folder, kinds)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status, 1 if there is a finding."""
    return runs.command(work, "fuzz.headers", __doc__ or "", "nifti, dicom, ...", argv)


if __name__ == "__main__":
    sys.exit(main())

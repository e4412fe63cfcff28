"""Measure how the time of a volume grows with its slices and objects.

    python -m swiftmedsam.evaluation.timing.growth INPUTS [-- options of python -m app]

A volume of INPUTS with one box is tiled to 60 x 512 x 512, as in `timing.table5`, so that six boxes
cross the same 56 slices. It is segmented with 1, 2, 3 and 6 of these boxes, and with one box that
crosses 14 or 28 slices. Cases run in turns, each in a fresh process. Seconds are medians; the
program reports them, from reading to writing.
"""

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from swiftmedsam.atomic import atomic_file
from swiftmedsam.case import CaseError
from swiftmedsam.evaluation.console import parse_before_dashes, positive, table
from swiftmedsam.evaluation.score import ScoreError
from swiftmedsam.evaluation.timing.measure import RunError, app_program, run
from swiftmedsam.evaluation.timing.runtime import OURS, machine
from swiftmedsam.evaluation.timing.table5 import Wanted, choose, find_sources, make

SHAPE = (60, 512, 512)
SLICES = (14, 28, 56)
OBJECTS = (1, 2, 3, 6)

Arrays = dict[str, npt.NDArray[np.generic]]


def cases(inputs: Path) -> dict[tuple[int, int], Arrays]:
    """Make the cases: arrays by number of objects, and of slices that each object crosses.

    Raises:
        CaseError: a file of `inputs` cannot be read.
        ScoreError: no file is a volume with one box.
    """
    sources = [source for source in find_sources(inputs) if source.boxes == 1]
    most, longest = max(OBJECTS), max(SLICES)
    made = {}
    for slices in SLICES:
        wanted = Wanted("3DBox_CT_growth", SHAPE, most, most * slices)
        arrays = make(choose(sources, wanted), wanted)
        for objects in OBJECTS if slices == longest else (1,):
            made[objects, slices] = {**arrays, "boxes": arrays["boxes"][:objects]}
    return made


def seconds_of(
    made: dict[tuple[int, int], Arrays], options: Sequence[str], repeats: int
) -> dict[tuple[int, int], float]:
    """Return the median seconds of each case, of `repeats` runs in turns.

    Raises:
        OSError: a case cannot be written.
        RunError: a run failed.
    """
    program = app_program(OURS, None, "", options)
    found: dict[tuple[int, int], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        paths = {key: Path(folder) / f"3DBox_CT_{key[0]}x{key[1]}.npz" for key in made}
        for key, path in paths.items():
            with atomic_file(path) as stream:
                np.savez_compressed(stream, **made[key])
        for _ in range(repeats):
            for key, path in paths.items():
                done = run(program, path)
                if not done.ok or done.said.seconds is None:
                    raise RunError(f"{path.name}: {done.said.last_words}")
                found[key].append(done.said.seconds)
    return {key: statistics.median(values) for key, values in found.items()}


def growth_table(seconds: dict[tuple[int, int], float]) -> str:
    """Return a table: ms of one more slice, and % of one object's time of one more object."""
    longest = max(slices for _, slices in seconds)
    rows = [["Objects", "Slices", "Seconds", "A further slice, ms", "A further object, % of one"]]
    one = seconds[1, longest]
    before: tuple[int, float] | None = None
    for (objects, slices), value in sorted(seconds.items()):
        slope = share = "-"
        if objects == 1:
            if before is not None:
                slope = f"{1000 * (value - before[1]) / (slices - before[0]):.0f}"
            before = slices, value
        else:
            share = f"{100 * (value - one) / (objects - 1) / one:.1f}"
        rows.append([str(objects), str(slices), f"{value:.2f}", slope, share])
    return table(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        "python -m swiftmedsam.evaluation.timing.growth",
        usage="%(prog)s INPUTS [--repeats N] [-- options of python -m app]",
        description="How the time of a volume grows with its slices and its objects.",
    )
    parser.add_argument("inputs", type=Path, metavar="INPUTS", help="folder of cases")
    parser.add_argument("--repeats", type=positive, default=3, help="default %(default)s")
    options, app = parse_before_dashes(parser, argv)
    try:
        seconds = seconds_of(cases(options.inputs), app, options.repeats)
    except (CaseError, RunError, ScoreError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{machine()}\n\n{growth_table(seconds)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

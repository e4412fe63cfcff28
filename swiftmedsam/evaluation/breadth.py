"""Score by data set: `python -m swiftmedsam.evaluation.breadth SEGS GTS --sets FILE`.

Weights are better on a data set that they were trained on than on others like it. One average over
all data sets would therefore reward learning by heart. Here there are two averages: one over the
data sets that the weights were trained on, and one over those that they never saw. The mean of
these two decides which weights are better. With `--against OTHER_SEGS`, the command lists each data
set in which SEGS are worse than OTHER_SEGS.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence, Sized
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from swiftmedsam.evaluation.bootstrap import CONFIDENCE, Float64Array
from swiftmedsam.evaluation.console import (
    add_shared_options,
    clear_line,
    print_missing,
    progress,
    table,
)
from swiftmedsam.evaluation.datasets import Known, by_dataset, grouping, known_of, read_sets
from swiftmedsam.evaluation.estimates import Estimate, Line, Mean, average, estimates, line
from swiftmedsam.evaluation.saved import outputs_in, read_rows
from swiftmedsam.evaluation.score import (
    CaseScore,
    ScoreError,
    by_modality,
    npz_files,
    read_truth,
    score,
    totals,
)
from swiftmedsam.manifest import WeightsError

FEW_CASES = 5  # data sets with fewer cases have a line each, and one line for all of them
TRAINED, NEVER = "trained on", "never seen"
# The data sets of our validation cases for abdominal CT.
ABDOMINAL_CT = (
    "CT_BTCVSABS", "CT_3Dircadb1", "CT_KiTS19Ant", "CT_LiTSAnt", "CT_PancreasNIH",
)  # fmt: skip

RowsByName = Mapping[str, CaseScore]  # rows of a folder of outputs, by file name


@dataclass(frozen=True)
class Breadth:
    """All tables, as lists of lines."""

    averages: list[Line]  # of all cases, and of the cases of the earlier editions
    datasets: dict[
        str, list[Line]
    ]  # by group, without empty groups; the pooled line is the last of a group
    modalities: list[Line]
    abdomen: list[Line]  # the mean over the data sets of abdominal CT, then each data set
    organs: list[Line]  # of volumes of the abdomen, and of other volumes whose labels have names


def _by_name(
    runs: Sequence[RowsByName], groups: Mapping[str, Sequence[CaseScore]]
) -> dict[str, Estimate]:
    """Return an estimate for each group of rows, over all `runs`."""
    found = estimates(
        [[totals([run[row.name] for row in rows]) for rows in groups.values()] for run in runs]
    )
    return dict(zip(groups, found, strict=True))


def _count(things: Sized, one: str, many: str | None = None) -> str:
    return f"{len(things)} {one if len(things) == 1 else many or one + 's'}"


def _averages(
    name: str,
    of_datasets: Mapping[str, Estimate],
    of_modalities: Mapping[str, Estimate],
    trained_on: frozenset[str],
) -> list[Line]:
    """Return the lines of averages: each group of data sets, the mean of both, the modalities."""
    lines, of_groups = [], []
    for group in (TRAINED, NEVER):
        members = [
            estimate
            for dataset, estimate in of_datasets.items()
            if (dataset in trained_on) == (group == TRAINED)
        ]
        if members:
            of_groups.append(average(members))
            lines.append(line(f"{name}, {_count(members, 'data set')} {group}", of_groups[-1]))
    if len(of_groups) == 2:
        lines.append(line(f"{name}, mean of these two", average(of_groups)))
    counted = _count(of_modalities, "modality", "modalities")
    return [*lines, line(f"{name}, {counted}", average(list(of_modalities.values())))]


def _pooled(
    group: str, runs: Sequence[RowsByName], datasets: Mapping[str, Sequence[CaseScore]]
) -> list[Line]:
    """Return a line for all data sets with few cases of a group; none for a single data set."""
    few = [rows for rows in datasets.values() if len(rows) < FEW_CASES]
    if len(few) < 2:
        return []
    name = f"({len(few)} sets below {FEW_CASES} cases, {group}, pooled)"
    return [line(name, _by_name(runs, {name: [row for rows in few for row in rows]})[name])]


def _object_totals(row: CaseScore, places: Sequence[int]) -> tuple[float, float, int]:
    members = [row.by_object[place] for place in places]
    return sum(each.dsc for each in members), sum(each.nsd for each in members), len(members)


def _organ_lines(runs: Sequence[RowsByName], known: Mapping[str, Known], gts: Path) -> list[Line]:
    """Return a line for each named object of a data set, over the cases that have it.

    An object without name has a line of its own, with its label and case.
    """
    # Positions of objects among those of their case, by organ and case
    places: dict[str, dict[str, list[int]]] = {}
    for name, case in known.items():
        volume_of_abdomen = name.startswith("3") and case.dataset in ABDOMINAL_CT
        if not case.labels and not volume_of_abdomen:
            continue
        labels = np.unique(read_truth(gts / name))
        for place, label in enumerate(labels[labels > 0].tolist()):
            number = f"label {label} of {Path(name).stem.partition('-')[2]}"
            organ = f"{case.dataset}: {case.labels.get(label, number)}"
            places.setdefault(organ, {}).setdefault(name, []).append(place)
    if not places:
        return []
    values: list[list[Float64Array]] = [
        [
            np.array([_object_totals(run[name], at) for name, at in cases.items()], np.float64)
            for cases in places.values()
        ]
        for run in runs
    ]
    return [line(organ, each) for organ, each in zip(places, estimates(values), strict=True)]


def measure_breadth(
    scored: Sequence[Sequence[CaseScore]], known: Mapping[str, Known], trained_on: frozenset[str],
    gts: Path,
) -> Breadth:  # fmt: skip
    """Return all tables of SEGS and of other outputs, scored on the same cases.

    Args:
        scored: rows of each folder of outputs.
        known: data set and names of labels of each case.
        trained_on: the data sets that the weights of SEGS were trained on.
        gts: the folder of truth; it tells which labels a case has.

    Raises:
        ScoreError: a truth cannot be read.
    """
    runs = [{row.name: row for row in rows} for rows in scored]
    rows = scored[0]
    assert all(run.keys() == runs[0].keys() for run in runs), "all are scored on the same truth"
    datasets = by_dataset(rows, known)
    of_datasets, of_modalities = _by_name(runs, datasets), _by_name(runs, by_modality(rows))
    averages = _averages("all", of_datasets, of_modalities, trained_on)
    editions = sorted({case.edition for case in known.values()})
    for edition in editions[:-1]:
        name = f"edition {edition}" if edition == editions[0] else f"up to edition {edition}"
        part = [row for row in rows if known[row.name].edition <= edition]
        averages += _averages(
            name,
            _by_name(runs, by_dataset(part, known)),
            _by_name(runs, by_modality(part)),
            trained_on,
        )
    grouped = {}
    for group in (TRAINED, NEVER):
        members = {
            name: of_set
            for name, of_set in datasets.items()
            if (name in trained_on) == (group == TRAINED)
        }
        if members:
            lines = [line(name, of_datasets[name]) for name in members]
            grouped[group] = [*lines, *_pooled(group, runs, members)]
    abdomen = {name: of_datasets[name] for name in ABDOMINAL_CT if name in of_datasets}
    abdomen_lines = [line(name, estimate) for name, estimate in abdomen.items()]
    if abdomen:
        mean = average(list(abdomen.values()))
        abdomen_lines.insert(0, line(f"mean of these {len(abdomen)}", mean))
    return Breadth(
        averages,
        grouped,
        [line(name, estimate) for name, estimate in of_modalities.items()],
        abdomen_lines,
        _organ_lines(runs, known, gts),
    )


def below(breadth: Breadth, other: int) -> list[tuple[str, Line]]:
    """Return group and line of each data set in which SEGS have a lower DSC or NSD.

    They are compared with the other outputs number `other`, counted from 0. The largest loss of DSC
    comes first.
    """
    lines = [(group, each) for group, lines in breadth.datasets.items() for each in lines]
    losses = [
        (group, each)
        for group, each in lines
        if min(each.dsc_difference[other].mean, each.nsd_difference[other].mean) < 0
    ]
    return sorted(losses, key=lambda loss: loss[1].dsc_difference[other].mean)


def _with_interval(value: Mean, each: Line, sign: str = "") -> str:
    """Format in percent; without interval if each mean is over one case."""
    mean, low, high = (f"{100 * part:{sign}.2f}" for part in (value.mean, value.low, value.high))
    return mean if each.cases == each.parts else f"{mean} [{low}, {high}]"


def scores_table(heading: str, groups: Mapping[str, Sequence[Line]]) -> str:
    """Return a table: name, cases, DSC and NSD of SEGS with intervals, by group."""
    rows = [(heading, "Cases", "DSC %", "NSD %")]
    for group, lines in groups.items():
        rows += [(f"{group}:", "", "", "")] if group else []
        for each in lines:
            dsc, nsd = _with_interval(each.dsc[0], each), _with_interval(each.nsd[0], each)
            rows.append((each.name, str(each.cases), dsc, nsd))
    return table(rows)


def against_table(heading: str, groups: Mapping[str, Sequence[Line]], other: int) -> str:
    """Return a table: name, cases, and for each score SEGS, other, difference with interval."""
    rows: list[tuple[str, ...]]
    rows = [(heading, "Cases", "DSC %", "other", "minus other", "NSD %", "other", "minus other")]
    for group, lines in groups.items():
        rows += [(f"{group}:", *[""] * 7)] if group else []
        for each in lines:
            cells = []
            for scores, differences in (
                (each.dsc, each.dsc_difference), (each.nsd, each.nsd_difference),
            ):  # fmt: skip
                cells += [f"{100 * scores[i].mean:.2f}" for i in (0, other + 1)]
                cells.append(_with_interval(differences[other], each, "+"))
            rows.append((each.name, str(each.cases), *cells))
    return table(rows)


def below_table(breadth: Breadth, other: int) -> str:
    """Return a table of `below`: name, group, cases, differences with intervals."""
    rows = [("Below", "Group", "Cases", "DSC % points", "NSD % points")]
    for group, each in below(breadth, other):
        dsc = _with_interval(each.dsc_difference[other], each, "+")
        nsd = _with_interval(each.nsd_difference[other], each, "+")
        rows.append((each.name, group, str(each.cases), dsc, nsd))
    return table(rows) if len(rows) > 1 else "Below: no data set"


def _print_against(breadth: Breadth, segs: Path, path: Path, other: int) -> None:
    print(f"\n== {segs} minus {path} (other) ==")
    for heading, groups in (
        ("Average", {"": breadth.averages}), ("Data set", breadth.datasets),
        ("Modality", {"": breadth.modalities}), ("Abdominal CT", {"": breadth.abdomen}),
        ("Organ", {"": breadth.organs}),
    ):  # fmt: skip
        if any(groups.values()):
            print("\n" + against_table(heading, groups, other))
    print("\n" + below_table(breadth, other))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m swiftmedsam.evaluation.breadth",
        description="Scores by data set, of those that the weights were trained on and of those "
        "that they never saw. SEGS and OTHER_SEGS are folders of outputs, or JSON files that "
        "python -m swiftmedsam.evaluation --json wrote of them. A missing output counts as 0.",
        epilog="Exit status: 0, or 1 when something cannot be read or scored, 2 on wrong usage.",
    )
    parser.add_argument("segs", type=Path, metavar="SEGS", help="folder of outputs, or JSON")
    parser.add_argument("gts", type=Path, metavar="GTS", help="folder of truth")
    parser.add_argument(
        "--sets", type=Path, required=True, metavar="FILE",
        help="JSON with the data set of each case (docs/reproduction.md)",
    )  # fmt: skip
    parser.add_argument(
        "--weights", type=Path, metavar="DIR",
        help="weights that made SEGS; their manifest names the data sets they were trained on. "
        "Without this option, or without such an entry, FILE says it",
    )  # fmt: skip
    parser.add_argument(
        "--against", type=Path, nargs="+", default=[], metavar="OTHER_SEGS",
        help="other outputs; SEGS are compared with each, paired by case",
    )  # fmt: skip
    parser.add_argument(
        "--common", action="store_true",
        help="compare the cases alone of which all sources have an output; without it a missing "
        "output counts as 0",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all lines of the tables")
    parser.add_argument(
        "--official",
        action="store_true",
        help="spacing as in python -m swiftmedsam.evaluation --official",
    )
    add_shared_options(parser, "score")
    return parser


def _rows(source: Path, names: Sequence[str], options: argparse.Namespace) -> list[CaseScore]:
    """Score the cases `names` in a folder of outputs, or read their scores from a JSON file."""
    if source.suffix == ".json":
        return read_rows(source, names, official=options.official)
    rows = score(
        source, options.gts, official=options.official, only=options.only,
        processes=options.processes, progress=progress(),
    )  # fmt: skip
    wanted = set(names)
    return [row for row in rows if row.name in wanted]


def _has(source: Path, names: Sequence[str]) -> set[str]:
    """Return which of the cases `names` have an output in a folder or JSON file."""
    if source.suffix == ".json":
        return outputs_in(source) & {*names}
    return {name for name in names if (source / name).is_file()}


def _report(options: argparse.Namespace) -> None:
    """Score, print the tables, and write the file that was asked for.

    Raises:
        OSError, ScoreError, WeightsError: something cannot be read or scored.
    """
    names = npz_files(options.gts, options.only)
    if not names:
        raise ScoreError(f"{options.gts}: has no npz file")
    sources = [options.segs, *options.against]
    if options.common:
        everywhere = set.intersection(*(_has(source, names) for source in sources))
        print(f"{len(everywhere)} of {len(names)} cases have an output everywhere")
        names = [name for name in names if name in everywhere]
        if not names:
            raise ScoreError(f"{options.segs}: no case has an output here and in all the others")
    known = known_of(names, read_sets(options.sets), options.sets)
    groups = grouping(known, options.sets, options.weights)
    scored = [_rows(source, names, options) for source in sources]
    breadth = measure_breadth(scored, known, groups.trained_on, options.gts)

    print(f"Trained on or never seen: {groups.source}\n")
    print(scores_table("Average", {"": breadth.averages}))
    for group in (TRAINED, NEVER):
        if group not in breadth.datasets:
            print(f"No data set here is in the group '{group}', so the two groups have no mean")
    print(f"Each data set counts once. In brackets: {CONFIDENCE:.0%} intervals, bootstrap over "
          "the cases of each data set")  # fmt: skip
    for i, path in enumerate(options.against):
        _print_against(breadth, options.segs, path, i)
    if not options.against:
        print("\n" + scores_table("Data set", breadth.datasets))
        if breadth.organs:
            print("\n" + scores_table("Organ", {"": breadth.organs}))
    for source, rows in zip(sources, scored, strict=True):
        print_missing(source, [row.name for row in rows if row.missing], len(rows))
    if options.json:
        document = {
            "groups": {"source": groups.source, "trained_on": sorted(groups.trained_on)},
            "outputs": [str(source) for source in sources],
            **asdict(breadth),
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _parser().parse_args(argv)
    try:
        _report(options)
    except (OSError, ScoreError, WeightsError) as error:
        print(f"{clear_line()}{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

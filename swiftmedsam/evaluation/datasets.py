"""What is known of cases: their data set, and whether the weights were trained on it.

A JSON file says it of each case, by the name of its file without `.npz`:

    {"2DBox_CT_LiTSAnt-10030-1": {"set": "CT_LiTSAnt", "trained": true, "edition": 2}, ...}

`set` is the data set. `trained` says whether the training data have that set. `edition` numbers the
edition of the validation cases that brought the case. `labels`, where it is there, says what each
label of the truth is: {"1": "right kidney", ...}. Only `set` is needed; `trained` is needed, too,
unless the weights' manifest names the data sets that they were trained on.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swiftmedsam.evaluation.score import CaseScore, ScoreError, by_modality
from swiftmedsam.manifest import MANIFEST, WeightsError, read_manifest

TRAINED_ON = "trained_on"  # in the manifest: a list of data sets, written by `convert`


@dataclass(frozen=True)
class Known:
    """What the file says of a case."""

    dataset: str
    trained: bool | None  # None: it does not say
    edition: int
    labels: Mapping[int, str]  # empty: it does not say


@dataclass(frozen=True)
class Grouping:
    """Which data sets the weights were trained on, and who says so."""

    trained_on: frozenset[str]
    source: str  # in words, for the reader of the tables


def _known(entry: Any) -> Known:
    """One entry of the file.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: it is not as the module's text says.
    """
    dataset, trained, edition = entry["set"], entry.get("trained"), entry.get("edition", 1)
    if not isinstance(dataset, str) or not isinstance(edition, int):
        raise TypeError
    if not isinstance(trained, bool | None):
        raise TypeError
    labels = {int(label): str(name) for label, name in entry.get("labels", {}).items()}
    return Known(dataset, trained, edition, labels)


def read_sets(path: Path) -> dict[str, Known]:
    """What the file says of each case, by the name of the case's file (with `.npz`).

    Raises:
        OSError: it cannot be read.
        ScoreError: it holds something else.
    """
    try:
        content = json.loads(path.read_text())
        entries = content.items()
    except (AttributeError, ValueError) as error:
        raise ScoreError(f"{path}: should be a JSON object with an entry for each case") from error
    known = {}
    for name, entry in entries:
        try:
            known[f"{name}.npz"] = _known(entry)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ScoreError(
                f"{path}: '{name}' should have 'set' (a name), and may have 'trained' (true or "
                "false), 'edition' (a number) and 'labels' (a name for each label)"
            ) from error
    return known


def known_of(names: Iterable[str], sets: Mapping[str, Known], path: Path) -> dict[str, Known]:
    """What `sets`, read from `path`, say of the cases of these file names.

    Raises:
        ScoreError: they do not name one of them.
    """
    names = list(names)
    unknown = [name for name in names if name not in sets]
    if unknown:
        raise ScoreError(f"{path}: says nothing of {len(unknown)} cases, first {unknown[0]}")
    return {name: sets[name] for name in names}


def grouping(known: Mapping[str, Known], path: Path, weights: Path | None) -> Grouping:
    """Which data sets the weights were trained on.

    That is what the manifest of the folder `weights` says, or else what the file `path`, of which
    `known` is read, says.

    Raises:
        ScoreError: neither says it of every case, or the file says two things of one data set.
        WeightsError: `weights` has no manifest, or one whose list is none.
    """
    if weights is not None:
        names = read_manifest(weights).get(TRAINED_ON)
        manifest = weights / MANIFEST
        if names is not None:
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise WeightsError(f"{manifest}: '{TRAINED_ON}' should be a list of data sets")
            return Grouping(
                frozenset(names),
                f"'{TRAINED_ON}' of {manifest}, which names {len(set(names))} data sets",
            )
    told = defaultdict(set)
    for name, case in known.items():
        if case.trained is None:
            raise ScoreError(f"{path}: '{name}' has no 'trained', and no manifest says it")
        told[case.dataset].add(case.trained)
    mixed = [dataset for dataset, answers in told.items() if len(answers) > 1]
    if mixed:
        raise ScoreError(f"{path}: 'trained' is both true and false for {mixed[0]}")
    source = f"'trained' of {path}"
    if weights is not None:
        source += f", since {manifest} has no '{TRAINED_ON}'"
    return Grouping(frozenset(name for name, answers in told.items() if True in answers), source)


def by_dataset(rows: Sequence[CaseScore], known: Mapping[str, Known]) -> dict[str, list[CaseScore]]:
    """Rows of each data set, in the order of the modalities, then by name."""
    datasets: dict[str, list[CaseScore]] = {}
    for of_modality in by_modality(rows).values():
        for row in sorted(of_modality, key=lambda row: known[row.name].dataset):
            datasets.setdefault(known[row.name].dataset, []).append(row)
    return datasets

"""Read the data set of each case, and whether the weights were trained on it.

A JSON file has an entry for each case, by its file name without `.npz`:

    {"2DBox_CT_LiTSAnt-10030-1": {"set": "CT_LiTSAnt", "trained": true, "edition": 2}, ...}

- `set` is the data set. It is required.
- `trained` says whether the training data contain this data set. It is required if the manifest of
  the weights does not name the data sets that they were trained on.
- `edition` is the edition of the validation cases in which the case was added (default 1).
- `labels` are the names of the labels of the truth: {"1": "right kidney", ...}.
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
    """The entry of a case."""

    dataset: str
    trained: bool | None  # None: no entry
    edition: int
    labels: Mapping[int, str]  # empty: no entry


@dataclass(frozen=True)
class Grouping:
    """The data sets that the weights were trained on, and the source of this knowledge."""

    trained_on: frozenset[str]
    source: str  # in words, printed above the tables


def _known(entry: Any) -> Known:
    """Parse an entry of the file.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: the entry is not as the module docstring
            says.
    """
    dataset, trained, edition = entry["set"], entry.get("trained"), entry.get("edition", 1)
    if not isinstance(dataset, str) or not isinstance(edition, int):
        raise TypeError
    if not isinstance(trained, bool | None):
        raise TypeError
    labels = {int(label): str(name) for label, name in entry.get("labels", {}).items()}
    return Known(dataset, trained, edition, labels)


def read_sets(path: Path) -> dict[str, Known]:
    """Read the entries of all cases, by file name (with `.npz`).

    Raises:
        OSError: the file cannot be read.
        ScoreError: the file is not as the module docstring says.
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
    """Return the entries of `sets` (read from `path`) for the cases of these file names.

    Raises:
        ScoreError: a case has no entry.
    """
    names = list(names)
    unknown = [name for name in names if name not in sets]
    if unknown:
        raise ScoreError(f"{path}: has no entry for {len(unknown)} cases, such as {unknown[0]}")
    return {name: sets[name] for name in names}


def grouping(known: Mapping[str, Known], path: Path, weights: Path | None) -> Grouping:
    """Return the data sets that the weights were trained on.

    The manifest of the folder `weights` names them. If it does not, or if `weights` is None, they
    are those with `trained` in `known`, which was read from the file `path`.

    Raises:
        ScoreError: neither the manifest nor the file says it for a case, or the file contradicts
            itself on a data set.
        WeightsError: `weights` has no manifest, or its entry is not a list of names.
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
    """Return the rows of each data set, in the order of modalities, then by name."""
    datasets: dict[str, list[CaseScore]] = {}
    for of_modality in by_modality(rows).values():
        for row in sorted(of_modality, key=lambda row: known[row.name].dataset):
            datasets.setdefault(known[row.name].dataset, []).append(row)
    return datasets

"""Parts of a run: N processes share the cases of one folder, and each takes every N-th case.

A part is asked for by `--part`. The environment of a cluster's job is read only for `--part auto`,
so no variable that happens to be set can leave cases out.
"""

import argparse
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

AUTO = "auto"
SLURM_TASK = "SLURM_ARRAY_TASK_ID"
SLURM_ARRAY = tuple(f"SLURM_ARRAY_TASK_{name}" for name in ("MIN", "MAX", "STEP", "COUNT"))
KUBERNETES_INDEX = "JOB_COMPLETION_INDEX"
OF_PART = re.compile(r"\.part-(\d+)-of-(\d+)")  # before the suffix of a part's own file

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """One of `count` parts of a run; `index` is from 0 to `count` - 1."""

    index: int
    count: int
    source: str = ""  # the variable that the index comes from

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def take(self, items: Sequence[T], name: Callable[[T], str]) -> list[T]:
        """The items of this part: every `count`-th of all, sorted by name. The log says so.

        Neighbours in the order of names are often alike in size, so parts of neighbours would not
        take equally long.
        """
        taken = sorted(items, key=name)[self.index :: self.count]
        source = f" (by {self.source})" if self.source else ""
        log.info("part %s%s: %d of %d cases", self, source, len(taken), len(items))
        return taken

    def file(self, path: Path) -> Path:
        """The name that this part's own `path` gets: `stats.part-2-of-8.csv` of `stats.csv`."""
        return path.with_name(f"{path.stem}.part-{self.index}-of-{self.count}{path.suffix}")


def files_of_parts(path: Path) -> dict[int, dict[int, Path]]:
    """What `Part.file` made of `path`: by the number of parts, the file of each part by its index.

    Raises:
        OSError: the folder cannot be read.
    """
    found: dict[int, dict[int, Path]] = {}
    for other in sorted(path.parent.iterdir()):
        match = OF_PART.fullmatch(other.stem[len(path.stem) :])
        if match and other == Part(int(match[1]), int(match[2])).file(path):
            found.setdefault(int(match[2]), {})[int(match[1])] = other
    return found


def parse_part(text: str, environment: Mapping[str, str] = os.environ) -> Part:
    """The part that `I/N`, `auto` or `auto/N` means.

    Raises:
        ValueError: it means none; the message says what is wrong.
    """
    first, slash, second = text.partition("/")
    is_number = first.isdecimal() or first == AUTO
    if not is_number or (slash and not second.isdecimal()) or (first != AUTO and not slash):
        raise ValueError(f"expected I/N, {AUTO} or {AUTO}/N, got '{text}'")
    count = int(second) if slash else None
    if count == 0:
        raise ValueError(f"expected at least 1 part, got '{text}'")
    if first == AUTO:
        return _from_environment(count, environment)
    return _checked(int(first), int(second))


def _checked(index: int, count: int, source: str = "") -> Part:
    """The part, if there is one of that index."""
    if not 0 <= index < count:
        found = f"{source} is {index}" if source else f"got {index}/{count}"
        raise ValueError(f"parts count from 0: of {count} the last is {count - 1}, {found}")
    return Part(index, count, source)


def _from_environment(count: int | None, environment: Mapping[str, str]) -> Part:
    """The part that a job of SLURM or Kubernetes is; `count` is the number of parts if given."""
    names = [name for name in (SLURM_TASK, KUBERNETES_INDEX) if environment.get(name)]
    if not names:
        raise ValueError(f"{AUTO} needs {SLURM_TASK} or {KUBERNETES_INDEX}, and neither is set")
    if len(names) > 1:
        raise ValueError(f"{AUTO} needs one of {' and '.join(names)}, and both are set")
    (name,) = names
    number = _number(name, environment)
    if count is not None:
        return _checked(number, count, name)
    if name == KUBERNETES_INDEX:
        raise ValueError(f"{name} does not say how many parts there are, expected {AUTO}/N")
    low, high, step, count = (_number(variable, environment) for variable in SLURM_ARRAY)
    index, rest = divmod(number - low, step) if step else (-1, 0)
    # only of an array like 0-7 or 1-15:2 do these numbers tell the place of a task among all
    if rest or not 0 <= index < count or high - low != (count - 1) * step:
        raise ValueError(
            f"the array has gaps ({count} tasks from {low} to {high}), expected {AUTO}/N or I/N"
        )
    if low > 1 or (count == 1 and low == 1):  # as `sbatch --array=5` would have all cases
        raise ValueError(
            f"the array of tasks {low} to {high} may be a few tasks of a larger one, expected "
            f"{AUTO}/N or I/N"
        )
    return Part(index, count, name)


def _number(name: str, environment: Mapping[str, str]) -> int:
    text = environment.get(name, "")
    if not text.isdecimal():
        raise ValueError(f"{AUTO} needs a whole number in {name}, found '{text}'")
    return int(text)


def add_part(parser: argparse.ArgumentParser) -> None:
    """Add --part; `set_part` makes a Part of it."""
    parser.add_argument(
        "--part", metavar="I/N",
        help="take every N-th case, I from 0 to N - 1; auto: as the SLURM array says; auto/N: I as "
        f"SLURM or Kubernetes says ({SLURM_TASK}, {KUBERNETES_INDEX})",
    )  # fmt: skip


def set_part(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Replace the text of `options.part` by the part that it means, if there is one.

    This is no type of the option, since of `--part auto --part 2/8` only the last one counts: a
    script may have the first, and its user add the second.

    Raises:
        SystemExit: it means none; it was said.
    """
    if options.part is not None:
        try:
            options.part = parse_part(options.part)
        except ValueError as error:
            parser.error(f"argument --part: {error}")

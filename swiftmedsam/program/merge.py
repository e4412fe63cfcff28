"""`swiftmedsam merge`: the files of a run in parts as those of one run, and what is missing."""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from swiftmedsam.atomic import atomic_file, remove_partials, why_tables_fail
from swiftmedsam.messages import one_line, printable, words_of
from swiftmedsam.program.failures import read_failures, write_failures
from swiftmedsam.program.parts import Part, files_of_parts
from swiftmedsam.program.run_log import (
    BEGUN,
    FAILED,
    PLANNED,
    SKIPPED,
    WRITTEN,
    PartLog,
    digest_of,
    read_log,
)
from swiftmedsam.program.scan_options import as_option, positive
from swiftmedsam.program.stored import in_store
from swiftmedsam.store.retries import StoreError
from swiftmedsam.urls import READ_ONLY, Url, local_path, place

log = logging.getLogger(__name__)

MOST_NAMES = 5  # that a message lists
KINDS = ("log", "failures", "stats")  # of files that each part has, as the options are called

Rows = list[dict[str, object]]
T = TypeVar("T")


class MergeError(ValueError):
    """Files that cannot be merged; the message says why."""


@dataclass
class Found:
    """What the files of all parts say; by the index of a part."""

    logs: dict[int, PartLog] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)  # messages by file, of all parts
    rows: Rows = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # a line for whatever is missing


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    shown = ", ".join(map(printable, names[:MOST_NAMES]))
    return shown + (f" and {more} more" if more > 0 else "")


def number_of_parts(asked: Sequence[Path], count: int | None) -> int:
    """How many parts the files are of: `count` if it is given.

    Raises:
        MergeError: there are no files, or those of several runs.
        OSError: a folder cannot be read.
    """
    if count is not None:
        return count
    counts = sorted({count for path in asked for count in files_of_parts(path)})
    if not counts:
        example = Part(0, 8).file(asked[0]).name
        raise MergeError(f"{asked[0]}: no file of a part, like {example}")
    if len(counts) > 1:
        found = " and ".join(map(str, counts))
        raise MergeError(f"{asked[0].parent}: files of runs of {found} parts, expected --parts N")
    return counts[0]


def _each(
    path: Path, count: int, read: Callable[[Path], T], absent: dict[int, list[str]], found: Found
) -> dict[int, T]:
    """What `read` makes of the file of each part; `absent` gets the names of missing files."""
    there = files_of_parts(path).get(count, {})
    contents: dict[int, T] = {}
    for index in range(count):
        part = Part(index, count)
        if index not in there:
            absent.setdefault(index, []).append(part.file(path).name)
            continue
        try:
            contents[index] = read(there[index])
        except OSError as error:
            found.wrong.append(f"part {part}: {there[index]} cannot be read ({one_line(error)})")
        except ValueError as error:
            found.wrong.append(f"part {part}: {printable(str(error))}")
    return contents


def _read_rows(path: Path) -> Rows:
    # loaded here: runs of the challenge's files do without it
    from swiftmedsam.scans.stats import read_table

    rows = read_table(path)
    if rows is None:
        raise ValueError(f"{path}: is no table of --stats")
    return rows


def read_all(options: argparse.Namespace, count: int) -> Found:
    """The files of `count` parts that `options` name, and what is missing of them.

    Raises:
        OSError: a folder cannot be read.
    """
    found = Found()
    absent: dict[int, list[str]] = {}
    if options.log is not None:
        found.logs = _each(options.log, count, read_log, absent, found)
    if options.failures is not None:
        of_parts = _each(options.failures, count, read_failures, absent, found)
        merged = {name: why for failures in of_parts.values() for name, why in failures.items()}
        found.failures = dict(sorted(merged.items()))
    if options.stats is not None:
        tables = _each(options.stats, count, _read_rows, absent, found)
        rows = [row for table in tables.values() for row in table]
        found.rows = sorted(rows, key=lambda row: str(row["scan"]))  # those of a scan stay in order
    totals = {one.head["cases_of_all_parts"] for one in found.logs.values()}
    for index, names in sorted(absent.items()):
        cases = ""
        if options.log is not None and index not in found.logs and len(totals) == 1:
            cases = f", {len(range(index, min(totals), count))} cases"
        found.wrong.append(f"part {index}/{count}: missing, no {' and no '.join(names)}{cases}")
    return found


def check_logs(found: Found, outputs: Path | Url | None) -> None:
    """Add to `found` what its logs say is missing, and outputs that are not there.

    They are looked for where the run wrote them, or by their names in the folder `outputs`.

    Raises:
        StoreError: a store does not say what is there.
    """
    totals = {(one.head["cases_of_all_parts"], one.head["names_sha256"])
              for one in found.logs.values()}  # fmt: skip
    if len(totals) > 1:
        counts = ", ".join(
            f"{index}: {one.head['cases_of_all_parts']}"
            for index, one in sorted(found.logs.items())
        )
        found.wrong.append(
            f"the parts did not see the same cases, run all of them again (cases seen by part: "
            f"{counts})"
        )
    done = {
        _output(one, name, outputs)
        for one in found.logs.values()
        for name in one.of_state(WRITTEN, SKIPPED)
    }
    urls = {path for path in done if isinstance(path, Url)}
    # a DICOMweb server gives each segmentation a name of its own, and said that it took it
    served = {url for url in urls if url.scheme in READ_ONLY}
    there = (
        served
        | in_store(urls - served)
        | {path for path in done if isinstance(path, Path) and path.exists()}
    )
    for index, one in found.logs.items():
        # the head of a log and its cases agree, unless a file was renamed or changed
        if one.part.index != index or len(one.cases) != one.head["cases"]:
            found.wrong.append(f"part {index}/{one.part.count}: its log is not that of this part")
        if left := one.of_state(PLANNED, BEGUN):
            died = one.of_state(BEGUN)
            during = f", ended in {printable(died[0])}" if died else ""
            how = "" if one.status is not None else " (it still runs, or was killed)"
            found.wrong.append(
                f"part {one.part}: {len(left)} of {len(one.cases)} cases not done{during}{how}: "
                f"{_listed(left)}"
            )
        elif one.status is None:
            found.wrong.append(f"part {one.part}: did not end (it still runs, or was killed)")
        lost = [name for name in one.of_state(WRITTEN, SKIPPED)
                if _output(one, name, outputs) not in there]  # fmt: skip
        if lost:
            found.wrong.append(f"part {one.part}: {len(lost)} outputs missing: {_listed(lost)}")


def networks_used(logs: Mapping[int, PartLog]) -> str:
    """The line that says which parts used which network, if it was not the same; else ""."""
    parts_by_network: dict[str, list[str]] = {}
    for index, one in sorted(logs.items()):
        parts_by_network.setdefault(one.head["network"], []).append(str(index))
    if len(parts_by_network) < 2:
        return ""
    found = "; ".join(f"{used}: {_listed(parts)}" for used, parts in parts_by_network.items())
    return f"the parts did not use one network and precision, so labels may differ ({found})"


def _output(one: PartLog, name: str, outputs: Path | Url | None) -> Path | Url:
    path = place(one.cases[name]["output"])
    if outputs is None or (isinstance(path, Url) and path.scheme in READ_ONLY):
        return path
    file = path.name if isinstance(path, Path) else path.parts[-1]
    return outputs / file


def check_rows(found: Found) -> None:
    """Add to `found` the scans that were written and have no row in the table of --stats."""
    known = {row["scan"] for row in found.rows}
    done = [name for one in found.logs.values() for name in one.of_state(WRITTEN, SKIPPED)]
    if lacking := sorted(name for name in done if printable(name) not in known):
        found.wrong.append(f"{len(lacking)} scans have no row in the table: {_listed(lacking)}")


def write_log(path: Path, logs: Sequence[PartLog], status: int) -> None:
    """Write one file of --log of those of all parts: the last state of each case, by name.

    Raises:
        OSError: it cannot be written.
    """
    cases = {name: case for one in logs for name, case in one.cases.items()}
    head = {"part": 0, "parts": 1, "cases": len(cases), "cases_of_all_parts": len(cases),
            "names_sha256": digest_of(list(cases)),
            "network": " or ".join(sorted({one.head["network"] for one in logs}))}  # fmt: skip
    entries = [head, *(cases[name] for name in sorted(cases)), {"status": status}]
    with atomic_file(path) as stream:
        stream.writelines(json.dumps(entry).encode() + b"\n" for entry in entries)


def merge(options: argparse.Namespace) -> int:
    """Merge the files, say what is missing, and return the exit status.

    Raises:
        MergeError: there is nothing to merge, or a file cannot be written.
        OSError: a folder cannot be read, or a file cannot be written.
        StoreError: a store does not say what is there.
    """
    asked = [path for kind in KINDS if (path := getattr(options, kind)) is not None]
    if not asked:
        raise MergeError("expected --log, --failures or --stats")
    count = number_of_parts(asked, options.parts)
    found = read_all(options, count)
    logs = list(found.logs.values())
    check_logs(found, options.outputs)
    if options.stats is not None and logs:
        check_rows(found)
    places = [_output(one, name, options.outputs) for one in logs for name in one.cases]
    outputs = [path for path in places if isinstance(path, Path)]
    if why := why_tables_fail(asked, outputs):
        raise MergeError(why)
    failed = found.failures | {
        name: one.cases[name].get("message", "failed") for one in logs
        for name in one.of_state(FAILED)
    }  # fmt: skip
    for message in [*failed.values(), *found.wrong]:
        log.error("%s", printable(message))
    if warning := networks_used(found.logs):
        log.warning("%s", printable(warning))
    status = 1 if failed or found.wrong else 0
    if options.log is not None:
        write_log(options.log, logs, status)
    if options.failures is not None:
        write_failures(options.failures, found.failures)
    if options.stats is not None:
        from swiftmedsam.scans.stats import table

        with atomic_file(options.stats) as stream:
            stream.write(table(found.rows))
    if len(logs) == count and all(one.status is not None for one in logs):
        for folder in {path.parent for path in outputs}:  # no part runs that could write there
            remove_partials(folder)
    log.info("%s", _summary(logs, failed, count))
    return status


def _summary(logs: Sequence[PartLog], failed: dict[str, str], count: int) -> str:
    if not logs:
        return f"{count} parts, {len(failed)} failed"
    states = {state: sum(len(one.of_state(state)) for one in logs) for state in (WRITTEN, SKIPPED)}
    left = sum(len(one.of_state(PLANNED, BEGUN)) for one in logs)
    return (
        f"{len(logs)} of {count} parts: {states[WRITTEN]} written, {states[SKIPPED]} skipped, "
        f"{len(failed)} failed, {left} not done"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "swiftmedsam merge",
        description="Merge the files of a run with --part, and say what is missing. FILE is what "
        "the parts were given, like stats.csv; stats.part-0-of-8.csv and so on are read, and "
        "stats.csv is written.",
        epilog="Exit status: 0 when every case of every part was written, 1 when something is "
        "missing or failed, 2 on wrong usage.",
    )
    for kind in KINDS:
        parser.add_argument(
            f"--{kind}",
            type=as_option(local_path),
            metavar="FILE",
            help=f"what the parts got as --{kind}",
        )
    parser.add_argument(
        "--parts", type=positive, metavar="N",
        help="number of parts, if there are files of several runs",
    )  # fmt: skip
    parser.add_argument(
        "--outputs", type=as_option(place), metavar="DIR",
        help="where the outputs are, a folder or a URL, if not where the parts wrote them",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return merge(options)
    except (MergeError, StoreError, OSError) as error:
        log.error("%s", printable(words_of(error)))
        return 1


if __name__ == "__main__":
    sys.exit(main())

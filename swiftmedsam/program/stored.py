"""Runs whose inputs or outputs are URLs: what lies in stores, fetched and stored case by case.

A run has a mirror, a folder in the local cache (`swiftmedsam.urls`). To plan, it holds an empty
file for each file that the stores list; so whatever plans a run on this machine plans this one,
too. Then the empty files go. While a case runs, its own files are there.
"""

import argparse
import bisect
import contextlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from swiftmedsam.messages import one_line, printable
from swiftmedsam.program.jobs import Job
from swiftmedsam.program.scan_options import about_scans, asks_for_scans
from swiftmedsam.program.transfer import Transfer, hold
from swiftmedsam.store import dicomweb, remote
from swiftmedsam.store.remote import Remote
from swiftmedsam.store.retries import StoreError
from swiftmedsam.urls import DICOMWEB, MIRROR, READ_ONLY, Url, stored_at, url_of

REMOVALS = 3  # of a mirror: what was being fetched when a signal came may come once more
# A header whose pixels are in other files, which are taken to begin as it does: `a.nhdr`, `a.raw`.
HEADERS = (".nhdr", ".mhd", ".hdr", ".img")


@dataclass(frozen=True)
class StoredOutput:
    """The labels of a case in a store, as a list of their folder shows them."""

    url: Url
    path: Path  # in the mirror
    version: str | None  # None if they were not there

    def __str__(self) -> str:
        return str(self.url)

    @property
    def parent(self) -> Path:
        """Their folder in the mirror."""
        return self.path.parent

    def exists(self) -> bool:
        """Whether they were there when the run began; the store is not asked again."""
        return self.version is not None

    def found(self) -> object | None:
        """Their version when the run began; None if there were none."""
        return self.version

    def remove(self, found: object) -> None:
        """Remove those of the version `found`, unless others have replaced them since."""
        with contextlib.suppress(StoreError):
            now = remote.look(self.url)
            if now is not None and now.version == found:
                remote.remove(self.url)


@dataclass(frozen=True)
class ServedOutput:
    """A segmentation that is added to a study of a DICOMweb server, which replaces none."""

    series: dicomweb.Series
    path: Path  # in the mirror

    def __str__(self) -> str:
        return f"{self.series.server}/studies/{self.series.study}"

    @property
    def parent(self) -> Path:
        """Its folder in the mirror."""
        return self.path.parent

    def exists(self) -> bool:
        """No: each run adds one."""
        return False

    def found(self) -> None:
        """No other is replaced."""

    def remove(self, found: object) -> None:
        """Nothing is replaced, so nothing is removed."""


class Mirror:
    """The mirror of a run with URLs, and what the stores have in the folders that it uses."""

    def __init__(self, folder: Path, limit: int | None) -> None:
        """Nothing is asked yet.

        Args:
            folder: of the mirror.
            limit: bytes that the inputs of a case may have; None: what fits on the disk.
        """
        self.folder, self._limit = folder, limit
        self._files: dict[Path, Remote] = {}
        self._order: list[tuple[str, ...]] = []  # parts of the paths, sorted
        self._paths: list[Path] = []
        self._series: dict[Path, dicomweb.Series] = {}  # by their folders
        self._own: set[Path] = set()  # inputs of cases
        self._users: dict[Path, str] = {}  # of files that are fetched: their cases

    def look(self, options: argparse.Namespace) -> None:
        """List the folders of inputs and outputs, and make paths of their URLs in `options`.

        Raises:
            OSError: an empty file cannot be made.
            StoreError: a folder cannot be listed, or files cannot be stored there.
        """
        if options.dicomweb is not None:
            options.inputs = self._look_at_study(options.dicomweb, options.study, options.series)
        inputs, outputs = options.inputs, options.outputs
        if isinstance(inputs, Url):
            recursive = asks_for_scans(options)
            options.inputs = self._look_at_inputs(inputs, recursive=recursive)
        is_scan = about_scans(options)
        beside = outputs is None and is_scan and isinstance(inputs, Url)
        in_server = outputs is None and bool(self._series)
        if options.dry_run and (beside or in_server or isinstance(outputs, Url)):
            raise StoreError(
                "--dry-run draws on this machine: expected OUTPUTS to be a folder here"
            )
        if isinstance(outputs, Url):
            options.outputs = self._look_at_outputs(outputs, is_scan=is_scan, near=options.inputs)
        elif beside:
            _require_store(inputs, "name OUTPUTS")
            if not inputs.parts:
                raise StoreError(f"{inputs}: labels cannot be beside a bucket, name OUTPUTS")
            self._add(remote.listed(inputs.parent, recursive=False))
            remote.require_writable(inputs.parent)
        if isinstance(options.boxes_from, Url):
            options.boxes_from = self._add_file(options.boxes_from)
        options.boxes = [self._table(one) if isinstance(one, Url) else one
                         for one in options.boxes or []] or None  # fmt: skip

    def _look_at_study(self, server: str, study: str, uid: str | None) -> Path:
        """The folder of a series, or that of the study, with one of each series in it."""
        folder = self.folder / DICOMWEB / study
        uids = dicomweb.series_of(server, study) if uid is None else [uid]
        for one in uids:
            (folder / one).mkdir(parents=True)
            self._series[folder / one] = dicomweb.Series(server, study, one)
        return folder if uid is None else folder / uid

    def _add_file(self, url: Url) -> Path:
        """The path of a file, with those that its header needs."""
        one = remote.look(url)
        if one is None:
            raise StoreError(f"{url}: expected a file, found none of that name")
        path = url.below(self.folder)
        self._add([one])
        if path.suffix.lower() in HEADERS:
            beside = remote.listed(url.parent, recursive=False)
            self._add(other for other in beside if _belongs(other.url, url))
        return path

    def _table(self, url: Url) -> Path:
        """The path of a file of boxes, which is fetched."""
        path = self._add_file(url)
        remote.fetch_all([self._files[path]], [path], self._limit)
        return path

    def _look_at_inputs(self, url: Url, *, recursive: bool) -> Path:
        path = url.below(self.folder)
        one = None if url.is_folder or not url.parts else remote.look(url)
        if one is None:
            if url.is_folder or url.scheme not in READ_ONLY:  # a page of the web ends in a slash
                self._add(remote.listed(url, recursive=recursive))
            if not self._files:
                raise StoreError(f"{url}: expected a file or a folder, found nothing of that name")
            path.mkdir(parents=True, exist_ok=True)
            return path
        return self._add_file(url)

    def _look_at_outputs(self, url: Url, *, is_scan: bool, near: Path) -> Path:
        """The path of the outputs; `near` is that of the inputs."""
        _require_store(url, "expected OUTPUTS elsewhere")
        path, folder = url.below(self.folder), url
        found = remote.listed(url, recursive=False)
        if found or url.is_folder or not url.parts or not is_scan:
            path.mkdir(parents=True, exist_ok=True)
        else:
            # imported here, since npz files do not need it
            from swiftmedsam.scans.formats.by_suffix import WRITTEN, suffix_of

            if suffix_of(path, WRITTEN):  # a file
                folder = url.parent
                found = remote.listed(folder, recursive=False)
            path.parent.mkdir(parents=True, exist_ok=True)
        self._add(found)
        if path != near:  # else it is refused, and nothing is to be stored
            remote.require_writable(folder)
        return path

    def _add(self, files: Iterable[Remote]) -> None:
        """Make an empty file for each file, unless there is one for it."""
        for one in files:
            path = one.url.below(self.folder)
            if path in self._files:
                continue
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("x"):
                    self._files[path] = one
            except FileExistsError as error:  # names in another case; or a is a file, and a/b
                raise StoreError(
                    f"{one.url}: this machine cannot tell its name from that of another file there"
                ) from error

    def forget(self, inputs: Iterable[Path]) -> None:
        """Remove the empty files, and tables; to be called when the run is planned.

        `inputs` are those of all cases, also of other parts.
        """
        self._own = set(inputs)
        for path in self._files:
            path.unlink(missing_ok=True)
        by_parts = sorted((path.parts, path) for path in self._files)
        self._order = [parts for parts, _ in by_parts]
        self._paths = [path for _, path in by_parts]

    def _below(self, path: Path) -> list[Remote]:
        """The file at a path, with those that its header needs; or all files of a folder."""
        one = self._files.get(path)
        if one is None:
            first = bisect.bisect_left(self._order, path.parts)
            found = []
            for at in range(first, len(self._order)):
                if self._order[at][: len(path.parts)] != path.parts:
                    break
                found.append(self._files[self._paths[at]])
            return found
        if path.suffix.lower() not in HEADERS:
            return [one]
        # those that begin alike are neighbours in the order, so not all of the folder are looked at
        folder, stem = path.parts[:-1], f"{path.stem}."
        found = []
        for at in range(bisect.bisect_left(self._order, (*folder, stem)), len(self._order)):
            parts = self._order[at]
            if parts[: len(folder)] != folder or not parts[len(folder)].startswith(stem):
                break
            other = self._paths[at]
            if len(parts) == len(path.parts) and (other == path or other not in self._own):
                found.append(self._files[other])
        return found

    def transfer(
        self, name: str, inputs: Sequence[Path], outputs: Sequence[Path] = (), *,
        fetch_older: bool = False,
    ) -> Transfer | None:  # fmt: skip
        """The files of a case that lie in stores; None if there are none.

        Raises:
            StoreError: another case has one of them.
        """
        fetched = {file: None for path in inputs for file in self._below(path)}
        stored = tuple(path for path in outputs if url_of(path))
        series = next(((self._series[path], path) for path in inputs if path in self._series), None)
        for one in fetched:  # in a mirror they would be removed when the other case ends
            user = self._users.setdefault(one.url.below(self.folder), name)
            if user != name:
                raise StoreError(
                    f"{printable(name)}: {one.url} is a file of {printable(user)}, too; expected "
                    "cases with files of their own, or two runs"
                )
        if not fetched and not stored and series is None:
            return None
        older = [self._files[path] for path in stored if fetch_older and path in self._files]
        return Transfer(
            name, self.folder, self._limit, tuple(fetched), tuple(older), stored, series
        )

    def stored(self, job: Job, options: argparse.Namespace) -> Job:
        """The job that fetches its inputs before, and stores its outputs after."""
        fetch_older = not (job.removes_older or options.overwrite)
        transfer = self.transfer(job.file, job.inputs, job.outputs, fetch_older=fetch_older)
        if transfer is None:
            return job
        output, path = job.output, job.outputs[0]
        if (url := stored_at(path)) is not None:
            older = self._files.get(path)
            output = StoredOutput(url, path, None if older is None else older.version)
            if older is not None and len(transfer.outputs) > 1:
                transfer = replace(transfer, stale=url)
        elif url_of(path) is not None and transfer.series is not None:
            output = ServedOutput(transfer.series[0], path)
        return replace(job, output=output, files=transfer)


def _belongs(other: Url, header: Url) -> bool:
    """Whether a file may hold the pixels of a header."""
    stem = Path(header.parts[-1]).stem
    return other.parts[:-1] == header.parts[:-1] and other.parts[-1].startswith(f"{stem}.")


def _require_store(url: Url, instead: str) -> None:
    if url.scheme in READ_ONLY:
        raise StoreError(f"{url}: {url.scheme}:// is for reading alone, {instead}")


def in_store(files: Iterable[Url]) -> set[Url]:
    """Those of `files` that are there; each of their folders is listed once.

    Raises:
        StoreError: a folder cannot be listed.
    """
    asked = set(files)
    folders = {str(url.parent): url.parent for url in asked}
    there = {
        str(one.url) for url in folders.values() for one in remote.listed(url, recursive=False)
    }
    return {url for url in asked if str(url) in there}


@contextlib.contextmanager
def new_mirror(options: argparse.Namespace) -> Iterator[Mirror]:
    """The mirror of a run, while it lasts.

    Raises:
        StoreError: it cannot be made.
    """
    parent = Path(tempfile.gettempdir()) if options.cache is None else options.cache
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=MIRROR, dir=parent)).absolute()
    except OSError as error:
        raise StoreError(f"{parent}: no folder for a local cache ({one_line(error)})") from error
    try:
        with hold(folder):
            yield Mirror(folder, options.cache_size)
    finally:
        hold.cache_clear()
        for _ in range(REMOVALS):
            shutil.rmtree(folder, ignore_errors=True)

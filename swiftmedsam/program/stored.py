"""Runs whose inputs or outputs are URLs: what lies in stores, fetched and stored case by case.

A run has a mirror, a folder in the local cache (`swiftmedsam.urls`). To plan, it holds an empty
file for each file that the stores list; so whatever plans a run on this machine plans this one,
too. Then the empty files go. While a case runs, its own files are there.
"""

import argparse
import bisect
import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from swiftmedsam import system
from swiftmedsam.messages import one_line, printable
from swiftmedsam.network import Network
from swiftmedsam.program.jobs import Done, Job
from swiftmedsam.program.scan_options import about_scans, asks_for_scans
from swiftmedsam.result import Clock, Progress
from swiftmedsam.store import dicomweb, remote
from swiftmedsam.store.remote import Remote
from swiftmedsam.store.retries import LOCAL_FAULTS, StoreError
from swiftmedsam.urls import DICOMWEB, MIRROR, READ_ONLY, Url, stored_at, url_of

LOCK = "lock-"  # how the names of files begin that processes lock which use a mirror
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

    def remove(self) -> None:
        """Remove them, if they are still the same."""
        if self.version is None:
            return
        with contextlib.suppress(StoreError):
            now = remote.look(self.url)
            if now is not None and now.version == self.version:
                remote.remove(self.url)


@dataclass(frozen=True)
class Transfer:
    """The files of a case that lie in stores."""

    name: str  # of the case, for messages
    mirror: Path
    limit: int | None  # bytes of its inputs
    inputs: tuple[Remote, ...]
    older: tuple[Remote, ...]  # outputs that are there: they might not be this program's
    outputs: tuple[Path, ...]  # in the mirror; the labels first
    series: tuple[dicomweb.Series, Path] | None = None  # on a server, and its folder in the mirror

    @contextlib.contextmanager
    def here(self, clock: Clock) -> Iterator[None]:
        """Inside, the inputs are in the mirror; after it, the outputs are in the store.

        Neither is left in the mirror. If there is an exception, nothing is stored.

        Raises:
            StoreError: a file cannot be fetched or stored.
        """
        fetched = [*self.inputs, *self.older]
        paths = [one.url.below(self.mirror) for one in fetched]
        try:
            with clock.measure("read"):
                hold(self.mirror)
                self._require_room()
                for path in [*paths, *self.outputs]:
                    path.parent.mkdir(parents=True, exist_ok=True)
                if fetched:
                    remote.fetch_all(fetched, paths)
                if self.series is not None:
                    series, folder = self.series
                    folder.mkdir(parents=True, exist_ok=True)
                    dicomweb.fetch(series, folder)
            yield
            with clock.measure("write"):
                for path in reversed(self.outputs):  # who sees the labels sees what describes them
                    if (url := stored_at(path)) is not None:
                        remote.store(path, url)
                    elif self.series is not None:
                        dicomweb.store(path, self.series[0])
        except StoreError as error:
            raise StoreError(f"{printable(self.name)}: {error}") from error
        except OSError as error:
            if self.outputs and error.errno in LOCAL_FAULTS:
                raise StoreError(
                    f"{printable(self.name)}: the local cache {self.mirror.parent} is full "
                    f"({one_line(error)})"
                ) from error
            raise
        finally:
            for path in {*paths, *self.outputs}:
                path.unlink(missing_ok=True)
            if self.series is not None:
                shutil.rmtree(self.series[1], ignore_errors=True)

    def around(self, step: Callable[[], None]) -> Callable[[], None]:
        """A function that does `step` while the files are here."""

        def wrapped() -> None:
            with self.here(Clock()):
                step()

        return wrapped

    def _require_room(self) -> None:
        size = sum(one.size or 0 for one in self.inputs)
        if self.limit is not None and size > self.limit:
            raise StoreError(
                f"has {size / 1e6:.1f} MB, the local cache may take {self.limit / 1e6:.1f} MB of a "
                "case (--cache-size)"
            )
        free = shutil.disk_usage(self.mirror).free
        if size > free:
            raise StoreError(
                f"has {size / 1e6:.1f} MB, the local cache {self.mirror.parent} has "
                f"{free / 1e6:.1f} MB left (--cache)"
            )


def run_stored(
    transfer: Transfer, run: Callable[[Network, Clock, Progress], Done],
    network: Network, clock: Clock, progress: Progress,
) -> Done:  # fmt: skip
    """Do `run` with the files of its case; this is `Job.run` of a case in a store."""
    with transfer.here(clock):
        return run(network, clock, progress)


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
        self._series: tuple[dicomweb.Series, Path] | None = None

    def look(self, options: argparse.Namespace) -> None:
        """List the folders of inputs and outputs, and make paths of their URLs in `options`.

        Raises:
            OSError: an empty file cannot be made.
            StoreError: a folder cannot be listed, or files cannot be stored there.
        """
        if options.dicomweb is not None:
            series = dicomweb.Series(options.dicomweb, options.study, options.series)
            options.inputs = self.folder / DICOMWEB / series.uid
            options.inputs.mkdir(parents=True)
            self._series = series, options.inputs
        inputs, outputs = options.inputs, options.outputs
        if isinstance(inputs, Url):
            recursive = asks_for_scans(options)
            options.inputs = self._look_at_inputs(inputs, recursive=recursive)
        is_scan = about_scans(options)
        beside = outputs is None and is_scan and isinstance(inputs, Url)
        in_server = outputs is None and self._series is not None
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
        self._add([one])
        if path.suffix.lower() in HEADERS:
            beside = remote.listed(url.parent, recursive=False)
            self._add(other for other in beside if _belongs(other.url, url))
        return path

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

    def forget(self) -> None:
        """Remove the empty files; to be called when the run is planned."""
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
        return [other for other in self._below(path.parent) if _belongs(other.url, one.url)]

    def transfer(
        self, name: str, inputs: Sequence[Path], outputs: Sequence[Path] = (), *,
        fetch_older: bool = False,
    ) -> Transfer | None:  # fmt: skip
        """The files of a case that lie in stores; None if there are none."""
        fetched = [file for path in inputs for file in self._below(path)]
        stored = tuple(path for path in outputs if url_of(path))
        series = self._series if self._series and self._series[1] in inputs else None
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
        output = job.output
        if isinstance(output, Path) and (url := stored_at(output)) is not None:
            older = self._files.get(output)
            output = StoredOutput(url, output, None if older is None else older.version)
        return replace(job, output=output, run=functools.partial(run_stored, transfer, job.run))


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


# The folder of a mirror


@functools.cache
def hold(mirror: Path) -> IO[bytes]:
    """Make a mirror, and let others know that it is in use, until the stream is closed."""
    mirror.parent.mkdir(parents=True, exist_ok=True)
    remove_unused_mirrors(mirror.parent)
    while True:
        mirror.mkdir(exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=LOCK, dir=mirror)
        stream = os.fdopen(handle, "wb")
        system.lock(stream)
        if Path(name).exists():
            return stream
        stream.close()  # another process removed it before it was locked


def remove_unused_mirrors(folder: Path) -> None:
    """Remove the mirrors in `folder` of processes that were killed."""
    for other in folder.glob(f"{MIRROR}*"):
        locks = list(other.glob(f"{LOCK}*"))
        with contextlib.suppress(OSError):  # one is in use
            if locks and all([system.remove_unused(lock) for lock in locks]):
                shutil.rmtree(other)


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
        shutil.rmtree(folder, ignore_errors=True)

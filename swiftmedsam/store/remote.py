"""Lists, fetches, stores and removes files in a store, by fsspec."""

import functools
import importlib
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swiftmedsam.extras import EXTRAS, how_to_install
from swiftmedsam.messages import printable
from swiftmedsam.store.retries import (
    StoreError,
    is_absent,
    is_denied,
    persistently,
    require_small,
    said_by,
)
from swiftmedsam.urls import READ_ONLY, Url, is_name, parse_url

AT_ONCE = 8  # files of a folder that are fetched at the same time
SILENCE = 60.0  # seconds without a byte, until a connection counts as lost
PROBE = ".swiftmedsam-test"  # a file that is stored and removed to see whether that is possible
# Loggers that tell where they found credentials, or show tracebacks of errors that are told here.
LOUD = {
    "s3": {"aiobotocore": logging.WARNING, "botocore": logging.WARNING},
    "gs": {"gcsfs": logging.CRITICAL, "google": logging.ERROR},
    "az": {"adlfs": logging.ERROR, "azure": logging.ERROR},
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Remote:
    """A file in a store, as a list of its folder shows it."""

    url: Url
    size: int | None = None  # bytes; None: the store does not say
    version: str = ""  # differs if the content does; "": the store does not say


@functools.cache
def filesystem(scheme: str) -> Any:
    """The file system of fsspec for a scheme, one a process.

    Raises:
        StoreError: its package is not installed.
    """
    for name, level in LOUD.get(scheme, {}).items():
        logging.getLogger(name).setLevel(level)
    try:
        made = importlib.import_module("fsspec").filesystem(
            scheme, skip_instance_cache=True, use_listings_cache=False, **_options(scheme)
        )
    except ImportError as error:
        how = how_to_install(scheme if scheme in EXTRAS else "store")
        raise StoreError(f"{scheme}:// needs a package that is not installed: {how}") from error
    except Exception as error:  # as where neither account nor credentials are given
        raise StoreError(f"{scheme}:// cannot be used: {said_by(error)}") from error
    _let_us_retry(made, scheme)
    return made


def _options(scheme: str) -> dict[str, Any]:
    """The options of a file system.

    Raises:
        ImportError: a package is not installed.
    """
    if scheme == "s3":
        retries = {"retries": {"total_max_attempts": 1, "mode": "standard"}}
        return {"config_kwargs": retries, "version_aware": False}
    if scheme == "az":
        return {}
    timeout = importlib.import_module("aiohttp").ClientTimeout(
        sock_connect=SILENCE, sock_read=SILENCE
    )
    if scheme == "gs":
        # Else each bucket is asked for its kind by gRPC, which needs a right of its own. Of the
        # kinds, only zonal buckets need that; who has one sets the variable.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        return {"requests_timeout": timeout}  # by default it waits for ever
    return {"client_kwargs": {"timeout": timeout}}  # by default a file has five minutes to arrive


def _let_us_retry(made: Any, scheme: str) -> None:
    """Let a file system try once: `persistently` tries again, and says so.

    gcsfs and azure have no option for it. Should a later version hide what is changed here, they
    would try silently several times within each try of ours.
    """
    if scheme == "s3":
        made.retries = 1
    elif scheme == "gs":
        for name in ("_request", "_get_file_request", "_get_file_concurrent"):
            once = getattr(getattr(type(made), name, None), "__wrapped__", None)
            if once is not None:
                setattr(made, name, functools.partial(once, made))
    elif scheme == "az":
        configuration = getattr(made.service_client, "_config", None)
        policy = getattr(configuration, "retry_policy", None)
        if policy is not None:
            policy.total_retries = 0


def _name(url: Url) -> str:
    """What fsspec calls a file or folder."""
    if url.scheme in READ_ONLY:
        return url.text
    return "/".join([url.host, *url.parts])


def _version(info: Mapping[str, Any], scheme: str) -> str:
    """Of what fsspec says about a file: what differs if the content does."""
    if scheme in READ_ONLY:  # the servers behind one address may say different things
        return ""
    keys = ("ETag", "etag", "md5Hash", "LastModified", "mtime")
    return next((str(info[key]).strip('"') for key in keys if info.get(key)), "")


def _is_file(info: Mapping[str, Any]) -> bool:
    """Whether what fsspec listed is a file; some stores have empty ones that mark a folder."""
    return info["type"] == "file" and not str(info["name"]).endswith("/")


def _remote(info: Mapping[str, Any], scheme: str) -> Remote | None:
    """A file that fsspec listed; None if it has a name that no local file can have."""
    name = str(info["name"])
    try:
        url = parse_url(name if scheme in READ_ONLY else f"{scheme}://{name}")
    except ValueError:
        return None
    if url is None or not all(map(is_name, url.parts)):
        return None
    return Remote(url, info.get("size"), _version(info, scheme))


def look(url: Url) -> Remote | None:
    """The file at a URL; None if there is none, as where only a folder is.

    Raises:
        StoreError: the store does not say.
    """
    try:
        info = persistently(
            f"{url}: could not be found", lambda: filesystem(url.scheme).info(_name(url))
        )
    except StoreError as error:
        if is_absent(error.__cause__):
            return None
        raise
    found = _remote(info, url.scheme) if _is_file(info) else None
    return None if found is None else Remote(url, found.size, found.version)


def listed(folder: Url, *, recursive: bool) -> list[Remote]:
    """The files in a folder, with `recursive` also those below; [] if there is no such folder.

    A store has no folders: one without files is one that is not there.

    Raises:
        StoreError: the store does not say, or there is no such bucket.
    """
    files, scheme = filesystem(folder.scheme), folder.scheme

    def ask() -> list[Mapping[str, Any]]:
        name = _name(folder) + ("/" if scheme in READ_ONLY else "")
        infos = files.find(name, detail=True).values() if recursive else files.ls(name, detail=True)
        return [info for info in infos if _is_file(info)]

    try:
        infos = persistently(f"{folder}: could not be listed", ask)
    except StoreError as error:
        if not is_absent(error.__cause__):
            raise
        infos = []
    if not infos and scheme not in READ_ONLY:
        require_bucket(folder)
    found = {str(info["name"]): _remote(info, scheme) for info in infos}
    if odd := [name for name, one in found.items() if one is None]:
        log.warning(
            "%s: left alone, since no file of this machine can have their names: %d files like %s",
            folder, len(odd), printable(odd[0]),
        )  # fmt: skip
    # by the name of a file, a store without folders returns the file itself
    return [one for one in found.values() if one is not None and one.url.parts != folder.parts]


def require_bucket(url: Url) -> None:
    """Check that there is the bucket of a URL, in which files could be listed.

    Raises:
        StoreError: there is none, or the store does not say.
    """
    bucket = f"{url.scheme}://{url.host}"
    kind = "container" if url.scheme == "az" else "bucket"
    try:
        persistently(f"{bucket}: could not be found", lambda: filesystem(url.scheme).info(url.host))
    except StoreError as error:
        if is_absent(error.__cause__):
            raise StoreError(f"{bucket}: there is no such {kind}") from error
        if not is_denied(error.__cause__):  # to list files is another right than to see the bucket
            raise


class Room:
    """How much of the files of a case has come; not all stores say how large they are."""

    def __init__(self, limit: int | None = None) -> None:
        """`limit`: bytes that all of them may have; None: any number."""
        self._limit = limit
        self._came: dict[Url, int] = {}

    def note(self, url: Url, size: int) -> None:
        """Note that a file has `size` bytes or more.

        Raises:
            StoreError: together the files have more than they may.
        """
        self._came[url] = size
        require_small(url, sum(self._came.copy().values()), self._limit)


def fetch(remote: Remote, path: Path, room: Room) -> None:
    """Copy a file from a store to `path`, whose folder is there.

    Raises:
        StoreError: it cannot be read, is another one than was listed, or is too large for `room`.
    """
    url = remote.url
    files = filesystem(url.scheme)
    # imported here, since runs without URLs do not need it
    callbacks = importlib.import_module("fsspec.callbacks")

    class Bounded(callbacks.Callback):  # type: ignore[name-defined, misc]
        """Is told how much has come; an exception ends the transfer."""

        def call(self, *_: object, **__: object) -> None:
            room.note(url, max(self.value, self.size or 0))

    def get() -> None:
        files.get_file(_name(url), str(path), callback=Bounded())
        size = path.stat().st_size
        if remote.size is not None and size != remote.size:
            raise OSError(f"it should have {remote.size} bytes, found {size}")
        # the parts of a large file are read one by one: it must not have been replaced meanwhile
        if remote.version and _version(files.info(_name(url)), url.scheme) != remote.version:
            raise StoreError(f"{url}: was replaced since it was listed")

    persistently(f"{url}: could not be read", get)


def fetch_all(remotes: Sequence[Remote], paths: Sequence[Path], limit: int | None = None) -> None:
    """Do `fetch` for each file, several at the same time.

    Raises:
        StoreError: one cannot be read, or together they have more bytes than `limit`.
    """
    room = Room(limit)
    if len(remotes) == 1:
        fetch(remotes[0], paths[0], room)
        return
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        list(pool.map(functools.partial(fetch, room=room), remotes, paths))
    finally:  # on a signal, too: the others are not waited for
        pool.shutdown(wait=False, cancel_futures=True)


def store(path: Path, url: Url) -> None:
    """Copy a file to a store, as a whole: until then, a former one stays.

    Raises:
        StoreError: it cannot be written.
    """
    files = filesystem(url.scheme)
    persistently(f"{url}: could not be written", lambda: files.put_file(str(path), _name(url)))


def remove(url: Url) -> None:
    """Remove a file from a store, if it is there.

    Raises:
        StoreError: it cannot be removed.
    """
    files = filesystem(url.scheme)
    try:
        persistently(f"{url}: could not be removed", lambda: files.rm_file(_name(url)))
    except StoreError as error:
        if not is_absent(error.__cause__):
            raise


def require_writable(folder: Url) -> None:
    """Check that files can be stored in a folder, by an empty one that is removed again.

    Raises:
        StoreError: they cannot.
    """
    files = filesystem(folder.scheme)
    name = f"{_name(folder)}/{PROBE}"
    persistently(f"{folder}: could not be written to", lambda: files.pipe_file(name, b""))
    try:
        files.rm_file(name)
    except Exception:  # who may not remove it may still write; another part may have removed it
        return

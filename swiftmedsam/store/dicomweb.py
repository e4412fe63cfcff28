"""Reads a series from a DICOMweb server (WADO-RS), and stores an object there (STOW-RS)."""

import importlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swiftmedsam.extras import how_to_install
from swiftmedsam.messages import printable
from swiftmedsam.store.retries import StoreError, persistently, require_small

CONNECT, SILENCE = 10.0, 60.0  # seconds to connect, and without a byte, until it counts as lost
UID = r"[0-9]+(\.[0-9]+)*"  # each is the name of a folder, too
ANY_SYNTAX = (("application/dicom", "*"),)  # as stored; by default a server decompresses

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Series:
    """A series on a server."""

    server: str  # URL of its DICOMweb service, like https://host/dicom-web
    study: str  # StudyInstanceUID
    uid: str  # SeriesInstanceUID

    def __str__(self) -> str:
        return f"{self.server}: series {self.uid}"


def _client(server: str) -> Any:
    """A client of a server; of its user and password in ~/.netrc, if it is there.

    Raises:
        StoreError: its package is not installed.
    """
    try:
        web = importlib.import_module("dicomweb_client.web")
    except ImportError as error:
        raise StoreError(
            f"DICOMweb needs a package that is not installed: {how_to_install('store')}"
        ) from error
    logging.getLogger("dicomweb_client").setLevel(logging.ERROR)
    client = web.DICOMwebClient(server, timeout=(CONNECT, SILENCE))
    client.set_http_retry_params(retry=False)  # `persistently` tries again, and says so
    return client


def series_of(server: str, study: str) -> list[str]:
    """The UIDs of the series of a study.

    Raises:
        StoreError: the server does not give them, or has none.
    """
    client = _client(server)

    def ask() -> list[str]:
        found = client.search_for_series(study, get_remaining=True)
        return [str(one["0020000E"]["Value"][0]) for one in found]

    uids = persistently(f"{server}: study {study} could not be listed", ask)
    if not uids:
        raise StoreError(f"{server}: expected series of study {study}, found none")
    if odd := [uid for uid in uids if re.fullmatch(UID, uid) is None]:
        raise StoreError(f"{server}: expected UIDs of series, found {printable(odd[0])}")
    return sorted(set(uids))


def fetch(series: Series, folder: Path, limit: int | None = None) -> None:
    """Write each image of a series to a file of its own in `folder`, which is there and empty.

    Raises:
        StoreError: the server does not give them, or not all that it lists, or they have more than
            `limit` bytes.
    """
    client = _client(series.server)

    def get() -> None:
        listed = client.search_for_instances(series.study, series.uid, get_remaining=True)
        if not listed:
            raise StoreError(f"{series}: expected images, found none in study {series.study}")
        found = size = 0
        for found, one in enumerate(
            client.iter_series(series.study, series.uid, media_types=ANY_SYNTAX), start=1
        ):
            path = folder / f"{found:06d}.dcm"
            one.save_as(path, enforce_file_format=True)
            size += path.stat().st_size
            require_small(series, size, limit)
        if found != len(listed):
            raise OSError(f"the server lists {len(listed)} images, and sent {found}")

    persistently(f"{series}: could not be read", get)


def store(path: Path, series: Series) -> None:
    """Store a DICOM file in the study of a series.

    Raises:
        StoreError: the server does not take it.
    """
    client = _client(series.server)
    made = importlib.import_module("pydicom").dcmread(path)

    def put() -> None:
        answer = client.store_instances([made], study_instance_uid=series.study)
        taken = {
            str(one.ReferencedSOPInstanceUID) for one in answer.get("ReferencedSOPSequence", [])
        }
        if str(made.SOPInstanceUID) not in taken:
            failed = answer.get("FailedSOPSequence") or [{}]
            reason = failed[0].get("FailureReason", "none")
            raise StoreError(f"{series.server}: the labels are refused (reason {reason})")

    persistently(f"{series.server}: the labels could not be stored", put)
    log.info(
        "%s: stored in study %s as series %s", series.server, series.study, made.SeriesInstanceUID
    )

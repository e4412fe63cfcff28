"""The images that pages have open, and the files that they name or upload."""

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import Request

from swiftmedsam.messages import words_of
from swiftmedsam.scans.session import OpenImage, open_image
from swiftmedsam.server import uploads
from swiftmedsam.server.asked import aside, refusing, text_of, volume_of
from swiftmedsam.server.fields import json_of
from swiftmedsam.server.files import UnknownFileError
from swiftmedsam.server.hub import Held, Hub, Refused
from swiftmedsam.server.opened import Opened
from swiftmedsam.server.page_files import require_inside
from swiftmedsam.server.temporary import remove

log = logging.getLogger(__name__)

IDLE_SECONDS = 12 * 3600.0  # an image stays open over a night, unless others need its place
GONE_SECONDS = 180.0  # without a request of its page, which sends one every half minute

T = TypeVar("T")


@dataclass(eq=False)
class Tab:
    """An image that a page has open."""

    held: Held
    opened: Opened


class Tabs:
    """The images that pages have open. Its methods are called in the event loop."""

    def __init__(self, hub: Hub) -> None:
        self._hub, self._tabs = hub, dict[str, Tab]()

    async def open(self, request: Request) -> Opened:
        """Open the file that a request names or uploads."""
        asked, path, own = await self.file_of(request)
        held = None
        try:
            volume, series = volume_of(asked.get("volume")), text_of(asked.get("series"), "series")
            held = self._hub.claim(idle_seconds=IDLE_SECONDS, spare_seconds=GONE_SECONDS)
            session = await self._hub.open(held, self._opening(path, volume, series))
            folder = None if own else self._folder_of(path)
            window, new = self._hub.window, own or self._hub.temporary.new_folder()
            opened = await aside(Opened, session, path, folder, window, new)
            await self._keep(held, opened)
        except BaseException:
            remove(own)
            if held is not None:
                self._hub.release(held.token)
            raise
        self._tabs[opened.id] = tab = Tab(held, opened)
        held.ended = functools.partial(self._ended, tab)
        return opened

    async def _keep(self, held: Held, opened: Opened) -> None:
        """Keep a journal, if the server keeps any. Without one the image can be used, too."""
        folder = self._hub.journals
        if folder is None:
            return
        try:
            await self._hub.do(held, lambda _: opened.keep(folder))
        except OSError as error:
            log.error("%s: no journal is kept (%s)", opened.name, words_of(error))

    def _opening(
        self, path: Path, volume: int | None, series: str | None
    ) -> Callable[[int], OpenImage]:
        hub = self._hub

        def opening(memory_limit: int) -> OpenImage:
            with refusing():
                return open_image(
                    path, hub.network, modality=hub.modality, window=hub.window, volume=volume,
                    series=series, memory_limit=memory_limit,
                    embeddings_limit=hub.embeddings_limit,
                )  # fmt: skip

        return opening

    def forget(self, tab: Tab) -> None:
        """Close an image."""
        self._hub.release(tab.held.token)  # which calls `_ended`

    def _ended(self, tab: Tab) -> None:
        """Forget an image whose session has ended: its files go, and its journal is closed."""
        self._tabs.pop(tab.opened.id, None)
        tab.opened.close()

    async def file_of(self, request: Request) -> tuple[Mapping[str, Any], Path, Path | None]:
        """What is asked, the path of its file, and the new folder that it was uploaded to."""
        if request.headers.get("content-type", "").partition(";")[0] == "application/json":
            asked = await json_of(request)
            file = text_of(asked.get("file"), "file") or ""
            return asked, await aside(self._found, file), None
        query, own = request.query_params, self._hub.temporary.new_folder()
        receive = uploads.receive_folder if query.get("folder") else uploads.receive_file
        try:
            with refusing(), self._hub.receiving_file():  # the disk may be full
                path = await receive(request, own, query.get("name", ""), self._hub.limits.upload)
        except BaseException:
            remove(own)
            raise
        return query, path, own

    def _found(self, file: str) -> Path:
        """The path of a file that a request names."""
        entry = known(self._hub.files.find, file)
        root = self._hub.files.root
        if file.startswith("root/") and root is not None:
            require_inside(entry.path, root)
        return entry.path

    def _folder_of(self, path: Path) -> Path:
        """The folder that results of a file go to: its own; of a DICOM folder the one above."""
        root, folder = self._hub.files.root, path.parent
        is_below = root is not None and path.is_relative_to(root)
        return path if is_below and root is not None and not folder.is_relative_to(root) else folder

    def of(self, request: Request) -> Tab:
        """The open image that a request names in its path.

        Raises:
            Refused: it is not open, or not any more.
        """
        self._hub.reap()
        tab = self._tabs.get(request.path_params["id"])
        if tab is None:
            raise Refused(404, "this image is not open any more: open it again")
        self._hub.held(tab.held.token)
        return tab


def known(look: Callable[[str], T], file: str) -> T:
    """What `look` finds of that name.

    Raises:
        Refused: there is nothing.
    """
    try:
        return look(file)
    except UnknownFileError as error:
        raise Refused(404, str(error)) from None

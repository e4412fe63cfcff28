"""`swiftmedsam serve [SCAN ...]`: a server for viewers, on this machine."""

import argparse
import contextlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from urllib.parse import quote

import uvicorn

from swiftmedsam import __version__
from swiftmedsam.manifest import WeightsError
from swiftmedsam.memory import SCAN_PROGRAM_BYTES, available_memory, parse_size
from swiftmedsam.messages import one_line, printable
from swiftmedsam.modality import parse_modality
from swiftmedsam.network import Network, load
from swiftmedsam.program.options import (
    add_network,
    add_window,
    seconds_above_0,
    with_window_joined,
)
from swiftmedsam.program.scan_options import add_memory_limit, as_option, natural, positive
from swiftmedsam.program.signals import Stopped, Stopper
from swiftmedsam.scans.orientation import affine_of
from swiftmedsam.server.app import application
from swiftmedsam.server.files import Files
from swiftmedsam.server.guard import is_loopback
from swiftmedsam.server.hub import Hub, Limits
from swiftmedsam.server.temporary import remove_left
from swiftmedsam.urls import local_path

log = logging.getLogger(__name__)

PORT = 1527  # of nnInteractive's server, which its clients know
TOKEN = "SWIFTMEDSAM_TOKEN"  # environment variable: command lines can be read by others
MOST_PORT = 65535
WAITING = 128  # connections that the system may hold until they are accepted
KEEP_ALIVE = 75  # seconds: clients keep connections for longer than uvicorn's 5
SHUTDOWN_SECONDS = 3  # for answers that are under way


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(
        "swiftmedsam serve",
        description="Serve viewers on this machine: draw a box, see the mask. 3D Slicer "
        "(extensions nnInteractive and MONAI Label) and napari (plugin napari-nninteractive) "
        "connect to the printed address.",
        epilog="Exit status: 143 or 130 when stopped by SIGTERM or SIGINT (Ctrl-C), 1 when it "
        "cannot start, 2 on wrong usage.",
    )
    made.add_argument(
        "scans", nargs="*", type=as_option(local_path), metavar="SCAN",
        help="files or DICOM folders that may be opened from here",
    )  # fmt: skip
    made.add_argument(
        "--root", type=as_option(local_path), metavar="DIR",
        help="a folder whose files may be opened",
    )  # fmt: skip
    made.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS",
        help="address to listen on; one that other machines reach needs a token (default "
        "127.0.0.1, this machine alone)",
    )  # fmt: skip
    made.add_argument(
        "--port", type=natural, default=PORT, help=f"default {PORT}; 0: any that is free"
    )
    made.add_argument(
        "--token", metavar="WORD",
        help="a secret that every request must have (default: the environment variable "
        f"{TOKEN}, if set)",
    )  # fmt: skip
    made.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME",
        help="another name by which this machine is reached; may be repeated",
    )  # fmt: skip
    limits = Limits(0)
    made.add_argument(
        "--sessions", type=positive, default=limits.sessions, metavar="N",
        help=f"images that clients may have open at a time (default {limits.sessions})",
    )  # fmt: skip
    made.add_argument(
        "--idle-timeout", type=seconds_above_0, default=limits.idle_seconds, metavar="SECONDS",
        help="close an image of 3D Slicer or napari that nobody used for so long (default "
        f"{limits.idle_seconds:g}); the page's stay open for 12 hours",
    )  # fmt: skip
    made.add_argument(
        "--liveness-timeout", type=seconds_above_0, default=limits.liveness_seconds,
        metavar="SECONDS",
        help="close the image of a client whose heartbeat stopped for so long (default "
        f"{limits.liveness_seconds:g})",
    )  # fmt: skip
    made.add_argument(
        "--answer-timeout", type=seconds_above_0, default=limits.answer_seconds, metavar="SECONDS",
        help="follow an object no longer than this, and answer with what was found; viewers wait "
        f"a minute (default {limits.answer_seconds:g})",
    )  # fmt: skip
    made.add_argument(
        "--max-upload", type=as_option(parse_size), default=limits.upload, metavar="SIZE",
        help="largest request (default 2G)",
    )  # fmt: skip
    journal = made.add_mutually_exclusive_group()
    journal.add_argument(
        "--journal", type=as_option(local_path), default=None, metavar="DIR",
        help="folder for objects that are not saved yet, so that they come back if the server is "
        "killed (default ~/.local/state/swiftmedsam)",
    )  # fmt: skip
    journal.add_argument("--no-journal", action="store_true", help="keep no such objects")
    add_network(made)
    add_window(made)
    made.add_argument(
        "--modality", type=as_option(parse_modality), metavar="NAME",
        help="CT, MR, ... of all images (default: from the file, else guessed from the values)",
    )  # fmt: skip
    made.add_argument(
        "--directions", type=as_option(parse_directions), default="LPS", metavar="LETTERS",
        help="where the axes i, j, k of arrays that 3D Slicer and napari send run to; they do not "
        "say it (default LPS, as in DICOM; many NIfTI files are stored as RAS or LAS)",
    )  # fmt: skip
    add_memory_limit(made)
    words = made.add_mutually_exclusive_group()
    words.add_argument("--verbose", action="store_true", help="also show each request")
    words.add_argument("--quiet", action="store_true", help="only the address and errors")
    made.add_argument("--version", action="version", version=f"SwiftMedSAM {__version__}")
    return made


def parse_directions(text: str) -> str:
    """Check three letters like LPS; return them in capitals.

    Raises:
        ValueError: it is not.
    """
    affine_of(text)
    return text.upper()


def state_folder() -> Path:
    """The folder for what programs of this user keep between two runs (XDG)."""
    given = os.environ.get("XDG_STATE_HOME", "")
    home = Path(given) if Path(given).is_absolute() else Path.home() / ".local" / "state"
    return home / "swiftmedsam"


class UsageError(ValueError):
    """The command cannot be run as it was given; the message says why."""


def checked(options: argparse.Namespace) -> None:
    """Check what the parser cannot.

    Raises:
        UsageError: something is missing or wrong.
    """
    if options.token is None:
        options.token = os.environ.get(TOKEN, "")
    if not options.token.isascii() or any(c.isspace() for c in options.token):
        raise UsageError("--token should be letters and digits without spaces")
    if not options.token and not is_loopback(options.host):
        raise UsageError(
            f"--host {printable(options.host)}: other machines may reach this address, so it needs "
            f"--token, or the environment variable {TOKEN}"
        )
    if options.port > MOST_PORT:
        raise UsageError(f"--port should be at most {MOST_PORT}, got {options.port}")
    for path in options.scans:
        if not path.exists():
            raise UsageError(f"{printable(str(path))}: expected a file or folder, found none")
    if options.root is not None and not options.root.is_dir():
        raise UsageError(f"--root {printable(str(options.root))}: expected a folder, found none")
    if options.journal is None and not options.no_journal:
        options.journal = state_folder()
    limit = available_memory() if options.memory_limit is None else options.memory_limit
    if limit < SCAN_PROGRAM_BYTES:
        needed = SCAN_PROGRAM_BYTES / 1e9
        raise UsageError(f"--memory-limit should be at least {needed:.1f} GB, the program's own")
    options.memory_limit = limit


def hub_of(options: argparse.Namespace, network: Network) -> Hub:
    """The server's state, by the checked options."""
    limits = Limits(
        memory=options.memory_limit, sessions=options.sessions, upload=options.max_upload,
        idle_seconds=options.idle_timeout, liveness_seconds=options.liveness_timeout,
        answer_seconds=options.answer_timeout,
    )  # fmt: skip
    modality = options.modality.name if options.modality else ""
    return Hub(
        network, limits, Files(options.scans, options.root), modality=modality,
        window=options.window, directions=options.directions, journals=options.journal,
    )  # fmt: skip


class Server(uvicorn.Server):
    """uvicorn's server. A signal also ends what the worker is doing."""

    def __init__(self, config: uvicorn.Config, hub: Hub) -> None:
        super().__init__(config)
        self._hub = hub
        self.failed = False  # the network cannot be loaded

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal."""
        self._hub.end()
        super().handle_exit(sig, frame)

    def watch(self, network: Network) -> None:
        """End the server if the network cannot be loaded."""
        try:
            network.wait()
        except WeightsError as error:
            log.error("%s", error)
            self.failed = True
            self._hub.end()
            self.should_exit = True


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        OSError: the address is unknown, or the port is in use.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    made = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere it would let two servers share a port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(WAITING)
    except OSError:
        made.close()
        raise
    return made


def address_of(made: socket.socket, host: str, token: str) -> str:
    """The URL to type into a browser of this machine."""
    port = made.getsockname()[1]
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}/" + (f"?token={quote(token)}" if token else "")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal comes; return the exit status."""
    made = parser()
    options = made.parse_args(with_window_joined(sys.argv[1:] if argv is None else argv))
    level = logging.DEBUG if options.verbose else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("swiftmedsam").setLevel(logging.ERROR if options.quiet else level)
    logging.getLogger("swiftmedsam.display").setLevel(logging.WARNING)
    # clients mean boxes of one slice, so nobody needs to be warned of them
    logging.getLogger("swiftmedsam.scans.boxes").setLevel(logging.ERROR)
    try:
        checked(options)
    except UsageError as error:
        made.error(str(error))
    with Stopper() as stopper:
        try:
            with stopper.raising():
                return _serve(options, stopper)
        except Stopped:
            return stopper.status or 0


def _serve(options: argparse.Namespace, stopper: Stopper) -> int:
    try:
        sock = listening(options.host, options.port)
    except OSError as error:
        where = f"{printable(options.host)}:{options.port}"
        log.error("%s: cannot listen there (%s)", where, one_line(error))
        return 1
    with contextlib.closing(sock):
        if left := remove_left():
            log.info("removed what %d servers that were killed had received", left)
        try:
            network = load(
                options.weights, precision=options.precision, threads=options.threads, wait=False
            )
        except WeightsError as error:
            log.error("%s", error)
            return 1
        log.info("%s", network)
        hub = hub_of(options, network)
        app = application(hub, token=options.token, hosts=[options.host, *options.allow_host])
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, ws="none",
            loop="asyncio", http="h11", lifespan="on", timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS, proxy_headers=False,
        )  # fmt: skip
        server = Server(config, hub)
        threading.Thread(target=server.watch, args=[network], daemon=True).start()
        print(address_of(sock, options.host, options.token), flush=True)
        log.info("for 3D Slicer (nnInteractive, MONAI Label) and napari, too; Ctrl-C ends it")
        server.run(sockets=[sock])
        if server.failed:
            return 1
        return stopper.status or 0

"""The options of the program: `python -m app`, or `swiftmedsam`."""

import argparse
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from swiftmedsam import __version__
from swiftmedsam.cpu import AUTO, PRECISIONS
from swiftmedsam.display import DEFAULT_WINDOW, WINDOWS, parse_window
from swiftmedsam.memory import parse_size
from swiftmedsam.network import Network
from swiftmedsam.program.parts import add_part, set_part
from swiftmedsam.program.scan_options import (
    add_memory_limit,
    add_scan_options,
    as_option,
    natural,
    positive,
)
from swiftmedsam.settings import BEST, MODES, Settings
from swiftmedsam.urls import local_path, place

INPUTS = Path("/workspace/inputs")
OUTPUTS = Path("/workspace/outputs")
DEFAULT_MODE, OLD_MODE = "best", "exact"


def _glob(text: str) -> str:
    if Path(text) == Path():  # "" and ".": pathlib does not accept them as patterns
        found = f"'{text}'" if text else "nothing"
        raise argparse.ArgumentTypeError(f"expected a pattern like '3D*', got {found}")
    return text


def seconds_above_0(text: str) -> float:
    """The value of an option that is a time."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got '{text}'")
    return seconds


def add_network(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the network, and how it is run."""
    parser.add_argument(
        "--weights", type=as_option(local_path), metavar="DIR",
        help="a folder with a manifest.json",
    )  # fmt: skip
    parser.add_argument(
        "--precision", choices=(AUTO, *PRECISIONS), default=AUTO,
        help=f"type of the arithmetic (default {AUTO}: the fastest that suits this CPU)",
    )  # fmt: skip
    parser.add_argument("--threads", type=positive, help="default: all this process may use")


def add_cache(parser: argparse.ArgumentParser) -> None:
    """Add the options for URLs."""
    group = parser.add_argument_group(
        "files in stores",
        "INPUTS, OUTPUTS, --boxes and --boxes-from may be URLs: s3://, gs://, az://; to read, also "
        "https:// and http://",
    )
    group.add_argument(
        "--dicomweb", metavar="URL",
        help="of a DICOMweb server: segment the series --series of the study --study, or those "
        "that --boxes name by UID, and store the segmentations there; the only positional argument "
        "is then OUTPUTS, to write them instead",
    )  # fmt: skip
    group.add_argument("--study", metavar="UID", help="StudyInstanceUID, for --dicomweb")
    group.add_argument(
        "--cache", type=as_option(local_path), metavar="DIR",
        help="where the files of a case are while it runs (default: the system's folder for "
        "temporary files)",
    )  # fmt: skip
    group.add_argument(
        "--cache-size", type=as_option(parse_size), metavar="SIZE",
        help="refuse a case whose inputs are larger than SIZE, like 8G (default: what fits there)",
    )  # fmt: skip


def add_window(parser: argparse.ArgumentParser) -> None:
    """Add --window; its value is a `display.Window`."""
    parser.add_argument(
        "--window", type=as_option(parse_window), default=DEFAULT_WINDOW,
        help=f"for CT in Hounsfield units: {', '.join(WINDOWS)} or LEVEL,WIDTH (default soft)",
    )  # fmt: skip


def _parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        command,
        description="Segment every 2DBox_*.npz and 3DBox_*.npz of a folder.",
        epilog="Exit status: 0 when every case was written, 1 when one was not, 2 on wrong usage, "
        "143 or 130 when stopped by SIGTERM or SIGINT.",
    )
    parser.add_argument(
        "inputs", nargs="?", type=as_option(place), default=INPUTS,
        help=f"a folder or file, or the URL of one (default {INPUTS})",
    )  # fmt: skip
    parser.add_argument(
        "outputs", nargs="?", type=as_option(place),
        help=f"a folder, or the URL of one (default {OUTPUTS})",
    )  # fmt: skip
    add_network(parser)
    parser.add_argument(
        "--mode", choices=MODES, default=DEFAULT_MODE,
        help=f"litemedsam follows LiteMedSAM's rules; {OLD_MODE} is its old name "
        f"(default {DEFAULT_MODE})",
    )  # fmt: skip
    parser.add_argument(
        "--crops", type=natural, metavar="N",
        help="show small boxes in at most N enlarged crops of a slice, in mode best (default "
        f"{BEST.image_crops}, of a volume {BEST.volume_crops})",
    )  # fmt: skip
    parser.add_argument(
        "--step", type=positive, metavar="K",
        help="decode every K-th slice of a box and interpolate the others (default in mode best: "
        f"the largest of 1 to {BEST.most_step} that leaves {BEST.least_decoded} slices; in mode "
        "litemedsam: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=seconds_above_0, metavar="SECONDS",
        help="give up a case that takes longer, between two boxes (default: never)",
    )  # fmt: skip
    add_memory_limit(parser)
    parser.add_argument(
        "--only", type=_glob, metavar="GLOB", default="*", help="file names to segment"
    )
    add_window(parser)
    parser.add_argument(
        "--failures", type=as_option(local_path), metavar="FILE",
        help="write a JSON list of the failed cases, each with its file and message",
    )  # fmt: skip
    parser.add_argument(
        "--log", type=as_option(local_path), metavar="FILE",
        help="write what becomes of each case, a JSON object a line, while the run goes on",
    )  # fmt: skip
    add_part(parser)
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument(
        "--overwrite", action="store_true",
        help="replace outputs (default; for scans, except files that this program did not write "
        "and that OUTPUTS does not name)",
    )  # fmt: skip
    existing.add_argument("--skip-existing", action="store_true", help="keep existing outputs")
    words = parser.add_mutually_exclusive_group()
    words.add_argument(
        "--verbose", action="store_true",
        help="also show what each file holds, and where an unforeseen error arose",
    )  # fmt: skip
    words.add_argument("--quiet", action="store_true", help="only warnings and errors")
    add_scan_options(parser)
    add_cache(parser)
    parser.add_argument("--version", action="version", version=f"SwiftMedSAM {__version__}")
    parser.set_defaults(address=None)  # of a cluster: an option of `swiftmedsam fleet`
    return parser


def with_window_joined(argv: Sequence[str]) -> list[str]:
    """Join `--window -600,1500` to one word: argparse would take a negative level for an option."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] == "--window":
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def parse(
    argv: Sequence[str],
    command: str,
    add_more: Callable[[argparse.ArgumentParser], None] = lambda _: None,
) -> argparse.Namespace:
    """Parse the arguments `argv` of `command`; `add_more` adds options of its own.

    Raises:
        SystemExit: they are wrong, or ask for help; the message was printed.
    """
    parser = _parser(command)
    add_more(parser)
    options = parser.parse_args(with_window_joined(argv))
    set_part(parser, options)
    if why := _wrong_dicomweb(options):
        parser.error(why)
    if options.part is not None:
        for name in ("failures", "stats", "log"):  # each part has its own
            if (path := getattr(options, name)) is not None:
                setattr(options, name, options.part.file(path))
    return options


def _wrong_dicomweb(options: argparse.Namespace) -> str:
    """Why the options for DICOMweb cannot be used; "" if they can. It puts OUTPUTS in its place."""
    if options.dicomweb is None:
        return "" if options.study is None else "argument --study: is for --dicomweb, not given"
    if re.fullmatch("https?://[^@]+", options.dicomweb) is None:
        return "argument --dicomweb: expected http:// or https://, without a password in it"
    for name in ("study", "series"):
        uid = getattr(options, name)
        if name == "series" and uid is None and options.boxes and not options.box:
            continue  # the boxes name them
        if uid is None or re.fullmatch(r"[0-9.]{1,64}", uid) is None or ".." in uid:
            more = ", or --boxes alone that name series" if name == "series" else ""
            return f"argument --{name}: --dicomweb expects a UID{more}, got {uid or 'none'}"
    if options.outputs is not None:
        return "argument --dicomweb: expected OUTPUTS alone, got INPUTS and OUTPUTS"
    options.outputs = None if options.inputs is INPUTS else options.inputs
    if options.skip_existing and options.outputs is None:
        return "argument --skip-existing: without OUTPUTS, a server keeps every segmentation"
    options.dicomweb = options.dicomweb.rstrip("/")
    return ""


def chosen_settings(options: argparse.Namespace, network: Network) -> Settings:
    """The settings that the options choose; mode best uses those of the network's weights."""
    if options.mode != DEFAULT_MODE:
        settings = MODES[options.mode]
    else:
        settings = network.settings
        if options.crops is not None:
            settings = replace(settings, image_crops=options.crops, volume_crops=options.crops)
    return settings if options.step is None else replace(settings, step=options.step)

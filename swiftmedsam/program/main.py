"""`swiftmedsam [INPUTS] [OUTPUTS]`, also `python -m app`: segment every case of a folder."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from swiftmedsam.manifest import WeightsError
from swiftmedsam.network import Network, load
from swiftmedsam.program.options import OLD_MODE, parse
from swiftmedsam.program.progress import CLEAR_LINE

log = logging.getLogger(__name__)


def start_logging(options: argparse.Namespace) -> bool:
    """Let messages go to stderr, as the options say; return whether a progress bar is wanted."""
    level = logging.WARNING if options.quiet else logging.INFO
    if sys.stderr is None:  # the parent process closed it; messages go nowhere then
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    on_terminal = sys.stderr.isatty()
    line_format = f"{CLEAR_LINE if on_terminal else ''}%(message)s"  # a message replaces the bar
    logging.basicConfig(level=level, format=line_format, stream=sys.stderr)
    logging.getLogger("swiftmedsam.display").setLevel(level if options.verbose else logging.WARNING)
    logging.getLogger("swiftmedsam.program.jobs").setLevel(
        logging.DEBUG if options.verbose else level
    )
    if options.mode == OLD_MODE:
        log.warning("--mode %s is called litemedsam now; the old name goes in 0.3", OLD_MODE)
    return on_terminal and not options.quiet


def begin_to_load(options: argparse.Namespace) -> Network | WeightsError:
    """The network, which loads in threads of its own, or why it cannot be loaded."""
    try:
        return load(
            options.weights, precision=options.precision, threads=options.threads, wait=False
        )
    except WeightsError as error:
        return error


def main(argv: Sequence[str] | None = None, command: str = "python -m app") -> int:
    """Run the program; return its exit status. `command` is its name in help and messages."""
    options = parse(sys.argv[1:] if argv is None else argv, command)
    show_bar = start_logging(options)
    network = None if options.dry_run else begin_to_load(options)
    # imported here: meanwhile the network loads, which takes the longest of a run with one image
    from swiftmedsam.program.run import run_all

    return run_all(options, network, show_bar=show_bar)

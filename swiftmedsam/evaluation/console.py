"""What the commands of this folder share: arguments, a counter, tables, colours of plots."""

import argparse
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from swiftmedsam.extras import how_to_install
from swiftmedsam.system import available_threads

# The colours of Okabe and Ito: colour-blind people can tell them apart.
BLUE, VERMILION, GREEN = "#0072b2", "#d55e00", "#009e73"
PURPLE, ORANGE, SKY_BLUE = "#cc79a7", "#e69f00", "#56b4e9"

PICTURES = (".png", ".jpg", ".jpeg", ".svg", ".pdf")


def positive(text: str) -> int:
    """Parse a whole number above 0.

    Raises:
        argparse.ArgumentTypeError: `text` is not such a number.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got '{text}'")
    return int(text)


def picture(text: str) -> Path:
    """Parse the name of a picture to write, and check it before the work begins.

    Raises:
        argparse.ArgumentTypeError: matplotlib is not installed, the folder does not exist, or the
            suffix is not that of a picture.
    """
    path = Path(text)
    if importlib.util.find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError(f"needs matplotlib: {how_to_install('evaluate')}")
    if path.suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(PICTURES)}, got '{text}'")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    return path


def parse_before_dashes(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, list[str]]:
    """Return the options, and the words after the first `--`, which are for `python -m app`."""
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    return parser.parse_args(words[:end]), words[end + 1 :]


def add_shared_options(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add --only and --processes; `verb` says what the command does to files."""
    parser.add_argument("--only", metavar="GLOB", default="*", help=f"{verb} these files alone")
    parser.add_argument(
        "--processes", type=positive, default=available_threads(),
        help="cases scored at a time (default: one per CPU that this process may use)",
    )  # fmt: skip


def clear_line() -> str:
    """Return the text that clears the line of the counter; "" without a terminal."""
    return "\r\033[K" if sys.stderr.isatty() else ""


def progress(things: str = "cases") -> Callable[[int, int], None] | None:
    """Return a function that shows a counter (done, all) on a terminal; None without a terminal."""

    def show(done: int, total: int) -> None:
        sys.stderr.write(clear_line() + (f"{done}/{total} {things}" if done < total else ""))
        sys.stderr.flush()

    return show if sys.stderr.isatty() else None


def print_missing(folder: Path, missing: Sequence[str], cases: int) -> None:
    """Print the names of cases without output, if there are any."""
    if missing:
        print(f"\n{len(missing)} of {cases} outputs missing in {folder}, counted as 0:")
        print("\n".join(f"  {name}" for name in missing))


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows, the first one the header, in aligned columns: words left, numbers right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)

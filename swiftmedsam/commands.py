"""The command `swiftmedsam`: it segments files, or runs one of the subcommands below."""

import sys
from collections.abc import Sequence
from importlib import import_module

from swiftmedsam.extras import how_to_install
from swiftmedsam.program import signals
from swiftmedsam.system import one_blas_thread

# For each subcommand: its module, and the extra that installs its packages.
COMMANDS = {
    "cases": ("swiftmedsam.program.cases", "scans"),
    "convert": ("swiftmedsam.convert.__main__", "convert"),
    "evaluate": ("swiftmedsam.evaluation.__main__", "evaluate"),
    "fleet": ("swiftmedsam.fleet.__main__", "fleet"),
    "merge": ("swiftmedsam.program.merge", "scans"),
    "serve": ("swiftmedsam.server.serve", "server"),
    "train": ("swiftmedsam.train.__main__", "train"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand of `COMMANDS`, or else segment files; return the exit status.

    A folder that has the name of a subcommand can be given as `./train`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in COMMANDS:
        signals.end_at_once()  # while the modules below are loaded
        one_blas_thread()
        from swiftmedsam.program.main import main as segment_files

        return segment_files(words, "swiftmedsam")
    module, extra = COMMANDS[words[0]]
    try:
        command = import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "swiftmedsam").startswith("swiftmedsam"):
            raise  # a module of our own is missing: no extra would install it
        print(
            f"swiftmedsam {words[0]}: needs {error.name}, which is not installed: "
            f"{how_to_install(extra)}",
            file=sys.stderr,
        )
        return 1
    status: int = command.main(words[1:])
    return status

"""What the user called a command, for its line of usage."""

import sys
from pathlib import Path

COMMAND = "swiftmedsam"


def invoked(module: str) -> str:
    """`swiftmedsam` and the command's name, as `swiftmedsam.commands` noted it; else the module."""
    name = Path(sys.argv[0]).name
    return name if name.split(" ")[0] == COMMAND else f"python -m {module}"

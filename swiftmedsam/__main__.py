"""`python -m swiftmedsam`: the command `swiftmedsam`."""

from swiftmedsam.commands import main
from swiftmedsam.program import signals

if __name__ == "__main__":
    signals.leave(main())

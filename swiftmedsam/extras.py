"""Extras: packages that only parts of the library need, and the command that installs them."""

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
# For each extra, the files that list its packages; pyproject.toml names the same files.
EXTRAS = {
    "az": ("requirements-store.txt", "requirements-az.txt"),
    "convert": ("requirements-torch.txt", "requirements-convert.txt"),
    "evaluate": ("requirements-evaluate.txt",),
    "fleet": ("requirements-fleet.txt",),
    "gs": ("requirements-store.txt", "requirements-gs.txt"),
    "scans": ("requirements-scans.txt",),
    "server": ("requirements-scans.txt", "requirements-server.txt"),
    "store": ("requirements-store.txt",),
    "train": ("requirements-torch.txt", "requirements-train.txt"),
}


def how_to_install(extra: str) -> str:
    """The command that installs an extra: from its files in a checkout, otherwise by its name."""
    files = EXTRAS[extra]
    if all((CHECKOUT / file).is_file() for file in files):
        return " ".join(["pip install", *(f"-r {file}" for file in files)])
    return f"pip install 'swiftmedsam[{extra}]'"

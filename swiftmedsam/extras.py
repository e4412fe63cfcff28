"""Packages that only parts of the library need, and how to install them."""

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
# Of each extra, the files that list its packages; pyproject.toml names the same.
EXTRAS = {
    "convert": ("requirements-torch.txt", "requirements-convert.txt"),
    "evaluate": ("requirements-evaluate.txt",),
    "scans": ("requirements-scans.txt",),
    "train": ("requirements-torch.txt", "requirements-train.txt"),
}


def how_to_install(extra: str) -> str:
    """The command that installs an extra: by its name, or in a checkout by its files."""
    files = EXTRAS[extra]
    if all((CHECKOUT / file).is_file() for file in files):
        return " ".join(["pip install", *(f"-r {file}" for file in files)])
    return f"pip install 'swiftmedsam[{extra}]'"

"""Checks a weights folder: its manifest, the sha256 of its files, and its settings."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swiftmedsam.cpu import AUTO_PRECISIONS, INSTRUCTION_SETS, PRECISIONS
from swiftmedsam.settings import BEST, Settings, changed

HERE = Path(__file__).resolve().parent
# A wheel has the weights in the package, a checkout has them beside it.
INSTALLED_WEIGHTS = HERE / "weights"
WEIGHTS = INSTALLED_WEIGHTS if INSTALLED_WEIGHTS.is_dir() else HERE.parent / "weights"
DEFAULT_FILE = "DEFAULT"  # a file in WEIGHTS that holds the name of the default folder
MANIFEST = "manifest.json"
MANIFEST_FORMAT = 2  # 1: the decoder took an embedding (1, C, 64, 64) and no cells
PARTS = ("encoder", "decoder")
MANY = "decoder_many"  # a further part, which not all networks have: the decoder for many boxes


def parts_of(models: Mapping[str, Any]) -> list[str]:
    """The parts of a network whose `models`, of one precision, a manifest has."""
    return [*PARTS, *([MANY] if MANY in models else [])]


class WeightsError(ValueError):
    """A weights folder cannot be used; the message names the file and the fault."""


def default_weights() -> Path:
    """The folder that `weights/DEFAULT` names.

    Raises:
        WeightsError: `weights/DEFAULT` cannot be read.
    """
    try:
        return WEIGHTS / (WEIGHTS / DEFAULT_FILE).read_text().strip()
    except OSError as error:
        raise WeightsError(f"{WEIGHTS}: no default weights ({error.strerror})") from error


def _how_to(folder: Path) -> str:
    """The command that converts the checkpoint in `folder`; "" if there is no checkpoint."""
    for checkpoint in sorted(folder.glob("*.safetensors")):
        command = f"python -m convert {checkpoint} --variant {checkpoint.stem} --out {folder}"
        return f"; make them with: {command}"
    return ""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a weights folder.

    Raises:
        WeightsError: the manifest is missing, not JSON, of another format, or incomplete.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except OSError as error:
        raise WeightsError(
            f"{path}: no weights here ({error.strerror}){_how_to(folder)}"
        ) from error
    except ValueError as error:
        raise WeightsError(f"{path}: not JSON ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != MANIFEST_FORMAT:
        raise WeightsError(f"{path}: expected a manifest of format {MANIFEST_FORMAT}")
    for key in ("variant", "models"):
        if key not in manifest:
            raise WeightsError(f"{path}: key '{key}' is missing")
    for kind, parts in manifest["models"].items():
        for part in parts_of(parts):
            if not any(name.endswith(".xml") for name in parts.get(part, ())):
                raise WeightsError(f"{path}: 'models' has no {part} .xml for {kind}")
    return manifest


def sha256_of(content: bytes) -> str:
    """The sha256 of a file's content, in hexadecimal digits, as manifests have it."""
    return hashlib.sha256(content).hexdigest()


def verified(folder: Path, name: str, sha256: str) -> Path:
    """The path of a file of a weights folder, after its sha256 was checked.

    Raises:
        WeightsError: the file cannot be read, or its content is not that of the manifest.
    """
    path = folder / name
    try:
        with path.open("rb") as file:
            found = sha256_of(file.read())
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    if found != sha256:
        raise WeightsError(f"{path}: sha256 is {found}, the manifest says {sha256}")
    return path


def settings_of(folder: Path, manifest: dict[str, Any]) -> Settings:
    """The settings that suit the weights: `BEST`, changed by the manifest's 'settings'.

    Raises:
        WeightsError: 'settings' is no object, or has an unknown key or a wrong value.
    """
    values = manifest.get("settings", {})
    if not isinstance(values, dict):
        raise WeightsError(f"{folder / MANIFEST}: 'settings' should be an object, got {values!r}")
    try:
        return changed(BEST, values)
    except ValueError as error:
        raise WeightsError(f"{folder / MANIFEST}: 'settings': {error}") from error


def auto_of(folder: Path, manifest: dict[str, Any]) -> dict[str, str]:
    """The table of `cpu.auto_precision` for the weights: the manifest's 'auto', or the usual one.

    Raises:
        WeightsError: 'auto' is no object, or has an unknown flag or precision.
    """
    table: Any = manifest.get("auto", AUTO_PRECISIONS)
    flags = set().union(*INSTRUCTION_SETS.values())
    known = isinstance(table, dict) and table.keys() <= flags
    if not known or not all(name in list(PRECISIONS) for name in table.values()):
        raise WeightsError(
            f"{folder / MANIFEST}: 'auto' should name one of {', '.join(PRECISIONS)} for flags of "
            f"CPUs such as avx512bw, got {table!r}"
        )
    return dict(table)

"""Recognises unchanged files of this program: only these may be replaced without being named.

Each kind of file is recognised in its own way:

    labels with a JSON of names    by their sha256 in the JSON
    .seg.nrrd                      by a comment with the sha256 of the rest
    DICOM files                    by ManufacturerModelName, which other programs replace
    picture of a box               by its text "Software"
"""

import hashlib
import json
import re
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swiftmedsam import __version__
from swiftmedsam.manifest import sha256_of

PROGRAM = f"SwiftMedSAM {__version__}"
FILES = "files"  # key of the JSON: sha256 by name
BLOCK = 1 << 20  # bytes that are read at a time
# NRRD: comments begin with # and may be anywhere in the header, after the first line (magic)
SEAL = re.compile(rb"# SwiftMedSAM \S+ sha256 ([0-9a-f]{64})\n")
# DICOM PS3.5 7.1: (0008,1090) Manufacturer's Model Name, LO, in little endian: explicit, as in a
# segmentation, and implicit, as in a structure set
MODEL_NAMES = (
    b"\x08\x00\x90\x10LO\x0c\x00SwiftMedSAM ", b"\x08\x00\x90\x10\x0c\x00\x00\x00SwiftMedSAM "
)  # fmt: skip
HEADER_BYTES = 1 << 16  # the first bytes of a file, which contain one of MODEL_NAMES if it is there
PNG_HEADER = 33  # bytes: signature and IHDR
SOFTWARE = b"Software\0SwiftMedSAM "  # PNG specification, 11.3.4.2 and 11.3.4.3


def digests(contents: Mapping[Path, bytes]) -> dict[str, str]:
    """The sha256 of each content by its file name, for the JSON of names."""
    return {path.name: sha256_of(content) for path, content in contents.items()}


def sealed(nrrd: bytes) -> bytes:
    """A NRRD file with a comment that has this program's name and the file's sha256."""
    magic, _, rest = nrrd.partition(b"\n")
    digest = sha256_of(nrrd)
    return magic + f"\n# {PROGRAM} sha256 {digest}\n".encode() + rest


def signed(png: bytes) -> bytes:
    """A PNG with this program's name in its text "Software"."""
    text = b"tEXt" + SOFTWARE + __version__.encode()
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    return png[:PNG_HEADER] + chunk + png[PNG_HEADER:]


def is_own(path: Path, names: Path | None = None) -> bool:
    """Whether this program wrote the file at `path`; `names` is the JSON beside labels.

    Raises:
        OSError: the file cannot be read.
    """
    if names is not None:
        known = _known(names)
        return bool(known) if path == names else known.get(path.name) == _sha256(path)
    with path.open("rb") as stream:
        start = stream.read(HEADER_BYTES)
    if start.startswith(b"NRRD"):
        return _is_sealed(path.read_bytes())
    return any(name in start for name in MODEL_NAMES) or start[PNG_HEADER + 8 :].startswith(
        SOFTWARE
    )


def _known(names: Path) -> dict[str, Any]:
    """The digests in a JSON of names; {} if this program did not write it."""
    try:
        content = json.loads(names.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    known = content.get(FILES) if isinstance(content, dict) else None
    return known if isinstance(known, dict) else {}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _is_sealed(content: bytes) -> bool:
    magic, _, rest = content.partition(b"\n")
    seal = SEAL.match(rest)
    if seal is None:
        return False
    found = sha256_of(magic + b"\n" + rest[seal.end() :])
    return found == seal[1].decode()

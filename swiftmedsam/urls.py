"""URLs of files in stores, and the local paths that stand for them.

A run with URLs has a folder of its own, its mirror. There `s3://bucket/a/b.npz` is
`MIRROR/s3/bucket/a/b.npz`. So all code that plans and segments knows paths alone, and a path says
which URL it stands for.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

READ_ONLY = ("http", "https")
SCHEMES = ("s3", "gs", "az", *READ_ONLY)
DICOMWEB = "dicomweb"  # in a mirror: what lies on a DICOMweb server
MIRROR = "swiftmedsam-store-"  # how the name of a mirror begins; tempfile adds to it
URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # one letter is a drive of Windows


@dataclass(frozen=True)
class Url:
    """A file or folder in a store."""

    text: str  # as it was given, without the slash at its end
    scheme: str
    host: str  # of http; else the bucket
    parts: tuple[str, ...]  # of the path, decoded
    is_folder: bool = False  # whether the text ended in a slash

    def __str__(self) -> str:
        """The URL without a query, which may hold a signature."""
        return "/".join([f"{self.scheme}://{self.host}", *self.parts])

    @property
    def parent(self) -> "Url":
        """The folder that it is in."""
        text = self.text.partition("?")[0].rpartition("/")[0]
        return Url(text, self.scheme, self.host, self.parts[:-1], is_folder=True)

    def __truediv__(self, name: str) -> "Url":
        """The file `name` in this folder."""
        return Url(f"{self.text}/{name}", self.scheme, self.host, (*self.parts, name))

    def below(self, mirror: Path) -> Path:
        """The path in `mirror` that stands for it."""
        return mirror.joinpath(self.scheme, self.host, *self.parts)


def parse_url(text: str) -> Url | None:
    """The URL that a text is; None if it is a path.

    Raises:
        ValueError: it is a URL that cannot be used; the message says why.
    """
    match = URL.match(text)
    if match is None:
        return None
    scheme = match[1].lower()
    if scheme not in SCHEMES:
        expected = ", ".join(f"{one}://" for one in SCHEMES)
        raise ValueError(f"expected a path or {expected}, got '{scheme}://'")
    if scheme in READ_ONLY:
        split = urlsplit(text)
        host, path = split.netloc, split.path
        if "@" in host:
            raise ValueError("expected a URL without a password in it")
        parts = [unquote(part) for part in path.split("/")]
    else:  # a key may hold every character
        host, _, path = text[match.end() :].partition("/")
        parts = path.split("/")
    is_folder = path.endswith("/") or not path
    names = tuple(parts[1:] if scheme in READ_ONLY else parts)
    names = names[:-1] if names and not names[-1] else names
    shown = f"{scheme}://{host}/{'/'.join(names)}"
    if not host or host in (".", "..") or not all(is_name(name) for name in names):
        raise ValueError(f"expected SCHEME://BUCKET/FOLDER, got '{shown}'")
    return Url(text.rstrip("/"), scheme, host, names, is_folder)


def is_name(part: str) -> bool:
    """Whether a part of a key can be the name of a local file."""
    return part not in ("", ".", "..") and "/" not in part and "\0" not in part


def place(text: str) -> Path | Url:
    """The path or URL that a text is.

    Raises:
        ValueError: it is a URL that cannot be used.
    """
    return parse_url(text) or Path(text)


def local_path(text: str) -> Path:
    """The path that a text is.

    Raises:
        ValueError: it is a URL.
    """
    if URL.match(text):
        raise ValueError(
            f"expected a file or folder of this machine, got '{text.partition('?')[0]}'"
        )
    return Path(text)


def url_of(path: Path) -> str | None:
    """The URL that a path in a mirror stands for, without a query; None of any other path."""
    parts = path.parts
    for at, part in enumerate(parts[:-2]):
        if part.startswith(MIRROR) and parts[at + 1] in (*SCHEMES, DICOMWEB):
            return f"{parts[at + 1]}://{'/'.join(parts[at + 2 :])}"
    return None


def stored_at(path: Path) -> Url | None:
    """The URL that a path in a mirror stands for; None of any other path, and of DICOMweb."""
    text = url_of(path)
    if text is None or text.startswith(DICOMWEB):
        return None
    scheme, _, rest = text.partition("://")
    host, *names = rest.split("/")
    return Url(text, scheme, host, tuple(names))


def shown(path: Path) -> str:
    """A path for a message: the URL if it stands for one."""
    return url_of(path) or str(path)

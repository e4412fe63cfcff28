"""Catches messages that libraries write to standard error themselves."""

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator

# Lines of OpenCV, libpng, libjpeg, and of ITK and its MetaIO.
THEIRS = re.compile(
    rb"\[ ?(?:ERROR|WARN|INFO|FATAL):.*|> ?.*| {4}'.*' is .*|where|"
    rb"libpng (?:error|warning): .*|Corrupt JPEG data: .*|Premature end of JPEG file.*|"
    rb"Inconsistent progression sequence .*|Invalid SOS parameters .*|"
    rb"Unknown Adobe color transform .*|Warning: unknown JFIF .*|"
    rb"Meta(?:Image|Object|IO)\b.*|Uncompress failed.*| *ideal = .*|.* required and not defined\.|"
    rb"(?:ERROR|WARNING): In .*|\w+ImageIO \(0x.*|\s*"
)
_one_at_a_time = threading.Lock()  # all threads share standard error


@contextlib.contextmanager
def complaints(found: list[bytes]) -> Iterator[None]:
    """Collect the lines that libraries write inside this `with` in `found`; pass other lines on."""
    try:
        kept = os.dup(2)
    except OSError:  # the process has no standard error
        yield
        return
    with _one_at_a_time, tempfile.TemporaryFile() as caught:
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            for line in caught.read().splitlines(keepends=True):
                if THEIRS.fullmatch(line.rstrip(b"\r\n")):
                    found.append(line.strip())
                else:  # from another thread
                    os.write(2, line)

"""Coverage-guided fuzzing of `swiftmedsam.read_case`.

    python -m fuzz [OPTIONS OF LIBFUZZER] [FOLDERS]

New inputs are written to the first folder; the others are only read. An input that crashes, takes
more than 10 s or more than 2 GB ends the run and is saved as a file.
"""

import logging
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

LIMITS = ("-timeout=10", "-rss_limit_mb=2048", "-max_len=8192")


def main() -> None:
    """Fuzz as long as the options say; libFuzzer ends the process itself."""
    with atheris.instrument_imports():  # branches of the modules imported here are counted
        from fuzz.inputs import check
    warnings.simplefilter("error")  # because users would see them
    logging.disable(logging.CRITICAL)  # unknown modalities and cut boxes would be logged each time
    with tempfile.TemporaryDirectory() as folder:
        atheris.Setup([sys.argv[0], *LIMITS, *sys.argv[1:]], lambda data: check(data, Path(folder)))
        atheris.Fuzz()


if __name__ == "__main__":
    main()

"""Coverage-guided fuzzing of `swiftmedsam.read_case`.

    python -m fuzz [OPTIONS OF LIBFUZZER] [FOLDERS]

New inputs are written to the first folder; the other folders are only read. An input that crashes,
runs for more than 10 s or needs more than 2 GB ends the run, and is kept as a file.
"""

import logging
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

LIMITS = ("-timeout=10", "-rss_limit_mb=2048", "-max_len=8192")


def main() -> None:
    """Fuzz until libFuzzer's options say so; it ends the process itself."""
    with atheris.instrument_imports():  # branches are counted in what is imported here
        from fuzz.inputs import check
    warnings.simplefilter("error")  # users would see them
    logging.disable(logging.CRITICAL)  # every unknown modality and cut box would be a line
    with tempfile.TemporaryDirectory() as folder:
        atheris.Setup([sys.argv[0], *LIMITS, *sys.argv[1:]], lambda data: check(data, Path(folder)))
        atheris.Fuzz()


if __name__ == "__main__":
    main()

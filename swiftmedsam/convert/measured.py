"""Write what was measured into the manifest of a weights folder.

    python -m swiftmedsam.convert.measured WEIGHTS [PRECISION=SCORES.json ...] [--mode best]
        [--auto FLAG=PRECISION ...] [--settings JSON]

SCORES.json comes from

    python -m swiftmedsam.evaluation OUTPUTS TRUTH --json SCORES.json

where OUTPUTS are the outputs of `python -m app --precision PRECISION`. `--auto` has the fastest
precision for each kind of CPU: the first FLAG that a CPU has decides, and without any it is f32.
`python -m benchmarks.speed.encoders WEIGHTS` prints these words. `--settings` has the settings of
mode `best` that suit the weights, such as {"crop_weight": 1.0}.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from swiftmedsam.atomic import atomic_file
from swiftmedsam.cpu import PRECISIONS
from swiftmedsam.manifest import MANIFEST, auto_of, read_manifest, settings_of


def scores_of(path: Path) -> dict[str, float]:
    """Read the number of cases, and mean DSC and NSD of the modalities (0..1), from SCORES.json.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not a JSON of `swiftmedsam.evaluation`.
    """
    try:
        average = json.loads(path.read_text())["average"]
        return {key: average[key] for key in ("cases", "dsc", "nsd")}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: expected a JSON of python -m swiftmedsam.evaluation --json"
        ) from error


def auto_table(words: Sequence[str]) -> dict[str, str]:
    """Return precisions by flag, as a manifest has them, of FLAG=PRECISION."""
    return {flag: precision for flag, _, precision in (word.partition("=") for word in words)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        "python -m swiftmedsam.convert.measured", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("weights", type=Path)
    parser.add_argument("scores", nargs="*", metavar="PRECISION=JSON")
    parser.add_argument(
        "--mode", default="best", help="mode of the program that was scored (default: best)"
    )
    parser.add_argument("--auto", nargs="+", metavar="FLAG=PRECISION")
    parser.add_argument("--settings", metavar="JSON")
    options = parser.parse_args(argv)
    if not (options.scores or options.auto or options.settings):
        parser.error("PRECISION=JSON, --auto or --settings is needed")
    try:
        manifest = read_manifest(options.weights)
        reached = {}
        for word in options.scores:
            precision, _, path = word.partition("=")
            if precision not in PRECISIONS:
                raise ValueError(
                    f"{word}: expected PRECISION=FILE, with one of {', '.join(PRECISIONS)}"
                )
            reached[precision] = scores_of(Path(path))
        if reached:
            manifest["measured"] = {"mode": options.mode, "precisions": reached}
        if options.auto:
            manifest["auto"] = auto_table(options.auto)
            auto_of(options.weights, manifest)
        if options.settings:
            manifest["settings"] = json.loads(options.settings)
            settings_of(options.weights, manifest)
        with atomic_file(options.weights / MANIFEST) as stream:
            stream.write(json.dumps(manifest, indent=2).encode() + b"\n")
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

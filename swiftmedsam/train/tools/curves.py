"""Draw the losses of a run: `python -m swiftmedsam.train.tools.curves runs/NAME PICTURE.png`.

Several runs that began where the one before ended are drawn one after the other, with a line
between them: `python -m swiftmedsam.train.tools.curves runs/A runs/B PICTURE.png`.
"""

import argparse
import csv
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # draw to a file, without a window
from matplotlib import pyplot as plt

SMOOTHING = 5  # reports in the running mean; single reports are drawn, too
TERMS = {
    "truth": "truth: Dice + cross entropy + IoU error",
    "teacher": "teacher: relative error of the embedding",
    "answers": "teacher: difference from its answers to free boxes",
}
COLOURS = ("#0072b2", "#d55e00", "#cc79a7")  # of Okabe and Ito, as in `evaluation`


def read_log(run: Path) -> dict[str, list[float]]:
    """Read the columns of `run`/log.csv by name, with one value for each report."""
    with (run / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def in_sequence(runs: Sequence[Path]) -> tuple[dict[str, list[float]], list[float]]:
    """Read the logs of runs; steps go on from run to run. Return columns, and the steps between.

    A term that a run does not have, or that is 0 in all of it, is NaN there.
    """
    columns: dict[str, list[float]] = {}
    ends: list[float] = []
    for run in runs:
        log = read_log(run)
        before, number = ends[-1] if ends else 0.0, len(columns.get("step", ()))
        log["step"] = [before + step for step in log["step"]]
        for name in columns.keys() | log.keys():
            values = log.get(name, ())
            found = values if any(values) else [math.nan] * len(log["step"])
            columns.setdefault(name, [math.nan] * number).extend(found)
        ends.append(log["step"][-1])
    return columns, ends[:-1]


def running_mean(values: Sequence[float]) -> list[float]:
    """Return the mean of each value and up to `SMOOTHING` - 1 values before it."""
    parts = (values[max(0, i + 1 - SMOOTHING) : i + 1] for i in range(len(values)))
    return [sum(part) / len(part) for part in parts]


def draw_losses(
    columns: dict[str, list[float]],
    picture: Path,
    between: Sequence[float] = (),
    top: float | None = None,
) -> None:
    """Draw the terms of the loss and the learning rate over the steps; write `picture`.

    A line is drawn at each step of `between`. Losses above `top` are not seen.
    """
    figure, (losses, rate) = plt.subplots(
        2, 1, figsize=(8, 6), sharex=True, height_ratios=(3, 1), layout="constrained"
    )
    for (name, title), colour in zip(TERMS.items(), COLOURS, strict=True):
        # older logs have fewer terms; some runs have no teacher
        if not any(value > 0 for value in columns.get(name, ())):
            continue
        losses.plot(columns["step"], columns[name], color=colour, alpha=0.3)
        losses.plot(columns["step"], running_mean(columns[name]), color=colour, label=title)
    for axes in (losses, rate):
        for step in between:
            axes.axvline(step, color="#999999", linewidth=0.8, linestyle=":")
    losses.set_ylim(bottom=0, top=top)
    losses.set_ylabel("loss")
    losses.legend()
    rate.plot(columns["step"], columns["learning_rate"], color="#009e73")
    rate.set_ylabel("learning rate")
    rate.set_xlabel("step")
    figure.savefig(picture, dpi=100)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the curves of a run; return the exit status."""
    parser = argparse.ArgumentParser(
        "python -m swiftmedsam.train.tools.curves", description=__doc__
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder with log.csv")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--top", type=float, help="largest loss that is drawn")
    options = parser.parse_args(argv)
    columns, between = in_sequence(options.runs)
    draw_losses(columns, options.picture, between, options.top)
    return 0


if __name__ == "__main__":
    sys.exit(main())

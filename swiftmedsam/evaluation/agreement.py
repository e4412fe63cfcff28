"""Make cases of pictures without labels; their truth is the masks of a teacher.

    python -m swiftmedsam.evaluation.agreement SHARDS OUT --weights TEACHER

Pictures without labels show where a network differs from its teacher. Some pictures (WebP) of each
shard `<Modality>_<Source>.tar` become cases: their boxes are around objects that the teacher finds,
and their truth is the teacher's masks for these boxes. To find objects, the teacher segments boxes
of two sizes all over the picture. The largest connected part of a mask is an object if the teacher,
given the box around it, returns nearly the same mask.

Then segment the cases, print the agreement (mean DSC) of each source, and draw the worst cases:

    python -m app OUT/inputs SEGS
    python -m swiftmedsam.evaluation.breadth SEGS OUT/gts --sets OUT/sets.json
    python -m swiftmedsam.evaluation.report.sheet OUT/inputs OUT/gts SEGS --out FILE
"""

import argparse
import json
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from swiftmedsam.evaluation.console import clear_line, positive, progress
from swiftmedsam.evaluation.metrics import Mask, dsc
from swiftmedsam.evaluation.report.pictures import evenly
from swiftmedsam.frame import INPUT_SIZE, Frame, every_cell
from swiftmedsam.manifest import WeightsError
from swiftmedsam.memory import DECODE_BATCH
from swiftmedsam.network import load
from swiftmedsam.segment import NetworkLike

FIRST_SIZES = (1 / 6, 1 / 3)  # of the first boxes, as parts of the sides of the picture
ROWS = 4  # of centres of these boxes, and as many columns
LEAST_AREA = 20  # pixels of an object, as in training
MOST_PART = 0.5  # of the picture; a larger part is background
LEAST_AGREEMENT = 0.8  # DSC of an object and the teacher's mask for the box around it

Boxes = npt.NDArray[np.float64]  # (N, 4): x_min, y_min, x_max, y_max in pixels


def first_boxes(height: int, width: int) -> Boxes:
    """Return boxes (N, 4) of all `FIRST_SIZES` all over a picture, cut at its border."""
    places = (np.arange(ROWS) + 0.5) / ROWS
    y, x, half = (grid.ravel() for grid in np.meshgrid(places, places, np.array(FIRST_SIZES) / 2))
    ends = np.stack([x - half, y - half, x + half, y + half], axis=1).clip(0, 1)
    return np.round(ends * [width - 1, height - 1, width - 1, height - 1])


def tight_box(mask: Mask) -> list[float]:
    """Return the box around a mask (H, W) that is not empty."""
    ys, xs = np.nonzero(mask)
    return [float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max())]


def _answers(
    network: NetworkLike, frame: Frame, embedding: npt.NDArray[np.float32], boxes: Boxes
) -> tuple[list[Mask], list[float]]:
    """Return masks (H, W) of boxes by the rules of LiteMedSAM, and the predicted IoU."""
    height, width = frame.inner
    masks: list[Mask] = []
    ious: list[float] = []
    for start in range(0, len(boxes), DECODE_BATCH):
        prompts = frame.prompts(boxes[start : start + DECODE_BATCH])
        logits, iou = network.decode(embedding, prompts, every_cell(len(prompts)))
        assert logits.shape[1:] == (INPUT_SIZE, INPUT_SIZE)
        shown = (each[:height, :width] for each in logits)
        masks += [cv2.resize(each, (frame.width, frame.height)) > 0 for each in shown]
        ious += iou.tolist()
    return masks, ious


def _largest_part(mask: Mask) -> Mask:
    """Return the largest connected part of a mask."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count == 1:  # only background
        return mask
    largest: Mask = parts == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    return largest


def teachers_objects(
    image: npt.NDArray[np.uint8], network: NetworkLike, most: int
) -> tuple[Boxes, npt.NDArray[np.uint8]]:
    """Return boxes (N, 4) around objects that the teacher finds, and its masks as labels (H, W).

    These are the objects with the highest predicted IoU; no two of them overlap.
    """
    height, width = image.shape[:2]
    frame = Frame(height, width)
    embedding = network.encode(frame.pixels(image))
    first, _ = _answers(network, frame, embedding, first_boxes(height, width))
    parts = [_largest_part(mask) for mask in first]
    parts = [p for p in parts if LEAST_AREA <= np.count_nonzero(p) <= MOST_PART * p.size]
    by_box = {tuple(tight_box(part)): part for part in parts}
    labels, boxes = np.zeros(frame.size, np.uint8), np.array(list(by_box), np.float64)
    chosen: list[Sequence[float]] = []
    if by_box:
        masks, ious = _answers(network, frame, embedding, boxes)
        for i in np.argsort(-np.array(ious), kind="stable").tolist():
            box, mask = tuple(boxes[i].tolist()), masks[i]
            if len(chosen) == most:
                break
            if dsc(by_box[box], mask) < LEAST_AGREEMENT or labels[mask].any():
                continue
            chosen.append(box)
            labels[mask] = len(chosen)
    return np.array(chosen, np.float64).reshape(-1, 4), labels


def pictures_of(shard: Path, most: int) -> list[tuple[str, npt.NDArray[np.uint8]]]:
    """Read up to `most` pictures of a shard, evenly chosen: names and RGB pixels (H, W, 3).

    Raises:
        OSError, ValueError: the shard or one of these pictures cannot be read.
    """
    try:
        with tarfile.open(shard) as tar:
            names = sorted(name for name in tar.getnames() if name.endswith(".webp"))
            chosen = [names[i] for i in evenly(0, len(names) - 1, most)] if names else []
            contents = [file.read() for name in chosen if (file := tar.extractfile(name))]
    except tarfile.TarError as error:
        raise ValueError(f"{shard}: is not a tar file") from error
    pictures = []
    for name, content in zip(chosen, contents, strict=True):
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError(f"{shard}: '{name}' cannot be read as a picture")
        pictures.append((name.removesuffix(".webp"), image[:, :, ::-1].astype(np.uint8)))
    return pictures


def write_cases(
    shards: Sequence[Path], out: Path, network: NetworkLike, pictures: int, objects: int
) -> dict[str, dict[str, object]]:
    """Write `out`/inputs, `out`/gts and `out`/sets.json; return the content of the last one.

    Raises:
        OSError, ValueError: a shard cannot be read, or a file cannot be written.
    """
    inputs, gts = out / "inputs", out / "gts"
    for folder in (inputs, gts):
        folder.mkdir(parents=True, exist_ok=True)
    sets: dict[str, dict[str, object]] = {}
    show = progress("shards")
    for done, shard in enumerate(shards, start=1):
        for key, image in pictures_of(shard, pictures):
            boxes, labels = teachers_objects(image, network, objects)
            if len(boxes):
                name = f"2DBox_{shard.stem}-{key.replace('/', '-')}"
                np.savez_compressed(inputs / f"{name}.npz", imgs=image, boxes=boxes)
                np.savez_compressed(gts / f"{name}.npz", gts=labels)
                sets[name] = {"set": shard.stem, "trained": False}
        if show:
            show(done, len(shards))
    (out / "sets.json").write_text(json.dumps(sets, indent=1) + "\n")
    return sets


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m swiftmedsam.evaluation.agreement",
        description="Make cases of unlabelled pictures, with a teacher's answers as truth.",
        epilog="Exit status: 0, or 1 when something cannot be read, 2 on wrong usage.",
    )
    parser.add_argument("shards", type=Path, metavar="SHARDS", help="folder of tar files of WebP")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument(
        "--weights", type=Path, required=True, metavar="DIR", help="the teacher: a weights folder"
    )
    parser.add_argument(
        "--pictures", type=positive, default=6, help="pictures of a shard (default 6)"
    )
    parser.add_argument(
        "--objects", type=positive, default=3, help="objects of a picture (default 3)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _parser().parse_args(argv)
    try:
        shards = sorted(options.shards.glob("*.tar"))
        if not shards:
            raise ValueError(f"{options.shards}: has no tar file")
        network = load(options.weights)
        sets = write_cases(shards, options.out, network, options.pictures, options.objects)
    except (OSError, ValueError, WeightsError) as error:
        print(f"{clear_line()}{error}", file=sys.stderr)
        return 1
    sources = {str(entry["set"]) for entry in sets.values()}
    print(f"{options.out}: {len(sets)} cases of {len(sources)} of {len(shards)} sources")
    return 0


if __name__ == "__main__":
    sys.exit(main())

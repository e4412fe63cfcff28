"""LiteMedSAM's inference rules, transcribed to torch: slow, direct, and nothing shared with `app`.

    python -m benchmarks.reference.baseline INPUTS OUTPUTS [--checkpoint lite_medsam.pth]
        [--share-encodings] [--whole-script FIGURES]

The oracle of the parity test and the yardstick of speed. Rules: docs/formats.md, from the
organisers' `CVPR24_LiteMedSAM_infer.py`, with two faults mended, since with them the rules are no
rules: boxes of the neighbour's mask come from a boolean mask (the original resizes a mask that
holds the object number, so that the result depends on it), and labels above 255 do not overflow.
Object by object and slice by slice, each encoded anew, as the organisers do; `--share-encodings`
remembers a case's encodings, which changes the time and no mask. `--numbered DIR` also writes what
the first fault does to volumes, so that its effect can be scored.

It says of a case what `python -m app` says, so that `python -m
swiftmedsam.evaluation.timing.runtime` can time both. By the rules alone it is quicker than the
organisers' program: `--whole-script` does what their script does besides, and as it does. Every
case is drawn at 300 dpi, each mask as an image of its own, 32 bytes a pixel; tensors stay channels
first. (It imports pandas, too, which this does not.)
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from swiftmedsam.torch_model import LITE, SwiftMedSAM, load_model

SIZE = 256
BBOX_SHIFT = 3
STEPS = ("read", "encode", "decode", "write")  # of the program's line about a case


class Baseline:
    """The organisers' program for one case; the next one takes a new one."""

    def __init__(
        self, model: SwiftMedSAM, *, share_encodings: bool,
        layout: torch.memory_format = torch.channels_last,
    ) -> None:  # fmt: skip
        """`layout` is that of the encoder's tensors: of time alone."""
        self._model, self._layout = model.to(memory_format=layout), layout
        self._share = share_encodings
        self._encodings: dict[int, Tensor] = {}
        self.seconds = dict.fromkeys(STEPS, 0.0)

    @contextmanager
    def measure(self, step: str) -> Iterator[None]:
        """Add the time inside the `with` to `seconds` of the step."""
        began = time.perf_counter()
        yield
        self.seconds[step] += time.perf_counter() - began

    def _encode(self, image: np.ndarray, z: int) -> Tensor:
        """Embedding of a slice (H, W, 3): resize the longest side, min-max, pad."""
        if z in self._encodings:
            return self._encodings[z]
        height, width = self._new_size(image)
        x = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        x = (x - x.min()) / np.clip(x.max() - x.min(), a_min=1e-8, a_max=None)
        x = np.pad(x, ((0, SIZE - height), (0, SIZE - width), (0, 0)))
        tensor = torch.tensor(x).float().permute(2, 0, 1).unsqueeze(0)
        with self.measure("encode"), torch.inference_mode():
            embedding = self._model.encode(tensor.contiguous(memory_format=self._layout))
        if self._share:
            self._encodings[z] = embedding
        return embedding

    @staticmethod
    def _new_size(image: np.ndarray) -> tuple[int, int]:
        scale = SIZE / max(image.shape[:2])
        return tuple(int(side * scale + 0.5) for side in image.shape[:2])  # type: ignore[return-value]

    def _mask(self, embedding: Tensor, box_256: np.ndarray, image: np.ndarray) -> np.ndarray:
        """Mask (H, W) bool of one box."""
        with self.measure("decode"), torch.inference_mode():
            logits, _ = self._model.decode(embedding, torch.as_tensor(box_256).float()[None])
        height, width = self._new_size(image)
        logits = F.interpolate(
            logits[None, :, :height, :width], size=image.shape[:2], mode="bilinear"
        )
        return (torch.sigmoid(logits)[0, 0] > 0.5).numpy()

    def _box_of(self, mask: np.ndarray, image: np.ndarray) -> np.ndarray | None:
        """Bounding box in the 256 frame of a mask (H, W), widened and clipped; None if empty.

        The mask is 0.0 and 1.0, or, as in the original, uint8 of 0 and the object's number.
        """
        height, width = self._new_size(image)
        small = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)
        ys, xs = np.where(small > 0)
        if len(ys) == 0:
            return None
        return np.array([
            max(0, xs.min() - BBOX_SHIFT), max(0, ys.min() - BBOX_SHIFT),
            min(SIZE, xs.max() + BBOX_SHIFT), min(SIZE, ys.max() + BBOX_SHIFT),
        ])  # fmt: skip

    def image(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Labels (H, W) of an image (H, W, 3) and boxes (N, 4)."""
        labels = np.zeros(image.shape[:2], np.uint16)
        embedding = self._encode(image, 0)  # the organisers encode an image once, too
        for number, box in enumerate(boxes, start=1):
            box_256 = (box * (SIZE / max(image.shape[:2]))).astype(int)
            labels[self._mask(embedding, box_256, image)] = number
        return labels

    def volume(
        self, volume: np.ndarray, boxes: np.ndarray, *, numbered: bool = False
    ) -> np.ndarray:
        """Labels (D, H, W) of a volume and boxes (N, 6); `numbered`: with the original's fault."""
        labels = np.zeros(volume.shape, np.uint16)
        for number, box in enumerate(boxes, start=1):
            x_min, y_min, z_min, x_max, y_max, z_max = box
            given = (
                np.array([x_min, y_min, x_max, y_max]) * (SIZE / max(volume.shape[1:]))
            ).astype(int)
            z_min, z_max = int(z_min), int(min(z_max, len(volume) - 1))
            z_mid = int((z_max - z_min) / 2 + z_min)
            masks: dict[int, np.ndarray] = {}
            for z in [*range(z_mid, z_max + 1), *range(z_mid - 1, z_min - 1, -1)]:
                image = np.repeat(volume[z][:, :, None], 3, axis=2)
                box_256 = given
                if z != z_mid:
                    neighbour = masks[z - 1 if z > z_mid else z + 1]
                    marked = neighbour.astype(np.uint8) * np.uint8(number % 256)
                    around = self._box_of(
                        marked if numbered else neighbour.astype(np.float32), image
                    )
                    box_256 = given if around is None else around
                masks[z] = self._mask(self._encode(image, z), box_256, image)
                labels[z][masks[z]] = number
        return labels


def draw(path: Path, image: np.ndarray, labels: np.ndarray, boxes: np.ndarray) -> None:
    """The organisers' figure: `image` (H, W) or (H, W, 3) alone, and with `boxes` (N, 4), masks."""
    from matplotlib import pyplot as plt  # a part of a second, which the rules alone do not take

    figure, axes = plt.subplots(1, 2, figsize=(10, 5))
    for ax, title in zip(axes, ("Image", "LiteMedSAM Segmentation"), strict=True):
        ax.imshow(image, cmap="gray")
        ax.set_title(title)
        ax.axis("off")
    random = np.random.default_rng(0)
    for number, (x_min, y_min, x_max, y_max) in enumerate(boxes, start=1):
        mask = labels == number
        if image.ndim == 2 and not mask.any():  # of a volume, only what its middle slice shows
            continue
        color = random.random(3)
        axes[1].add_patch(plt.Rectangle(
            (x_min, y_min), x_max - x_min, y_max - y_min, edgecolor=color, facecolor="none", lw=2,
        ))  # fmt: skip
        axes[1].imshow(mask[..., np.newaxis] * np.append(color, 0.5))
    figure.tight_layout()
    figure.savefig(path, dpi=300)
    plt.close(figure)


def run_case(baseline: Baseline, path: Path, options: argparse.Namespace) -> str:
    """Segment one file as `options` say; return the line about it."""
    began = time.perf_counter()
    with baseline.measure("read"), np.load(path) as case:
        images, boxes = case["imgs"], case["boxes"]
    is_volume = path.name.startswith("3D")
    labels = (baseline.volume if is_volume else baseline.image)(images, boxes)
    with baseline.measure("write"):
        np.savez_compressed(options.outputs / path.name, segs=labels)
    if options.whole_script:
        shown = (len(images) // 2,) if is_volume else ()
        flat = boxes[:, [0, 1, 3, 4]] if is_volume else boxes
        draw(options.whole_script / f"{path.stem}.png", images[shown], labels[shown], flat)
    seconds = time.perf_counter() - began
    split = ", ".join(f"{step} {baseline.seconds[step]:.2f}" for step in STEPS)
    if is_volume and options.numbered:
        options.numbered.mkdir(parents=True, exist_ok=True)
        faulty = baseline.volume(images, boxes, numbered=True)
        np.savez_compressed(options.numbered / path.name, segs=faulty)
    shape = "x".join(map(str, images.shape))
    return f"{path.name}  {shape}  {len(boxes)} boxes  {seconds:.2f} s ({split})"


def main(argv: Sequence[str] | None = None) -> int:
    """Segment a folder; print seconds per case."""
    parser = argparse.ArgumentParser("python -m benchmarks.reference.baseline")
    parser.add_argument("inputs", type=Path)
    parser.add_argument("outputs", type=Path)
    parser.add_argument(
        "--checkpoint", type=Path, default=Path("weights/checkpoints/lite_medsam.pth"),
        help="what python -m convert --fetch-lite gets (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--only", default="[23]DBox_*.npz")
    parser.add_argument("--share-encodings", action="store_true")
    parser.add_argument("--numbered", type=Path, metavar="DIR", help="the original's faulty walk")
    parser.add_argument(
        "--whole-script", type=Path, metavar="FIGURES",
        help="also what their script does besides, as it does: for times; figures go there",
    )  # fmt: skip
    options = parser.parse_args(argv)
    if options.whole_script:
        options.whole_script.mkdir(parents=True, exist_ok=True)
    layout = torch.contiguous_format if options.whole_script else torch.channels_last
    model = load_model(options.checkpoint, LITE)
    print(f"lite, f32, {torch.get_num_threads()} threads", flush=True)
    options.outputs.mkdir(parents=True, exist_ok=True)
    for path in sorted(options.inputs.glob(options.only)):
        if not (options.outputs / path.name).exists():
            baseline = Baseline(model, share_encodings=options.share_encodings, layout=layout)
            print(run_case(baseline, path, options), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

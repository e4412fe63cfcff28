"""LiteMedSAM's inference in torch: slow, simple, and independent of `swiftmedsam`'s own rules.

    python -m benchmarks.reference.baseline INPUTS OUTPUTS [--checkpoint lite_medsam.pth]
        [--share-encodings] [--numbered DIR] [--whole-script FIGURES]

The masks of `--mode litemedsam` and the speed are compared with it. The rules (docs/formats.md) are
those of the organisers' `CVPR24_LiteMedSAM_infer.py`, without two of its faults:

- The box around the mask of the previous slice comes from a boolean mask. The original resizes a
  mask that holds the number of the object, so its result depends on this number. `--numbered DIR`
  also writes outputs with this fault, to score its effect.
- Labels above 255 do not overflow.

Like the original, it encodes a slice again for each object. `--share-encodings` keeps the encodings
of a case, which changes the time and no mask.

It prints the same line about a case as `python -m app`, so that
`swiftmedsam.evaluation.timing.runtime` can time both. It is quicker than the organisers' program,
because their script does more. `--whole-script` does this, too: it draws each case at 300 dpi, with
each mask as an image of its own of 32 bytes a pixel, and keeps tensors channels first. (Their
script also imports pandas; this one does not.)
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

from swiftmedsam.evaluation.timing.measure import STEPS
from swiftmedsam.torch_model import LITE, SwiftMedSAM, load_model

INPUT_SIZE = 256
BBOX_SHIFT = 3


class Baseline:
    """The organisers' program for one case; each case needs a new instance."""

    def __init__(
        self, model: SwiftMedSAM, *, share_encodings: bool,
        layout: torch.memory_format = torch.channels_last,
    ) -> None:  # fmt: skip
        """`layout` is the memory layout of the encoder's tensors; it changes the time only."""
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
        """Return the embedding of a slice (H, W, 3): resize the longest side, min-max, pad."""
        if z in self._encodings:
            return self._encodings[z]
        height, width = self._new_size(image)
        x = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        x = (x - x.min()) / np.clip(x.max() - x.min(), a_min=1e-8, a_max=None)
        x = np.pad(x, ((0, INPUT_SIZE - height), (0, INPUT_SIZE - width), (0, 0)))
        tensor = torch.tensor(x).float().permute(2, 0, 1).unsqueeze(0)
        with self.measure("encode"), torch.inference_mode():
            embedding = self._model.encode(tensor.contiguous(memory_format=self._layout))
        if self._share:
            self._encodings[z] = embedding
        return embedding

    @staticmethod
    def _new_size(image: np.ndarray) -> tuple[int, int]:
        scale = INPUT_SIZE / max(image.shape[:2])
        return tuple(int(side * scale + 0.5) for side in image.shape[:2])  # type: ignore[return-value]

    def _mask(self, embedding: Tensor, box_256: np.ndarray, image: np.ndarray) -> np.ndarray:
        """Return the mask (H, W), bool, of one box."""
        with self.measure("decode"), torch.inference_mode():
            logits, _ = self._model.decode(embedding, torch.as_tensor(box_256).float()[None])
        height, width = self._new_size(image)
        logits = F.interpolate(
            logits[None, :, :height, :width], size=image.shape[:2], mode="bilinear"
        )
        return (torch.sigmoid(logits)[0, 0] > 0.5).numpy()

    def _box_of(self, mask: np.ndarray, image: np.ndarray) -> np.ndarray | None:
        """Return the box (4,) around a mask (H, W), in input pixels, widened and clipped.

        The mask is 0.0 and 1.0, or, as in the original, uint8 of 0 and the number of the object. It
        is None if the mask is empty.
        """
        height, width = self._new_size(image)
        small = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)
        ys, xs = np.where(small > 0)
        if len(ys) == 0:
            return None
        return np.array([
            max(0, xs.min() - BBOX_SHIFT), max(0, ys.min() - BBOX_SHIFT),
            min(INPUT_SIZE, xs.max() + BBOX_SHIFT), min(INPUT_SIZE, ys.max() + BBOX_SHIFT),
        ])  # fmt: skip

    def image(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Return the labels (H, W) of an image (H, W, 3) and boxes (N, 4)."""
        labels = np.zeros(image.shape[:2], np.uint16)
        embedding = self._encode(image, 0)  # the organisers encode an image once, too
        for number, box in enumerate(boxes, start=1):
            box_256 = (box * (INPUT_SIZE / max(image.shape[:2]))).astype(int)
            labels[self._mask(embedding, box_256, image)] = number
        return labels

    def volume(
        self, volume: np.ndarray, boxes: np.ndarray, *, numbered: bool = False
    ) -> np.ndarray:
        """Return the labels (D, H, W) of a volume and boxes (N, 6); `numbered`: with the fault."""
        labels = np.zeros(volume.shape, np.uint16)
        for number, box in enumerate(boxes, start=1):
            x_min, y_min, z_min, x_max, y_max, z_max = box
            given = (
                np.array([x_min, y_min, x_max, y_max]) * (INPUT_SIZE / max(volume.shape[1:]))
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


def draw_figure(path: Path, image: np.ndarray, labels: np.ndarray, boxes: np.ndarray) -> None:
    """Draw the organisers' figure: `image` (H, W[, 3]), and again with `boxes` (N, 4) and masks."""
    from matplotlib import pyplot as plt  # here, because the import takes time

    figure, axes = plt.subplots(1, 2, figsize=(10, 5))
    for ax, title in zip(axes, ("Image", "LiteMedSAM Segmentation"), strict=True):
        ax.imshow(image, cmap="gray")
        ax.set_title(title)
        ax.axis("off")
    random = np.random.default_rng(0)
    for number, (x_min, y_min, x_max, y_max) in enumerate(boxes, start=1):
        mask = labels == number
        if image.ndim == 2 and not mask.any():  # of a volume, only objects in the shown slice
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
    """Segment one file; return the line about it."""
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
        draw_figure(options.whole_script / f"{path.stem}.png", images[shown], labels[shown], flat)
    seconds = time.perf_counter() - began
    split = ", ".join(f"{step} {baseline.seconds[step]:.2f}" for step in STEPS)
    if is_volume and options.numbered:
        options.numbered.mkdir(parents=True, exist_ok=True)
        faulty = baseline.volume(images, boxes, numbered=True)
        np.savez_compressed(options.numbered / path.name, segs=faulty)
    shape = "x".join(map(str, images.shape))
    return f"{path.name}  {shape}  {len(boxes)} boxes  {seconds:.2f} s ({split})"


def main(argv: Sequence[str] | None = None) -> int:
    """Segment a folder; print a line about each case."""
    parser = argparse.ArgumentParser("python -m benchmarks.reference.baseline")
    parser.add_argument("inputs", type=Path)
    parser.add_argument("outputs", type=Path)
    parser.add_argument(
        "--checkpoint", type=Path, default=Path("weights/checkpoints/lite_medsam.pth"),
        help="from python -m convert --fetch-lite (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--only", default="[23]DBox_*.npz")
    parser.add_argument("--share-encodings", action="store_true")
    parser.add_argument(
        "--numbered",
        type=Path,
        metavar="DIR",
        help="write outputs with the fault of the original, too",
    )
    parser.add_argument(
        "--whole-script", type=Path, metavar="FIGURES",
        help="do all that the organisers' script does, to time it; write its figures there",
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

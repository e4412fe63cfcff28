"""Decodes the prompts of many boxes in one slice, in batches, and only the cells each box needs.

The decoder computes logits for a rectangle of the embedding's 64 x 64 cells; a cell is 4 x 4 input
pixels. All rectangles of one call have the same size.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from swiftmedsam.frame import CELL, EMBEDDING_SIZE, FloatArray, Frame, Span
from swiftmedsam.masks import Answer
from swiftmedsam.result import Clock

# A prompt with few cells still costs this share of a full one: attention runs over all 4096 cells.
SMALL_PROMPT = 1 / 4
# Rectangle sides are rounded up to so many cells: OpenVINO compiles a kernel for each new shape.
CELL_STEP = 4


class Decoder(Protocol):
    """The part of `network.Network` that decodes prompts."""

    def decode(
        self, embedding: FloatArray, prompts: FloatArray, cells: npt.NDArray[np.int32]
    ) -> tuple[FloatArray, FloatArray]:
        """Logits (N, 4 h, 4 w) of prompts (N, 4) in rectangles of cells, and predicted IoU (N,)."""


def rectangles(
    spans: Sequence[Span],
) -> tuple[npt.NDArray[np.int32], list[tuple[int, int]]]:
    """Rectangles of cells (N, h, w), all of one size, each around one of `spans`; their corners.

    A corner is the row and column of the rectangle's first input pixel.
    """
    firsts = np.array([[rows.start, columns.start] for rows, columns in spans])
    ends = np.array([[rows.stop, columns.stop] for rows, columns in spans])
    size = -(-(ends - firsts).max(axis=0) // CELL_STEP) * CELL_STEP
    firsts = np.minimum(firsts, EMBEDDING_SIZE - size)
    rows, columns = (firsts[:, [axis]] + np.arange(size[axis]) for axis in (0, 1))
    cells = rows[:, :, np.newaxis] * EMBEDDING_SIZE + columns[:, np.newaxis]
    return cells.astype(np.int32), [(row * CELL, column * CELL) for row, column in firsts.tolist()]


def batches(spans: Sequence[Span], prompts: Sequence[FloatArray], most: int) -> Iterator[slice]:
    """Split boxes into consecutive batches; one call of the decoder per batch.

    A batch costs at most as much as `most` prompts with all cells, but has one box at least.
    `spans` are the cells that each box needs, `prompts` (P, 4) the prompts of each box. All
    rectangles of a call are as large as the largest, so a large box ends a batch of small ones.
    """
    start, height, width, count = 0, 0, 0, 0
    for i, ((rows, columns), own) in enumerate(zip(spans, prompts, strict=True)):
        height = max(height, rows.stop - rows.start)
        width = max(width, columns.stop - columns.start)
        count += len(own)
        share = max(SMALL_PROMPT, height * width / EMBEDDING_SIZE**2)
        if i > start and share * count > most:
            yield slice(start, i)
            start, count = i, len(own)
            height, width = rows.stop - rows.start, columns.stop - columns.start
    yield slice(start, len(spans))


def decoded(
    decoder: Decoder, embedding: FloatArray, frame: Frame, prompts: Sequence[FloatArray],
    limits: Sequence[Span], most: int, clock: Clock,
) -> Iterator[tuple[Answer, float]]:  # fmt: skip
    """For each box its answer and predicted IoU, each the mean over the box's prompts (P, 4).

    An answer has the logits of the cells that cover the box's `limits` (rows and columns of the
    slice). It does not depend on the other boxes. `most` limits a call, see `batches`.
    """
    spans = [frame.cells(within) for within in limits]
    for boxes in batches(spans, prompts, most):
        batch = prompts[boxes]
        cells, corners = rectangles(spans[boxes])
        counts = [len(own) for own in batch]
        with clock.measure("decode"):
            logits, iou = decoder.decode(
                embedding, np.concatenate(batch), cells.repeat(counts, axis=0)
            )
        ends = np.cumsum(counts)[:-1]
        parts = np.split(logits, ends), np.split(iou, ends), corners, spans[boxes]
        for box_logits, box_iou, corner, span in zip(*parts, strict=True):
            # The rectangle is as large as the largest of the batch. Cut it to the box's own cells:
            # otherwise an answer would depend on the other boxes of the call.
            first = span[0].start * CELL, span[1].start * CELL
            rows, columns = (
                slice(start - shift, own.stop * CELL - shift)
                for start, shift, own in zip(first, corner, span, strict=True)
            )
            mean_logits = box_logits[:, rows, columns].mean(axis=0)
            yield Answer(frame, mean_logits, first), float(box_iou.mean())

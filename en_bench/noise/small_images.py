"""An image as instance-dependent noise sees it: 32x32 RGB, by whole-number arithmetic. Without torch, for scripts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from en_bench.data.decoding import ImageFile, Pixels
from en_bench.data.images import UnreadableImage

SIDE = 32  # pixels


def small_image(file: bytes) -> Pixels:
    """An image file reduced to (32, 32, 3), whatever its aspect ratio.

    The image, decoded as for training, is cut into 32 x 32 blocks: block i of H rows begins with row floor(i * H / 32)
    and ends before the next one's, with at least one row; columns likewise. A pixel of the result is the mean of its
    block, rounded to the nearest whole number, halves upwards. An image of 32x32 stays as it is, and one that cannot be
    decoded is black: whoever trains on it will say so.
    """
    try:
        pixels = ImageFile(file).pixels()
    except UnreadableImage:
        return np.zeros((SIDE, SIDE, 3), np.uint8)
    if pixels.shape[:2] == (SIDE, SIDE):
        return pixels
    (rows, heights), (columns, widths) = (_blocks(length) for length in pixels.shape[:2])
    # Of blocks that begin at the same place all but the last hold that one row alone, as `reduceat` does it.
    sums = np.add.reduceat(np.add.reduceat(pixels, rows, axis=0, dtype=np.int64), columns, axis=1)
    counts = (heights[:, None] * widths)[:, :, None]
    small: Pixels = ((2 * sums + counts) // (2 * counts)).astype(np.uint8)
    return small


def _blocks(length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the 32 blocks of so many rows begin, and how many each holds."""
    edges = np.arange(SIDE + 1) * length // SIDE
    return edges[:-1], np.maximum(np.diff(edges), 1)

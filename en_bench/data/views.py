"""What of an image becomes a network's input, and the making of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import interpolate

from en_bench.data.decoding import Pixels


class View(NamedTuple):
    """The square of an image that a network sees.

    A rectangle is cut out of the image and resized to `scaled`, bilinear with antialiasing, unless it has that size. Of
    this the square of the wanted size is taken whose first pixel is at `offset`; where the square reaches beyond it
    there are zeros. Lengths are in pixels, pairs are (vertical, horizontal).
    """

    top: int
    left: int
    height: int
    width: int
    scaled: tuple[int, int]
    offset: tuple[int, int] = (0, 0)
    mirrored: bool = False


def render(pixels: Pixels, view: View, out: Pixels) -> None:
    """Writes into `out` (size, size, 3) what the view shows of a writable image, of which rows below it may lack.

    Raises ValueError for a view that does not lie in the image.
    """
    bottom, right = view.top + view.height, view.left + view.width
    if not (0 <= view.top < bottom <= pixels.shape[0] and 0 <= view.left < right <= pixels.shape[1]):
        raise ValueError(f"{view} does not lie in an image of {pixels.shape[0]}x{pixels.shape[1]} pixels")
    shown = pixels[view.top : bottom, view.left : right]
    if shown.shape[:2] != view.scaled:
        shown = _resized(shown, view.scaled)
    size = len(out)
    (top, first, last), (left, start, stop) = (
        (max(0, -offset), max(0, offset), max(0, min(length, offset + size)))
        for offset, length in zip(view.offset, view.scaled, strict=True)
    )
    shown = shown[first:last, start:stop]
    height, width = shown.shape[:2]
    if (height, width) != (size, size):
        out[...] = 0
    if view.mirrored:
        left = size - left - width
        shown = _mirrored(shown)
    out[top : top + height, left : left + width] = shown


def _resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    # In this order of steps torch sees channels_last, for which it has a vectorised kernel of its own.
    image = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    resized = interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)
    made: Pixels = resized[0].permute(1, 2, 0).numpy()
    return made


def _mirrored(pixels: Pixels) -> Pixels:
    mirrored: Pixels = torch.from_numpy(pixels).permute(2, 0, 1)[None].flip(3)[0].permute(1, 2, 0).numpy()
    return mirrored

"""Decoding and cropping without a stream: from memory, on a processor and on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from en_bench.benchmark.data_recipe import Recipe, Stage
from en_bench.data.decoding import ImageFile, Pixels
from en_bench.data.draws import draws
from en_bench.data.manifest import load_manifest
from en_bench.data.reader import ShardReader
from en_bench.data.transforms import Transform
from en_bench.data.views import View, render

Read = Callable[[int], Iterator[int]]  # from an epoch to the sizes of its batches
SEED = 0
_GPU = torch.device("cuda")


def crop(data: bytes, transform: Transform, random: list[float], out: Pixels) -> None:
    """What the stream makes of one image file."""
    image = ImageFile(data)
    view = transform.view(image.height, image.width, random)
    render(image.pixels(view.top + view.height), view, out)
    transform.retouch(out, random)


def alone(folder: Path, recipe: Recipe, stage: Stage, batch: int, workers: int) -> Read:
    """In one process, from files in memory, in natural order, into one place."""
    contents, random = _loaded(folder, recipe.ours(stage))
    transform = recipe.ours(stage)
    out = np.empty((recipe.size, recipe.size, 3), np.uint8)

    def reads(epoch: int) -> Iterator[int]:
        for data, numbers in zip(contents, random, strict=True):
            crop(data, transform, numbers, out)
            yield 1

    return reads


def on_device(
    folder: Path, recipe: Recipe, stage: Stage, batch: int, workers: int, device: torch.device = _GPU
) -> Read:
    """JPEG files in memory, decoded by the device a batch at a time, and cropped there."""
    from torchvision.io import ImageReadMode, decode_jpeg  # takes seconds

    contents, random = _loaded(folder, recipe.ours(stage))
    transform = recipe.ours(stage)
    files = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in contents]

    def reads(epoch: int) -> Iterator[int]:
        for first in range(0, len(files), batch):
            chosen = slice(first, first + batch)
            images: list[Tensor] = decode_jpeg(files[chosen], ImageReadMode.RGB, device=device)
            made = [
                show(image, transform.view(image.shape[1], image.shape[2], numbers), recipe.size)
                for image, numbers in zip(images, random[chosen], strict=True)
            ]
            stacked = torch.stack(made)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            yield len(stacked)

    return reads


def show(image: Tensor, view: View, size: int) -> Tensor:
    """What a view shows of an image (C, H, W) of any dtype: (C, size, size), with torch's own operators alone."""
    shown = image[:, view.top : view.top + view.height, view.left : view.left + view.width]
    if tuple(shown.shape[1:]) != tuple(view.scaled):
        real = shown[None] if shown.is_floating_point() else shown[None].float()
        shown = interpolate(real, view.scaled, mode="bilinear", antialias=True, align_corners=False)[0]
    (top, left), (height, width) = view.offset, view.scaled
    # Negative padding cuts: one call shifts, fills with zeros and takes the square.
    shown = torch.nn.functional.pad(shown, (-left, left + size - width, -top, top + size - height))
    return shown.flip(2) if view.mirrored else shown


def _loaded(folder: Path, transform: Transform) -> tuple[list[bytes], list[list[float]]]:
    """All image files of a split, and the random numbers of each."""
    manifest = load_manifest(folder)
    index: Any = manifest.load_index()
    with ShardReader(manifest, index) as reader:
        contents = [reader.read(row) for row in range(len(index))]
    return contents, draws(index.keys, SEED, 0, transform.draws).tolist()

"""From a decoded image to the network's input size, as a function of the sample's own random numbers.

Every transform maps a uint8 image (C, H, W) to a uint8 image (C, size, size). Randomness comes from the `random.Random`
that it is given, and only through `.random()`, whose sequence Python promises never to change: what a sample looks like
in an epoch depends on (seed, epoch, key) alone, never on workers, ranks or what was read before it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from random import Random

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from en_bench.errors import InputError


class Transform(ABC):
    """A map from a uint8 image (C, H, W) to a uint8 image (C, size, size)."""

    size: int

    @abstractmethod
    def __call__(self, image: Tensor, random: Random) -> Tensor: ...


class PadCropFlip(Transform):
    """The CIFAR recipe: pad by `padding` zeros, crop `size` x `size` at random, mirror half of the images.

    Source: He et al., "Deep Residual Learning for Image Recognition", 2015, section 4.2. Images must already be
    `size` x `size`; `flip` has to be off where mirroring changes the class, as with digits.
    """

    def __init__(self, size: int = 32, padding: int = 4, flip: bool = True) -> None:
        self.size, self.padding, self.flip = size, padding, flip

    def __call__(self, image: Tensor, random: Random) -> Tensor:
        channels, height, width = image.shape
        if (height, width) != (self.size, self.size):
            raise InputError(
                f"PadCropFlip expects {self.size}x{self.size} images and got {height}x{width}: "
                f"use ResizedCropFlip (--data.train_transform ResizedCropFlip --data.train_transform.size {self.size})"
            )
        top = int(random.random() * (2 * self.padding + 1))
        left = int(random.random() * (2 * self.padding + 1))
        mirrored = random.random() < 0.5
        padded = image.new_zeros(channels, height + 2 * self.padding, width + 2 * self.padding)
        padded[:, self.padding : self.padding + height, self.padding : self.padding + width] = image
        crop = padded[:, top : top + self.size, left : left + self.size]
        return crop.flip(-1) if self.flip and mirrored else crop


class ResizedCropFlip(Transform):
    """The ImageNet recipe: a crop of random area and shape, resized to `size` x `size`, half of them mirrored.

    Area is a share of the image drawn uniformly from `scale`, aspect ratio log-uniformly from `ratio`; after ten draws
    that do not fit the largest centred crop within `ratio` is taken. Source: Szegedy et al., "Going Deeper with
    Convolutions", 2015, section 6.
    """

    def __init__(
        self,
        size: int = 224,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: bool = True,
    ) -> None:
        self.size, self.scale, self.ratio, self.flip = size, scale, ratio, flip

    def __call__(self, image: Tensor, random: Random) -> Tensor:
        top, left, height, width = self._region(image.shape[-2], image.shape[-1], random)
        mirrored = random.random() < 0.5
        crop: Tensor = tv.resized_crop(image, top, left, height, width, [self.size, self.size], antialias=True)
        return crop.flip(-1) if self.flip and mirrored else crop

    def _region(self, height: int, width: int, random: Random) -> tuple[int, int, int, int]:
        low, high = (math.log(r) for r in self.ratio)
        for _ in range(10):
            area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * random.random())
            aspect = math.exp(low + (high - low) * random.random())
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return int(random.random() * (height - h + 1)), int(random.random() * (width - w + 1)), h, w
        h = min(height, round(width / self.ratio[0]))
        w = min(width, round(height * self.ratio[1]))
        return (height - h) // 2, (width - w) // 2, h, w


class CenterCrop(Transform):
    """Evaluation: the shorter side resized to `short_side` (default: `size`), then the middle `size` x `size`."""

    def __init__(self, size: int = 224, short_side: int | None = None) -> None:
        self.size, self.short_side = size, short_side or size
        if self.short_side < size:
            raise InputError(
                f"CenterCrop cannot cut {size} out of a shorter side of {short_side}: use short_side >= size"
            )

    def __call__(self, image: Tensor, random: Random) -> Tensor:
        if min(image.shape[-2:]) != self.short_side:
            image = tv.resize(image, [self.short_side], antialias=True)
        return (
            image
            if tuple(image.shape[-2:]) == (self.size, self.size)
            else tv.center_crop(image, [self.size, self.size])
        )


def normalise(image: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 (N, C, H, W) to float32, scaled to 0..1, minus `mean`, over `std` (each of shape (C,))."""
    shift, scale = mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)
    return image.to(torch.float32).div_(255).sub_(shift).div_(scale)

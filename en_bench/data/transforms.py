"""Augmentation and evaluation crops: which part of an image a network sees, as a function of random numbers.

A transform says what to take of an image before it is decoded, so that no more of it is decoded than is needed. Its
random numbers depend on (seed, epoch, key) alone (draws.py), never on workers, ranks or what was read before.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, float32

from en_bench.data.decoding import Pixels
from en_bench.data.views import View
from en_bench.errors import InputError


class Transform(ABC):
    """From an image of any size to a square uint8 image of `size` pixels.

    One of your own is a subclass in any importable module, named in YAML by its class path. It sets `size` and the
    number of random numbers that a sample needs, `draws`, and says in `view` what is taken of an image; `retouch` may
    change the result, as colour jitter does. Nothing but the arguments may enter, else a sample would depend on more
    than (seed, epoch, key).

        class RandomBrightness(ResizedCropFlip):
            draws = ResizedCropFlip.draws + 1

            def retouch(self, image, draws):
                image[...] = (image * (0.6 + 0.8 * draws[-1])).clip(0, 255)

    Attributes:
        size: pixels of each side of the result.
        draws: random numbers per sample, each uniform in [0, 1).
    """

    size: int
    draws: int = 0

    @abstractmethod
    def view(self, height: int, width: int, draws: Sequence[float]) -> View:
        """What is taken of an image of this size. Raises InputError for a size that cannot be used."""

    def retouch(self, image: Pixels, draws: Sequence[float]) -> None:  # noqa: B027 - there is nothing that must be done
        """Changes the finished image (size, size, 3) in place. By default nothing."""


class PadCropFlip(Transform):
    """The CIFAR recipe: pad by `padding` zeros, crop `size` x `size` at random, mirror half of the images.

    Source: He et al., "Deep Residual Learning for Image Recognition", 2015, section 4.2. Images must already be
    `size` x `size`; `flip` has to be off where mirroring changes the class, as with digits.
    """

    draws = 3

    def __init__(self, size: int = 32, padding: int = 4, flip: bool = True) -> None:
        self.size, self.padding, self.flip = size, padding, flip

    def view(self, height: int, width: int, draws: Sequence[float]) -> View:
        if (height, width) != (self.size, self.size):
            raise InputError(
                f"PadCropFlip expects {self.size}x{self.size} images and got {height}x{width}: "
                f"use ResizedCropFlip (--data.train_transform ResizedCropFlip --data.train_transform.size {self.size})"
            )
        shifts = 2 * self.padding + 1
        offset = int(draws[0] * shifts) - self.padding, int(draws[1] * shifts) - self.padding
        return View(0, 0, height, width, (height, width), offset, self.flip and draws[2] < 0.5)


class ResizedCropFlip(Transform):
    """The ImageNet recipe: a crop of random area and shape, resized to `size` x `size`, half of them mirrored.

    Area is a share of the image drawn uniformly from `scale`, aspect ratio log-uniformly from `ratio`; after ten draws
    that do not fit the largest centred crop within `ratio` is taken. Source: Szegedy et al., "Going Deeper with
    Convolutions", 2015, section 6.
    """

    _TRIES = 10
    draws = 2 * _TRIES + 3

    def __init__(
        self,
        size: int = 224,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: bool = True,
    ) -> None:
        self.size, self.scale, self.ratio, self.flip = size, scale, ratio, flip

    def view(self, height: int, width: int, draws: Sequence[float]) -> View:
        top, left, h, w = self._region(height, width, draws)
        return View(top, left, h, w, (self.size, self.size), mirrored=self.flip and draws[2] < 0.5)

    def _region(self, height: int, width: int, draws: Sequence[float]) -> tuple[int, int, int, int]:
        low, high = (math.log(r) for r in self.ratio)
        for at in range(3, 3 + 2 * self._TRIES, 2):
            area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * draws[at])
            aspect = math.exp(low + (high - low) * draws[at + 1])
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return int(draws[0] * (height - h + 1)), int(draws[1] * (width - w + 1)), h, w
        h = min(height, round(width / self.ratio[0]))
        w = min(width, round(height * self.ratio[1]))
        return (height - h) // 2, (width - w) // 2, h, w


class CenterCrop(Transform):
    """Evaluation: the shorter side resized to `short_side` (default: `size`), then the middle `size` x `size`.

    To the pixel what torchvision's Resize(short_side) and CenterCrop(size) take.
    """

    def __init__(self, size: int = 224, short_side: int | None = None) -> None:
        self.size, self.short_side = size, short_side or size
        if self.short_side < size:
            raise InputError(
                f"CenterCrop cannot cut {size} out of a shorter side of {short_side}: use short_side >= size"
            )

    def view(self, height: int, width: int, draws: Sequence[float]) -> View:
        long_side = int(self.short_side * max(height, width) / min(height, width))
        scaled = (self.short_side, long_side) if height <= width else (long_side, self.short_side)
        top, left = (round((length - self.size) / 2) for length in scaled)
        if scaled == (height, width):
            return View(top, left, self.size, self.size, (self.size, self.size))
        return View(0, 0, height, width, scaled, (top, left))


def normalise(image: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 (N, C, H, W) to float32, scaled to 0..1, minus `mean`, over `std` (each of shape (C,))."""
    shift, scale = mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)
    return image.to(float32).div_(255).sub_(shift).div_(scale)

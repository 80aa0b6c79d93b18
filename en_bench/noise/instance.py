"""Noise that depends on the image: the part-dependent generator of Xia et al."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from en_bench.data.draws import draws
from en_bench.errors import InputError
from en_bench.noise.base import Keys, Labels, Noise, SmallImages

_SPREAD = 0.1  # standard deviation of the samples' flip rates
_WEIGHTS = int.from_bytes(b"weights", "big")  # in the place of an epoch
_STEPS = 2.0**12  # per unit, of weights: a sum over an image's whole numbers is then exact in any order of adding
_CHUNK = 1024  # images that are multiplied at a time
_LEAST = 2.0**-54  # half of the smallest number above 0 that is drawn: the normal quantile of 0 is no number


class InstanceNoise(Noise):
    """Instance-dependent noise: how likely a sample's label is wrong differs between samples, and its image says how.

    Each sample has a flip rate q from a normal distribution of mean `rate` and standard deviation 0.1, truncated to
    0 .. 1. For each class y there is a matrix W_y of 32*32*3 x C numbers from the standard normal distribution. Of a
    sample with label y and pixels x (0 .. 255) the label stays with probability 1 - q, and becomes j, another one, with
    probability q * softmax over the others of (x W_y)[j].

    Source: Xia et al., "Part-dependent label noise: towards instance-dependent label noise" (NeurIPS 2020), algorithm
    2; pixels from 0 to 255 as in the authors' released code, where softmax picks one class nearly always: similar
    images of one class are mistaken for the same other one. The mean rate is `rate`, but for rates near 0 and 1, which
    the truncation moves inwards (0.206 at 0.2, 0.400 at 0.4). Weights are rounded to 1/4096.

    x is the whole image reduced to 32x32 RGB by `small_image`. Labels are those of other machines as long as images are
    decoded to the same pixels, as libjpeg-turbo and PNG do. Every image is read and decoded once when a run starts, in
    each of its processes, and 3 KB of each are held meanwhile; for large or far sets apply this noise when preparing.

    Args:
        rate: above 0, up to 1.
        seed: of the noise, not the run's.
    """

    kind: ClassVar[str] = "instance"
    needs_images: ClassVar[bool] = True

    def __init__(self, rate: float, seed: int = 0) -> None:
        super().__init__(seed)
        self.rate = rate

    def validate(self) -> None:
        super().validate()
        if not self.rate:
            raise InputError("InstanceNoise: at rate 0 its samples would still have rates around it: leave it out")

    def arguments(self) -> dict[str, Any]:
        return {"rate": self.rate}

    def flip(self, labels: Labels, keys: Keys, classes: Sequence[str], images: SmallImages | None) -> Labels:
        assert images is not None
        quantile, chance, choice = self._draws(keys, 3).T
        wrong = chance < self._flip_rates(quantile)
        made = labels.copy()
        for label in np.unique(labels):
            rows = np.flatnonzero((labels == label) & wrong)
            if not len(rows):
                continue
            weights = self._weights(int(label), images[0].size, len(classes))
            for start in range(0, len(rows), _CHUNK):
                some = rows[start : start + _CHUNK]
                pixels = images[some].reshape(len(some), -1).astype(np.float64)
                made[some] = _drawn(pixels @ weights, int(label), choice[some])
        return made

    def _flip_rates(self, quantile: NDArray[np.float64]) -> NDArray[np.float64]:
        """From uniform numbers to the truncated normal distribution, by its quantile function."""
        low, high = ndtr(-self.rate / _SPREAD), ndtr((1 - self.rate) / _SPREAD)
        rates: NDArray[np.float64] = self.rate + _SPREAD * ndtri(low + quantile * (high - low))
        return rates.clip(0.0, 1.0)

    def _weights(self, label: int, features: int, classes: int) -> NDArray[np.float64]:
        """W of one class, (features, classes)."""
        key = np.array([f"class {label}".encode()])
        uniform = draws(key, self.seed, _WEIGHTS, features * classes).reshape(features, classes)
        weights: NDArray[np.float64] = np.round(ndtri(np.maximum(uniform, _LEAST)) * _STEPS) / _STEPS
        return weights


def _drawn(logits: NDArray[np.float64], label: int, choice: NDArray[np.float64]) -> NDArray[np.int64]:
    """A class but `label` for each row of logits (n, C), drawn by the softmax over the others with `choice` (n,)."""
    logits[:, label] = -np.inf
    reached = np.cumsum(np.exp(logits - logits.max(axis=1, keepdims=True)), axis=1)
    above = reached > (choice * reached[:, -1])[:, None]
    # Where the product is rounded up to the total, the class with the largest logit takes it.
    drawn: NDArray[np.int64] = np.where(above.any(axis=1), above.argmax(axis=1), logits.argmax(axis=1))
    return drawn

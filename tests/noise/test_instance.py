"""The instance-dependent generator against its paper, and the images that it sees."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from en_bench.noise.instance import InstanceNoise
from en_bench.noise.small_images import small_image
from tests.data.test_draws import by_hand

CLASSES = tuple("abcd")
NOISE = int.from_bytes(b"noise", "big")
WEIGHTS = int.from_bytes(b"weights", "big")


def transcribed(labels, keys, images, rate: float, seed: int) -> tuple[list[int], np.ndarray]:
    """Algorithm 2 of Xia et al. sample by sample, in float64, from the same uniform numbers.

    Returns the labels, and the probabilities that they were drawn by, (N, C).
    """
    count = len(CLASSES)
    weights = []
    for label in range(count):
        uniform = by_hand(f"class {label}".encode(), seed, WEIGHTS, images[0].size * count)
        normal = stats.norm.ppf(np.array(uniform)).reshape(images[0].size, count)
        weights.append(np.round(normal * 4096) / 4096)
    rates = stats.truncnorm((0 - rate) / 0.1, (1 - rate) / 0.1, loc=rate, scale=0.1)
    made, probabilities = [], []
    for label, key, image in zip(labels, keys, images, strict=True):
        quantile, chance, choice = by_hand(bytes(key), seed, NOISE, 3)
        q = rates.ppf(quantile)
        p = image.astype(np.float64).ravel() @ weights[label]
        p[label] = -np.inf
        p = np.exp(p - p.max())
        p = q * p / p.sum()
        p[label] = 1 - q
        probabilities.append(p)
        if chance >= q:
            made.append(int(label))
            continue
        others, reached = [j for j in range(count) if j != label], 0.0
        for j in others:
            reached += p[j] / q
            if choice < reached:
                break
        made.append(j)
    return made, np.array(probabilities)


@pytest.mark.parametrize(("rate", "seed", "bright"), [(0.4, 0, 255), (0.15, 3, 255), (0.9, 1, 1), (0.5, 2, 2)])
def test_labels_are_those_of_the_paper(rate, seed, bright):
    """With dark images, too, of which softmax leaves more than one class possible."""
    rng = np.random.default_rng(seed)
    n = 400
    keys = np.array([f"s{i}" for i in range(n)], dtype="S")
    labels = rng.integers(0, 4, n).astype(np.int32)
    images = rng.integers(0, bright + 1, (n, 32, 32, 3)).astype(np.uint8)
    if bright < 5:
        images[:, 1:] = 0
    wanted, probabilities = transcribed(labels, keys, images, rate, seed)
    made = InstanceNoise(rate, seed).apply(labels, keys, CLASSES, lambda rows: images[rows])
    assert made.tolist() == wanted
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(n))
    assert 0.5 * rate * n < (made != labels).sum() < min(n, 1.5 * rate * n)


def test_the_image_decides_which_class_and_similar_images_share_it():
    n = 4000
    keys = np.array([f"s{i}" for i in range(n)], dtype="S")
    labels = np.zeros(n, dtype=np.int32)
    kind = np.arange(n) % 5
    base = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3))
    jitter = np.random.default_rng(1).integers(-3, 4, (n, 32, 32, 3))
    images = (base[kind] + jitter).clip(0, 255).astype(np.uint8)
    made = InstanceNoise(0.4).apply(labels, keys, tuple("abcdefghij"), lambda rows: images[rows])
    targets = [set(made[(kind == k) & (made != 0)].tolist()) for k in range(5)]
    assert [len(target) for target in targets] == [1] * 5 and len(set.union(*targets)) > 1


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (75, 50), (33, 200), (20, 20), (1, 7), (31, 40)])
def test_small_images_are_means_of_blocks(size):
    pixels = np.random.default_rng(2).integers(0, 256, (*size, 3)).astype(np.uint8)
    found = small_image(png(pixels))
    assert found.shape == (32, 32, 3) and found.dtype == np.uint8
    for i in range(32):
        for j in range(32):
            top, left = i * size[0] // 32, j * size[1] // 32
            bottom, right = max(top + 1, (i + 1) * size[0] // 32), max(left + 1, (j + 1) * size[1] // 32)
            block = pixels[top:bottom, left:right].reshape(-1, 3).astype(int)
            assert found[i, j].tolist() == [int(np.floor(mean + 0.5)) for mean in block.mean(axis=0)], (i, j)


def test_grey_images_have_three_channels_and_broken_ones_are_black():
    grey = np.arange(32 * 32, dtype=np.uint8).reshape(32, 32)
    assert np.array_equal(small_image(png(grey)), np.repeat(grey[:, :, None], 3, axis=2))
    assert not small_image(b"no image").any()

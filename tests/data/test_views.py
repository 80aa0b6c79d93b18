"""Making a network's input of an image."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from en_bench.data.views import View, render


def picture(height: int, width: int) -> np.ndarray:
    """An image with edges of all kinds, every value, and no symmetry."""
    noise = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3))
    ramp = np.add.outer(np.arange(height) * 3, np.arange(width) * 5)[..., None] + np.array([0, 60, 130])
    return np.where((ramp // 64) % 3 == 0, noise, ramp % 256).astype(np.uint8)


def shown(pixels: np.ndarray, view: View, size: int) -> np.ndarray:
    out = np.full((size, size, 3), 99, np.uint8)
    render(pixels, view, out)
    return out


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("row", "column"), [(0, 0), (-3, 2), (4, -4), (-9, 0), (0, 9), (3, 3)])
def test_a_window_beyond_the_image_is_zero_there(row, column, mirrored):
    image = picture(9, 9)
    padded = np.pad(image, ((9, 9), (9, 9), (0, 0)))
    expected = padded[9 + row : 18 + row, 9 + column : 18 + column][:, :: -1 if mirrored else 1]
    assert np.array_equal(shown(image, View(0, 0, 9, 9, (9, 9), (row, column), mirrored), 9), expected)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    ("region", "scaled", "offset", "size"),
    [
        ((0, 0, 90, 120), (24, 24), (0, 0), 24),
        ((5, 7, 60, 33), (32, 32), (0, 0), 32),
        ((80, 110, 10, 10), (32, 32), (0, 0), 32),  # enlarged
        ((0, 0, 90, 120), (40, 53), (8, 14), 24),
    ],
)
def test_resizing_is_torchvisions(region, scaled, offset, size, mirrored):
    image = picture(90, 120)
    top, left, height, width = region
    chw = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    expected = tv.resized_crop(chw, top, left, height, width, list(scaled), antialias=True)
    expected = tv.crop(expected, *offset, size, size)
    expected = tv.horizontal_flip(expected) if mirrored else expected
    found = shown(image, View(*region, scaled, offset, mirrored), size)
    difference = np.abs(found.astype(int) - expected.permute(1, 2, 0).numpy().astype(int))
    assert difference.max() <= 1


def test_rows_below_the_view_may_lack():
    image = picture(40, 40)
    view = View(4, 6, 20, 30, (16, 16))
    assert np.array_equal(shown(image[:24], view, 16), shown(image, view, 16))
    with pytest.raises(ValueError, match="does not lie in an image of 23x40 pixels"):
        shown(image[:23], view, 16)


@pytest.mark.parametrize("region", [(-1, 0, 5, 5), (0, 0, 11, 5), (0, 6, 5, 5), (0, 0, 0, 5), (3, 3, 5, 0)])
def test_a_view_outside_the_image_is_refused(region):
    with pytest.raises(ValueError, match="does not lie in an image of 10x10 pixels"):
        shown(picture(10, 10), View(*region, (4, 4)), 4)

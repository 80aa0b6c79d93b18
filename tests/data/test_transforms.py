"""Transforms against torchvision's, and against what their recipes say."""

from random import Random

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from en_bench.data.transforms import CenterCrop, PadCropFlip, ResizedCropFlip, Transform, normalise
from en_bench.data.views import View
from en_bench.errors import InputError
from tests.data.test_views import picture, shown


def numbers(transform: Transform, seed: int) -> list[float]:
    random = Random(seed)
    return [random.random() for _ in range(transform.draws)]


def applied(transform: Transform, image: np.ndarray, draws: list[float]) -> np.ndarray:
    return shown(image, transform.view(*image.shape[:2], draws), transform.size)


def test_pad_crop_flip_gives_every_shift_and_nothing_else():
    image = picture(8, 8)
    transform = PadCropFlip(8, padding=1, flip=True)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    possible = {
        padded[t : t + 8, s : s + 8, :][:, :: -1 if mirrored else 1].tobytes()
        for t in range(3)
        for s in range(3)
        for mirrored in (False, True)
    }
    seen = {applied(transform, image, numbers(transform, seed)).tobytes() for seed in range(400)}
    assert seen == possible


def test_pad_crop_flip_by_hand():
    image = picture(32, 32)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    largest = 1 - 2**-53
    assert np.array_equal(applied(PadCropFlip(), image, [0.0, largest, 0.5]), padded[0:32, 8:40])
    assert np.array_equal(applied(PadCropFlip(), image, [largest, 0.5, 0.4999]), padded[8:40, 4:36][:, ::-1])


def test_no_flip_never_mirrors():
    image = picture(8, 8)
    still = PadCropFlip(8, padding=0, flip=False)
    assert all(np.array_equal(applied(still, image, numbers(still, seed)), image) for seed in range(20))
    crops = [ResizedCropFlip(8, flip=False).view(40, 40, numbers(ResizedCropFlip(), seed)) for seed in range(20)]
    assert not any(view.mirrored for view in crops)


def test_pad_crop_flip_refuses_another_size():
    with pytest.raises(InputError, match="use ResizedCropFlip"):
        PadCropFlip(32).view(64, 64, [0.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [(375, 500, (0.08, 1.0)), (333, 250, (0.35, 1.0)), (60, 400, (0.5, 1.0)), (7, 5, (0.08, 1.0))],
)
def test_resized_crops_are_spread_as_torchvisions(height, width, scale):
    transform = ResizedCropFlip(32, scale=scale)
    torch.manual_seed(0)
    theirs = v2.RandomResizedCrop(32, scale=scale, antialias=True)
    like = torch.zeros(3, height, width, dtype=torch.uint8)
    params = [theirs.make_params([like]) for _ in range(3000)]
    expected = np.array([[p["top"], p["left"], p["height"], p["width"]] for p in params])
    views = [transform.view(height, width, numbers(transform, seed)) for seed in range(3000)]
    found = np.array([view[:4] for view in views])
    assert (found[:, :2] >= 0).all() and (found[:, 0] + found[:, 2] <= height).all()
    assert (found[:, 1] + found[:, 3] <= width).all()
    for ours, others in zip(found.T, expected.T, strict=True):
        steps = np.unique(np.concatenate([ours, others]))
        distance = np.abs(
            np.searchsorted(np.sort(ours), steps, "right") - np.searchsorted(np.sort(others), steps, "right")
        )
        assert distance.max() / 3000 < 0.063  # Kolmogorov and Smirnov, p = 1e-5
    assert 0.45 < np.mean([view.mirrored for view in views]) < 0.55


def test_resized_crop_has_its_size_and_is_a_function_of_the_numbers():
    transform = ResizedCropFlip(32)
    for shape in ((300, 200), (90, 120), (32, 32), (5, 4), (1, 1), (1, 700)):
        image = picture(*shape)
        first, again, other = (applied(transform, image, numbers(transform, seed)) for seed in (1, 1, 2))
        assert np.array_equal(first, again)
        assert min(shape) < 5 or not np.array_equal(first, other)


def test_a_thin_image_falls_back_to_the_largest_centred_crop():
    transform = ResizedCropFlip(32, scale=(0.9, 1.0))
    assert transform.view(10, 400, [0.5] * transform.draws)[:4] == (0, 193, 10, 13)
    assert transform.view(400, 10, [0.5] * transform.draws)[:4] == (193, 0, 13, 10)


@pytest.mark.parametrize(("size", "short_side"), [(32, None), (32, 40), (24, 33), (31, 32)])
@pytest.mark.parametrize("shape", [(40, 40), (100, 61), (61, 100), (33, 47), (32, 32), (20, 25), (333, 41)])
def test_center_crop_is_torchvisions(shape, size, short_side):
    image = picture(*shape)
    theirs = v2.Compose([v2.Resize(short_side or size, antialias=True), v2.CenterCrop(size)])
    expected = theirs(torch.from_numpy(image).permute(2, 0, 1).contiguous()).permute(1, 2, 0).numpy()
    found = applied(CenterCrop(size, short_side), image, [])
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


def test_center_crop_refuses_a_crop_larger_than_the_image():
    with pytest.raises(InputError, match="short_side >= size"):
        CenterCrop(224, short_side=200)


def test_center_crop_takes_no_more_of_an_image_than_it_shows():
    assert CenterCrop(4, short_side=6).view(6, 10, []) == View(1, 3, 4, 4, (4, 4))


def test_normalise_by_hand():
    x = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).repeat(1, 3, 1, 1)
    y = normalise(x, torch.tensor([0.5, 0.0, 1.0]), torch.tensor([0.5, 1.0, 2.0]))
    assert y[0, :, 0].tolist() == [[-1.0, 1.0], [0.0, 1.0], [-0.5, 0.0]]
    assert x.dtype == torch.uint8 and int(x.max()) == 255

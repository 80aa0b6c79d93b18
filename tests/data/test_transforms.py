from random import Random

import numpy as np
import pytest
import torch

from en_bench.data.transforms import CenterCrop, PadCropFlip, ResizedCropFlip, normalise
from en_bench.errors import InputError


def image(height: int, width: int) -> torch.Tensor:
    return torch.arange(3 * height * width, dtype=torch.int64).remainder(251).to(torch.uint8).view(3, height, width)


def test_pad_crop_flip_gives_every_shift_and_nothing_else():
    x = image(8, 8)
    transform = PadCropFlip(8, padding=1, flip=True)
    padded = np.pad(x.numpy(), ((0, 0), (1, 1), (1, 1)))
    possible = {
        (padded[:, t : t + 8, s : s + 8][:, :, :: -1 if mirrored else 1].tobytes())
        for t in range(3)
        for s in range(3)
        for mirrored in (False, True)
    }
    seen = {transform(x, Random(seed)).contiguous().numpy().tobytes() for seed in range(400)}
    assert seen == possible


def test_no_flip_never_mirrors():
    x = image(8, 8)
    assert all(torch.equal(PadCropFlip(8, padding=0, flip=False)(x, Random(s)), x) for s in range(20))


def test_pad_crop_flip_refuses_another_size():
    with pytest.raises(InputError, match="use ResizedCropFlip"):
        PadCropFlip(32)(image(64, 64), Random(0))


@pytest.mark.parametrize("shape", [(300, 200), (90, 120), (224, 224), (5, 4)])
def test_resized_crop_has_the_size_and_is_a_function_of_the_seed(shape):
    transform = ResizedCropFlip(32)
    x = image(*shape)
    first, again, other = (transform(x, Random(seed)) for seed in (1, 1, 2))
    assert first.shape == (3, 32, 32) and first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_resized_crop_regions_keep_their_bounds():
    transform = ResizedCropFlip(32, scale=(0.1, 1.0))
    for seed in range(300):
        top, left, h, w = transform._region(90, 120, Random(seed))
        assert 0 <= top <= 90 - h and 0 <= left <= 120 - w
        assert 0.08 <= h * w / (90 * 120) <= 1.0
        assert 0.7 <= w / h <= 1.4


def test_a_thin_image_falls_back_to_the_largest_centred_crop():
    assert ResizedCropFlip(32, scale=(0.9, 1.0))._region(10, 400, Random(0)) == (0, 193, 10, 13)


def test_center_crop_by_hand():
    x = image(6, 10)
    assert torch.equal(CenterCrop(4, short_side=6)(x, Random(0)), x[:, 1:5, 3:7])
    assert torch.equal(CenterCrop(6)(image(6, 6), Random(0)), image(6, 6))
    assert CenterCrop(32, 40)(image(100, 60), Random(0)).shape == (3, 32, 32)


def test_center_crop_refuses_a_crop_larger_than_the_image():
    with pytest.raises(InputError, match="short_side >= size"):
        CenterCrop(224, short_side=200)


def test_normalise_by_hand():
    x = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).repeat(1, 3, 1, 1)
    y = normalise(x, torch.tensor([0.5, 0.0, 1.0]), torch.tensor([0.5, 1.0, 2.0]))
    assert y[0, :, 0].tolist() == [[-1.0, 1.0], [0.0, 1.0], [-0.5, 0.0]]
    assert x.dtype == torch.uint8 and int(x.max()) == 255

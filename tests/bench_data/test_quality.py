"""Crops and mixing, as `en-bench bench data` measures them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from en_bench.benchmark import data_mixing
from en_bench.benchmark.data_decoding import alone, crop, on_device, show
from en_bench.benchmark.data_material import material
from en_bench.benchmark.data_quality import measure_quality
from en_bench.benchmark.data_recipe import Recipe
from en_bench.data.decoding import decode
from en_bench.data.shuffle import Shuffle
from en_bench.data.transforms import PadCropFlip, ResizedCropFlip
from en_bench.data.views import View, render
from tests.bench_data.made import LARGE, SMALL, photo, settings

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")  # torchvision's


@pytest.mark.parametrize("recipe", [SMALL, LARGE, Recipe(224, padded=False)])
def test_evaluation_crops_agree(recipe: Recipe) -> None:
    """Ours, torchvision's on tensors and torchvision's on Pillow images show the same square."""
    size = (32, 32) if recipe.padded else (300, 260)
    data = photo(1, size)
    ours = np.empty((recipe.size, recipe.size, 3), np.uint8)
    crop(data, recipe.ours("eval"), [], ours)
    tensors = recipe.tensors("eval")(data).permute(1, 2, 0).numpy()
    with Image.open(io.BytesIO(data)) as image:
        floats = recipe.pillow("eval")(image.convert("RGB"))
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pillow = ((floats * std + mean) * 255).permute(1, 2, 0).numpy()
    assert floats.dtype == torch.float32
    assert np.abs(ours.astype(int) - tensors.astype(int)).max() <= 1
    assert np.abs(ours - pillow).max() <= 2.1


@pytest.mark.parametrize("recipe", [SMALL, LARGE])
def test_training_crops_have_the_network_s_size(recipe: Recipe) -> None:
    data = photo(1, (32, 32) if recipe.padded else (120, 90))
    assert recipe.tensors("train")(data).shape == (3, recipe.size, recipe.size)
    with Image.open(io.BytesIO(data)) as image:
        assert recipe.pillow("train")(image.convert("RGB")).shape == (3, recipe.size, recipe.size)


def test_short_side_is_that_of_the_recipes() -> None:
    assert (Recipe(224, False).short_side, Recipe(32, True).short_side) == (256, 32)


@pytest.mark.parametrize("transform", [PadCropFlip(32), ResizedCropFlip(24)])
def test_what_the_gpu_shows_is_what_the_stream_shows(transform: Any) -> None:
    """With torch's own operators alone, on any device; float64 differs by rounding only."""
    pixels = decode(photo(2, (32, 32)))
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    mirrored = set()
    for seed in range(20):
        view = transform.view(32, 32, np.random.default_rng(seed).random(transform.draws).tolist())
        mirrored.add(view.mirrored)
        out = np.empty((transform.size, transform.size, 3), np.uint8)
        render(pixels, view, out)
        shown = show(tensor.double(), view, transform.size).permute(1, 2, 0).numpy()
        assert shown.shape == out.shape and np.abs(shown - out).max() < 1.01
    assert mirrored == {True, False}


def test_a_device_gets_through_the_split(photos: Path) -> None:
    reads = on_device(photos, LARGE, "train", 5, 0, device=torch.device("cpu"))
    assert list(reads(0)) == [5, 5, 2]


def test_quality_tells_a_wrong_crop(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from en_bench.benchmark import data_quality

    with material(settings(photos)) as made:
        right = measure_quality(settings(photos), made, lambda text: None)["cases"]
        assert [case["stage"] for case in right] == ["train", "eval"]
        for case in right:
            assert case["count"] == case["equal"] == 12
            assert case["psnr"]["ours"]["worst"] > 50 < case["psnr"]["Pillow"]["worst"]

        def shifted(data: bytes, transform: Any, random: list[float], out: Any) -> None:
            crop(data, transform, random, out)
            out[:] = np.roll(out, 1, axis=0)

        monkeypatch.setattr(data_quality, "crop", shifted)
        wrong = measure_quality(settings(photos), made, lambda text: None)["cases"]
        assert all(case["equal"] == 0 and case["psnr"]["ours"]["mean"] < 45 for case in wrong)


def test_alone_crops_every_image_as_the_stream_does(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr("en_bench.benchmark.data_decoding.render", lambda pixels, view, out: made.append(view))
    assert sum(alone(photos, LARGE, "train", 4, 0)(0)) == 12
    assert len(set(made)) == 12 and all(isinstance(view, View) for view in made)


# ---- Mixing


def test_figures_of_an_order_by_hand() -> None:
    labels, shards = np.array([0, 0, 1, 1, 2, 2, 2]), np.array([0, 0, 0, 0, 1, 1, 1])
    found = data_mixing.quality(np.arange(7), labels, shards, 3)  # batches 0 0 1 and 1 2 2; the last one is not whole
    assert found == {"run": 6 / 4, "classes": 2.0, "neighbours": 3 / 4}
    mixed = data_mixing.quality(np.array([0, 3, 4, 1, 2, 5]), labels, shards, 3)  # 0 1 2 and 0 1 2
    assert mixed == {"run": 1.0, "classes": 3.0, "neighbours": 2 / 4}


def test_a_sorted_split_is_mixed_and_one_shard_at_a_time_is_seen() -> None:
    labels = np.repeat(np.arange(10), 2000)
    ours = data_mixing._case("s", "sorted", Shuffle((2000,) * 10, 0, 10), labels, 64)
    assert ours["perfect"]["run"] == pytest.approx(1 / 0.9, abs=0.02)
    assert ours["ours"]["run"] < 1.2 and ours["perfect"]["neighbours"] == pytest.approx(0.1, abs=0.01)
    bad = data_mixing._case("s", "sorted", Shuffle((2000,) * 10, 0, 1), labels, 64)
    assert bad["ours"]["run"] > 30 and bad["ours"]["neighbours"] > 0.99 and bad["ours"]["classes"] < 1.1

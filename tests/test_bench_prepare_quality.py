"""The quality of resized images in `en-bench bench prepare`: against figures by hand and Pillow in float."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from en_bench.benchmark.prepare_images import material
from en_bench.benchmark.prepare_quality import OURS, OURS_ENCODED, PIL, PIL_ENCODED, measure_quality, psnr, reference
from en_bench.benchmark.prepare_settings import Settings
from tests.scripts.raw import encoded, picture, tar_bytes


def test_psnr_by_hand() -> None:
    exact = np.full((2, 2, 3), 100.0)
    pixels = np.full((2, 2, 3), 100, dtype=np.uint8)
    assert psnr(pixels, exact) > 140
    pixels[0, 0, 0] = 112  # an error of 144 in one of 12 values: 12 on average
    assert psnr(pixels, exact) == pytest.approx(20 * math.log10(255) - 10 * math.log10(12))
    assert psnr(np.full((2, 2, 1), 99, dtype=np.uint8), exact) == pytest.approx(20 * math.log10(255))


def test_the_reference_is_pillows_filter_without_its_rounding() -> None:
    image = picture(1, (61, 47))
    exact = reference(np.asarray(image), 20, 26)
    for channel, plane in enumerate(image.split()):
        resized = plane.convert("F").resize((26, 20), Image.Resampling.BICUBIC)
        assert np.abs(np.clip(np.asarray(resized), 0, 255) - exact[..., channel]).max() < 1e-3


def test_quality_is_over_resized_images_apart_by_their_way_of_decoding(tmp_path: Path) -> None:
    """Of sides 200, 120 and 40 reduced to 60, 30 and 15: which are larger, and which at least twice as large."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 260, 3), dtype=np.uint8)
    pictures = [Image.fromarray(noise).resize(size) for size in ((260, 200), (120, 150), (40, 50))]
    path = tmp_path / "images.tar"
    path.write_bytes(tar_bytes({f"{i}.jpg": encoded(image, quality=95) for i, image in enumerate(pictures)}))
    told = Settings(path, 1e-3, 60, 90, (1,), {}, tmp_path, True)
    with material(told) as made:
        cases = measure_quality(told, made, lambda text: None)["cases"]
    counts: dict[int, int] = {}
    for case in cases:
        counts[case["short_side"]] = counts.get(case["short_side"], 0) + case["images"]
    assert counts == {60: 2, 30: 3, 15: 3}
    for case in cases:
        found = case["psnr"]
        assert set(found) == {OURS, OURS_ENCODED, PIL, PIL_ENCODED}
        assert all(values["worst"] <= values["p5"] <= values["mean"] for values in found.values())
        assert found[PIL]["worst"] > 50 > found[PIL_ENCODED]["worst"]
        if case["decoded"] == "whole":
            assert found[OURS]["worst"] > 50 > found[OURS_ENCODED]["worst"]

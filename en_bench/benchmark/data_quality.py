"""How close our crops come to exact arithmetic, beside what the standard recipe makes of the same regions."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from en_bench.benchmark.data_decoding import SEED, crop, show
from en_bench.benchmark.data_material import Material
from en_bench.benchmark.data_recipe import Stage
from en_bench.benchmark.data_settings import Settings
from en_bench.benchmark.prepare_quality import Floats, psnr
from en_bench.data.decoding import ImageFile, Pixels, decode
from en_bench.data.draws import draws
from en_bench.data.manifest import load_manifest
from en_bench.data.reader import ShardReader
from en_bench.data.transforms import Transform
from en_bench.data.views import View, render

OURS, PILLOW = "ours", "Pillow"
IMAGES = 250  # at most, of each split


def measure_quality(settings: Settings, material: Material, tell: Callable[[str], None]) -> dict[str, Any]:
    """In `cases`, for training and evaluation, the PSNR of crops in dB, and how many are those of full decoding."""
    cases = []
    kinds = {"shards": material.shards, **({"original": material.original} if settings.original is not None else {})}
    for kind, split in kinds.items():
        manifest = load_manifest(split.ours)
        index = manifest.load_index()
        stages: tuple[Stage, ...] = ("train", "eval")
        for stage in stages:
            tell(f"quality: {kind}, {stage}")
            transform = settings.recipe.ours(stage)
            random = draws(index.keys, SEED, 0, transform.draws).tolist()
            found = []
            with ShardReader(manifest, index) as reader:
                for row in range(min(IMAGES, split.distinct, len(index))):
                    found.append(_measured(reader.read(row), transform, random[row]))
            cases.append(
                {
                    "images": kind,
                    "stage": stage,
                    "count": len(found),
                    "equal": sum(equal for equal, _ in found),
                    "psnr": {name: _summary([values[name] for _, values in found]) for name in (OURS, PILLOW)},
                }
            )
    return {"cases": cases}


def _measured(data: bytes, transform: Transform, random: list[float]) -> tuple[bool, dict[str, float]]:
    """Whether our crop is that of the whole image decoded, and the PSNR of each against exact arithmetic."""
    ours = np.empty((transform.size, transform.size, 3), np.uint8)
    crop(data, transform, random, ours)
    image = ImageFile(data)
    view = transform.view(image.height, image.width, random)
    whole = np.empty_like(ours)
    render(decode(data), view, whole)
    with Image.open(io.BytesIO(data)) as opened:
        rgb = opened.convert("RGB")
    exact = reference(np.asarray(rgb), view, transform.size)
    made = {OURS: ours, PILLOW: _by_pillow(rgb, view, transform.size)}
    return bool((ours == whole).all()), {name: psnr(pixels, exact) for name, pixels in made.items()}


def reference(pixels: Pixels, view: View, size: int) -> Floats:
    """What a view shows of (H, W, 3), in float64, unrounded: (size, size, 3)."""
    image = torch.from_numpy(pixels.astype(np.float64)).permute(2, 0, 1)
    shown: Floats = show(image, view, size).permute(1, 2, 0).numpy()
    return shown


def _by_pillow(image: Image.Image, view: View, size: int) -> Pixels:
    box = (view.left, view.top, view.left + view.width, view.top + view.height)
    cut = image.crop(box)
    if (cut.height, cut.width) != tuple(view.scaled):
        cut = cut.resize((view.scaled[1], view.scaled[0]), Image.Resampling.BILINEAR)
    made: Pixels = show(torch.from_numpy(np.array(cut)).permute(2, 0, 1), _kept(view), size).permute(1, 2, 0).numpy()
    return made


def _kept(view: View) -> View:
    """The rest of a view, once its rectangle has been cut out and resized."""
    return View(0, 0, *view.scaled, view.scaled, view.offset, view.mirrored)


def _summary(values: list[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "p5": float(np.percentile(values, 5)), "worst": min(values)}

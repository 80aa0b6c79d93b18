"""Images and settings that the tests of `en-bench bench data` share."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from en_bench.benchmark.data_recipe import Recipe
from en_bench.benchmark.data_settings import Settings

SMALL, LARGE = Recipe(32, padded=True), Recipe(48, padded=False)


def photo(seed: int, size: tuple[int, int]) -> bytes:
    """A smooth JPEG with some noise, of width x height."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    out = io.BytesIO()
    coarse.save(out, "JPEG", quality=90)
    return out.getvalue()


def settings(shards: Path, **changes: Any) -> Settings:
    told: dict[str, Any] = {
        "sections": ("rates",),
        "shards": shards,
        "original": None,
        "recipe": LARGE,
        "samples": 20,
        "batch": 4,
        "workers": (1,),
        "repeats": 1,
        "seconds": 0.01,
        "epochs": 4,
        "model": None,
        "norm": "bn",
        "training_workers": (0,),
        "scratch": shards.parent,
        "quick": True,
    }
    return Settings(**{**told, **changes})

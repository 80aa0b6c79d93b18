"""How close images that were reduced come to exact arithmetic, beside what Pillow makes of them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import interpolate

from en_bench.benchmark.prepare_images import Material
from en_bench.benchmark.prepare_settings import Settings
from en_bench.data.images import ImageEncoder, reduced_pixels

OURS, OURS_ENCODED = "ours, before encoding", "ours, as JPEG"
PIL, PIL_ENCODED = "Pillow, before encoding", "Pillow, as JPEG"
_EXACT = 1e-10  # a mean squared error below this is told as this: equal images have no PSNR

Floats = NDArray[np.float64]


def measure_quality(settings: Settings, material: Material, tell: Callable[[str], None]) -> dict[str, Any]:
    """In `cases`, per shorter side and way of decoding, mean, 5th percentile and worst PSNR in dB.

    Over the images that are larger than the shorter side; halves and quarters of the asked one show those too that
    are decoded at 1/2, 1/4 or 1/8 of their size.
    """
    cases = []
    for short_side in dict.fromkeys(max(1, settings.short_side // divisor) for divisor in (1, 2, 4)):
        tell(f"quality: shorter side {short_side}")
        encoder = ImageEncoder(short_side=short_side, quality=settings.quality)
        found = [told for raw in material.images if (told := _measured(raw, encoder)) is not None]
        groups = {
            "whole": [psnr for reduced, psnr in found if not reduced],
            "reduced": [psnr for reduced, psnr in found if reduced],
        }
        for decoded, values in groups.items():
            if values:
                psnr = {name: _summary([value[name] for value in values]) for name in values[0]}
                cases.append({"short_side": short_side, "decoded": decoded, "images": len(values), "psnr": psnr})
    return {"quality": settings.quality, "cases": cases}


def _measured(raw: bytes, encoder: ImageEncoder) -> tuple[bool, dict[str, float]] | None:
    """Whether it is decoded at a part of its size, and the PSNR of each; None for an image that is not resized."""
    encoded = encoder(raw)
    if encoded.kept:
        return None
    (width, height), (full_width, full_height) = encoded.size, encoded.raw_size
    with Image.open(io.BytesIO(raw)) as opened:
        grey, image = opened.mode == "L", opened.convert("RGB")
    exact = reference(np.asarray(image), height, width)
    smaller = image.resize((width, height), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    smaller.save(out, "JPEG", quality=encoder.quality)
    decoded = simplejpeg.decode_jpeg(raw, "GRAY", min_height=height, min_width=width, min_factor=2)
    made = {
        OURS: reduced_pixels(raw, "GRAY" if grey else "RGB", height, width),
        PIL: np.asarray(smaller),
        OURS_ENCODED: _decoded(encoded.payload),
        PIL_ENCODED: _decoded(out.getvalue()),
    }
    return decoded.shape[:2] != (full_height, full_width), {name: psnr(it, exact) for name, it in made.items()}


def reference(pixels: NDArray[np.uint8], height: int, width: int) -> Floats:
    """(H, W, C) to (height, width, C): the bicubic filter with antialiasing in float64, within 0 to 255, unrounded."""
    planes = torch.from_numpy(pixels.astype(np.float64)).permute(2, 0, 1)[None]
    resized = interpolate(planes, (height, width), mode="bicubic", antialias=True, align_corners=False)
    return resized[0].permute(1, 2, 0).clamp(0, 255).numpy()


def psnr(pixels: NDArray[np.uint8], exact: Floats) -> float:
    """In dB, for 255; grey (H, W, 1) is compared with each of three channels."""
    error = float(np.mean((pixels.astype(np.float64) - exact) ** 2))
    return float(10 * np.log10(255**2 / max(error, _EXACT)))


def _decoded(payload: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(payload)) as image:
        return np.asarray(image.convert("RGB"))


def _summary(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "p5": float(np.percentile(values, 5)), "worst": min(values)}

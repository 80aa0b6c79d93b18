"""One process: writing shards against decoding, encoding and copying alone."""

from __future__ import annotations

import io
import itertools
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

import simplejpeg
from PIL import Image

from en_bench.benchmark.prepare_images import Material
from en_bench.benchmark.prepare_settings import Settings
from en_bench.benchmark.prepare_writing import seconds_to_write
from en_bench.benchmark.timing import OwnClock, interleaved
from en_bench.data.sources import Source

WRITE_KEPT, WRITE_RESIZED, WRITE_COPIED = "write_split, kept", "write_split, resized", "write_split --no-verify"
PILLOW, SIMPLEJPEG = "decoding, Pillow", "decoding, simplejpeg"
CONTROL = "decoding, simplejpeg again"  # the same twice: how far from 1.00 equal things are measured here
ENCODER_KEPT, ENCODER_RESIZED = "ImageEncoder, kept", "ImageEncoder, resized"
PROTOTYPE = "PIL prototype, resized"
TAR, TAR_SYNC = "tar + sha256sum", "tar + sync + sha256sum"


def measure_rates(settings: Settings, material: Material, tell: Callable[[str], None]) -> dict[str, Any]:
    """Seconds in which each gets through one part, all on the same part before any goes on to the next."""
    tell(f"rates: {len(material.parts)} parts of {len(material.parts[0]):,} images, {settings.repeats['rates']} rounds")
    kept, resized = settings.kept(), settings.resized()

    def writing(part: Sequence[Source], encoder: Any) -> float:
        return seconds_to_write(material, part, encoder)

    works: dict[str, tuple[Callable[[Sequence[Source], Any], float], Any]] = {
        WRITE_KEPT: (writing, kept),
        PILLOW: (seconds_in_memory, decode_pillow),
        SIMPLEJPEG: (seconds_in_memory, decode_simplejpeg),
        CONTROL: (seconds_in_memory, decode_simplejpeg),
        ENCODER_KEPT: (seconds_in_memory, kept),
        WRITE_RESIZED: (writing, resized),
        ENCODER_RESIZED: (seconds_in_memory, resized),
        PROTOTYPE: (seconds_in_memory, lambda raw: prototype(raw, settings.short_side, settings.quality)),
    }
    calls = {name: _part_by_part(material, work, function) for name, (work, function) in works.items()}
    timings = interleaved(calls, OwnClock(), settings.repeats["rates"], warm_ups=1)
    return {"images": len(material.parts[0]), "bytes": material.part_bytes, "timings": timings}


def measure_copy(settings: Settings, material: Material, tell: Callable[[str], None]) -> dict[str, Any]:
    """Seconds in which all copies are put into tars with their sha256."""
    tell(f"copying: all {len(material.samples):,} images, {settings.repeats['copy']} rounds")
    samples, encoder = material.samples, settings.kept(verify=False)
    calls = {
        WRITE_COPIED: lambda: seconds_to_write(material, samples, encoder, shards=len(material.parts)),
        TAR: lambda: _seconds_of_tar(material, sync=False),
        TAR_SYNC: lambda: _seconds_of_tar(material, sync=True),
    }
    timings = interleaved(calls, OwnClock(), settings.repeats["copy"], warm_ups=1)
    return {"images": len(samples), "bytes": material.part_bytes * len(material.parts), "timings": timings}


def seconds_in_memory(part: Sequence[Source], function: Callable[[bytes], object]) -> float:
    """Seconds of `function` on the images of a part, which have been read before."""
    contents = [sample.load() for sample in part]
    start = time.perf_counter()
    for content in contents:
        function(content)
    return time.perf_counter() - start


def decode_pillow(raw: bytes) -> None:
    with Image.open(io.BytesIO(raw)) as image:
        image.load()


def decode_simplejpeg(raw: bytes) -> None:
    simplejpeg.decode_jpeg(raw, "RGB")


def prototype(raw: bytes, short_side: int, quality: int) -> bytes:
    """Resizing as one writes it with Pillow without thinking of its cost."""
    with Image.open(io.BytesIO(raw)) as opened:
        image = opened.convert("RGB")
    scale = short_side / min(image.size)
    if scale < 1:
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def _part_by_part(
    material: Material, work: Callable[[Sequence[Source], Any], float], function: Any
) -> Callable[[], float]:
    parts = itertools.cycle(material.parts)
    return lambda: work(next(parts), function)


def _seconds_of_tar(material: Material, sync: bool) -> float:
    tar = material.scratch / "files.tar"
    commands = [["tar", "-cf", str(tar), "-C", str(material.files), "."], ["sha256sum", str(tar)]]
    if sync:
        commands.insert(1, ["sync", str(tar)])
    try:
        start = time.perf_counter()
        for command in commands:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start
    finally:
        tar.unlink(missing_ok=True)

"""Our stream beside those of other makers, one process each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from en_bench.benchmark import data_peers
from en_bench.benchmark.data_material import Material
from en_bench.benchmark.data_settings import Settings
from en_bench.benchmark.data_turns import Contender, take_turns, warm

OURS = "en_bench"
SAME_DECODER = "en_bench with torchvision's decoder"
WAYS = ("bytes", "decoded")


def timing(name: str, way: str) -> str:
    """Name of a timing."""
    return f"{name}, {way}"


def measure_peers(settings: Settings, material: Material, tell: Callable[[str], None]) -> dict[str, Any]:
    """Seconds per image, only read and decoded and augmented, shuffled, from the same image files."""
    contenders = [
        Contender(timing(OURS, "bytes"), "bytes"),
        Contender(timing(OURS, "decoded"), "stream", epochs="each"),
        Contender(timing(SAME_DECODER, "decoded"), "same decoder"),
    ]
    for name in data_peers.PEERS:
        contenders += [Contender(timing(name, way), f"{name} {way}", format=name) for way in WAYS]
    warm([material.shards])
    timings = take_turns(settings, contenders, {"shards": material.shards}, tell)
    return {"peers": list(data_peers.PEERS), "versions": data_peers.versions(), "timings": timings}

"""Data sets of prepared splits, for tests of what they give."""

from pathlib import Path
from typing import Any

from en_bench.data.dataset import StreamDataset
from en_bench.data.manifest import load_manifest
from en_bench.data.targets import training_targets
from en_bench.data.transforms import Transform


def open_dataset(
    folder: Path, transform: Transform, seed: int = 0, labels: str = "given", **more: Any
) -> StreamDataset:
    manifest = load_manifest(folder)
    index = manifest.load_index()
    return StreamDataset(manifest, index, training_targets(manifest, index, labels), transform, seed, **more)

"""Small splits with several label columns."""

from __future__ import annotations

import dataclasses
import hashlib
from functools import partial
from pathlib import Path

import numpy as np

from en_bench.data.images import ImageEncoder
from en_bench.data.index import index_bytes
from en_bench.data.manifest import INDEX_NAME, load_manifest, save_manifest
from en_bench.data.sources import Source
from en_bench.data.writer import write_split
from tests.images import coloured_png

CLASSES = ("dark", "grey", "bright")


def labelled_split(folder: Path, count: int, seed: int = 0) -> Path:
    """Columns `given` and `clean`, both right, and `human`, of which every fourth is wrong and every tenth unknown."""
    encoder = ImageEncoder(encoding="png")
    samples = []
    for i in range(count):
        label = i % 3
        human = -1 if i % 10 == 9 else (label + 1) % 3 if i % 4 == 0 else label
        labels = {"given": label, "clean": label, "human": human}
        samples.append(Source(f"s{seed}-{i:04d}", labels, partial(coloured_png, label, seed * 9999 + i), f"s {i}"))
    write_split(
        folder,
        samples,
        dataset="toy",
        split=folder.name,
        classes=CLASSES,
        encode=encoder,
        image=encoder.describe(),
        source={},
        noise={"human": {"kind": "human", "source": "us"}},
        shards=4,
    )
    return folder


def labelled_sets(root: Path) -> Path:
    """`root` with a/train of 200 samples and a/val of 60."""
    labelled_split(root / "a" / "train", 200, seed=1)
    labelled_split(root / "a" / "val", 60, seed=2)
    return root


def garble(folder: Path, *columns: str) -> None:
    """Puts the labels of these columns in another order; the hashes of index and manifest are made right."""
    before = load_manifest(folder).load_index().labels
    labels = {name: np.random.default_rng(number).permutation(before[name]) for number, name in enumerate(columns)}
    assert all((labels[name] != before[name]).any() for name in columns)
    relabel(folder, **labels)


def relabel(folder: Path, **labels: np.ndarray) -> None:
    """Puts these labels (N,) into the place of those of their columns; hashes are made right."""
    manifest = load_manifest(folder)
    index = manifest.load_index()
    content = index_bytes(dataclasses.replace(index, labels={**index.labels, **labels}))
    (folder / INDEX_NAME).write_bytes(content)
    save_manifest(dataclasses.replace(manifest, index_sha256=hashlib.sha256(content).hexdigest()))

"""Small splits for the tests of `en-bench bench data`."""

from __future__ import annotations

from pathlib import Path

import pytest

from en_bench.data.images import ImageEncoder
from en_bench.data.sources import Source
from en_bench.data.writer import write_split
from tests.bench_data.made import photo
from tests.images import make_split


@pytest.fixture(scope="package")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_split(tmp_path_factory.mktemp("bench_small") / "train", 60)


@pytest.fixture(scope="package")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench_photos") / "train"
    contents = [photo(seed, (90 + seed, 70 + 3 * seed)) for seed in range(12)]
    sources = [
        Source(f"p{i:02d}", {"given": i % 4}, lambda i=i: contents[i], f"photo {i}")  # type: ignore[misc]
        for i in range(12)
    ]
    encoder = ImageEncoder()
    about = {"dataset": "photos", "split": "train", "classes": list("abcd"), "image": encoder.describe(), "source": {}}
    write_split(folder, sources, encode=encoder, shards=3, **about)  # type: ignore[arg-type]
    return folder

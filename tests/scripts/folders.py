"""A small tree of images."""

from __future__ import annotations

import csv
from pathlib import Path

from PIL import Image

from tests.scripts import raw as raw_files
from tests.scripts.raw import tar_bytes


def jpeg(value: int, size: tuple[int, int] = (40, 24)) -> bytes:
    return raw_files.encoded(Image.new("RGB", size, (value % 256, 60, 200)))


def tree(per_class: int = 3) -> dict[str, bytes]:
    """<split>/<class>/<file> of train and test with the classes cat, dog, horse."""
    places = [(s, c, i) for s in ("train", "test") for c in ("cat", "dog", "horse") for i in range(per_class)]
    return {f"{s}/{c}/{i:03d}.jpg": jpeg(40 * i + len(s) + len(c)) for s, c, i in places}


def as_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    path.write_bytes(tar_bytes(files, mode))
    return path


def as_csv(path: Path, rows: list[tuple[str, ...]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path

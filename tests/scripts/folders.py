"""A small tree of images, and data_scripts/imagefolder.py called on raw files within the test's own process."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from data_scripts import imagefolder
from tests.scripts import raw as raw_files
from tests.scripts.raw import tar_bytes

Run = Callable[..., tuple[int, str, str]]


def caller(capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that calls the script with its arguments and returns exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = imagefolder.main([str(argument) for argument in ("--workers", 1, *arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


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

"""Raw archives in small, in the layouts in which they are published, and the commands run on them."""

from __future__ import annotations

import csv
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from en_bench.cli import main
from en_bench.data.manifest import Manifest, load_manifest
from en_bench.data.reader import ShardReader

REPO = Path(__file__).resolve().parents[2]


def picture(seed: int, size: tuple[int, int] = (40, 36), mode: str = "RGB") -> Image.Image:
    """A smooth coloured image of (width, height), different for every seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, form: str = "JPEG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def jpeg(seed: int, size: tuple[int, int] = (40, 36), mode: str = "RGB") -> bytes:
    """A JPEG; `mode` "CMYK" and "L" make those kinds."""
    return encoded(picture(seed, size, mode), quality=90)


def png(seed: int, size: tuple[int, int] = (40, 36)) -> bytes:
    return encoded(picture(seed, size), "PNG")


def turned_jpeg(seed: int, size: tuple[int, int] = (40, 36)) -> bytes:
    """A JPEG whose EXIF orientation (6) asks for a quarter turn clockwise: upright it has (height, width) of `size`."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(seed, size), exif=exif)


def truncated_jpeg(seed: int) -> bytes:
    whole = jpeg(seed, (200, 160))
    return whole[: len(whole) // 2]


def mask_png(values: np.ndarray, palette: bool = False) -> bytes:
    """An index mask (H, W) as PNG, with a palette if asked."""
    image = Image.fromarray(values.astype(np.uint8))
    if palette:
        image = image.convert("P")
        image.putpalette([v % 256 for v in range(768)])
    return encoded(image, "PNG")


def tar_bytes(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    """A tar of the files; `mode` "w:gz", "w:xz" compress it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def zip_bytes(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of the files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return out.getvalue()


def mat_bomb(order: str = "<") -> bytes:
    """A MATLAB file of 100 kB whose one element unpacks to 100 MB; the byte order ">" is said as scipy takes it, too.

    What is no "IM" is big-endian to scipy, if the version before it is one that it knows.
    """
    packed = zlib.compress(bytes(10**8))
    head = b"\x00\x01IM" if order == "<" else b"\x01\x00XX"
    return b" " * 124 + head + struct.pack(f"{order}II", 15, len(packed)) + packed


def write_tree(folder: Path, files: Mapping[str, bytes]) -> Path:
    """The files below a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def run_script(script: str, *arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """`python data_scripts/SCRIPT ARGUMENTS` in a process of its own, as users run it."""
    return subprocess.run(
        [sys.executable, REPO / "data_scripts" / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)},
        check=False,
    )


def samples_of(folder: Path) -> dict[str, tuple[dict[str, int], bytes]]:
    """Of a prepared split by key: its labels and its image file, read at the place that the index says."""
    manifest = load_manifest(folder)
    index = manifest.load_index()
    with ShardReader(manifest, index) as reader:
        return {
            index.key(row): ({column: int(index.labels[column][row]) for column in manifest.columns}, reader.read(row))
            for row in range(len(index))
        }


def classes_of(folder: Path) -> dict[str, str]:
    """Of a prepared split the class name in column "given" by key."""
    names = load_manifest(folder).classes
    return {key: names[labels["given"]] for key, (labels, _) in samples_of(folder).items()}


def skipped_of(folder: Path) -> dict[str, str]:
    """Reasons in skipped.csv by origin."""
    with (folder / "skipped.csv").open(newline="", encoding="utf-8") as file:
        return {row["origin"]: row["reason"] for row in csv.DictReader(file)}


def fit_and_validate(root: Path, train: str, val: str, run: Path, *flags: str) -> Manifest:
    """Three training steps and a validation of a small network on prepared shards, through the command line.

    Returns the manifest of the validation split, whose every sample was counted.
    """
    size = '{"class_path": "ResizedCropFlip", "init_args": {"size": 32}}'
    crop = '{"class_path": "CenterCrop", "init_args": {"size": 32}}'
    common = [
        *("--config", str(REPO / "experiments/base.yaml"), "--config", str(REPO / "experiments/recipe/digits.yaml")),
        *("--config", str(REPO / "experiments/norm/bn.yaml"), "--data.root", str(root)),
        *("--data.train", train, "--data.val", val, "--data.train_transform", size, "--data.val_transform", crop),
        *("--data.batch_size", "2", "--data.val_batch_size", "4", "--trainer.default_root_dir", str(run)),
    ]
    assert main(["fit", *common, "--trainer.max_steps", "3", *flags]) == 0
    checkpoint, outcome = str(run / "checkpoints" / "last.ckpt"), run / "outcome.json"
    config = str(run / "config.yaml")
    assert main(["validate", "--config", config, "--ckpt_path", checkpoint, "--result", str(outcome)]) == 0
    manifest = load_manifest(root / val)
    assert json.loads(outcome.read_text())["n"] == manifest.count
    return manifest

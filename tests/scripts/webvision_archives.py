"""WebVision 1.0 in small, in its tars and folders as published, and the script run on them."""

import json
from collections.abc import Mapping
from pathlib import Path

from data_scripts.layouts.wordnet import imagenet_classes
from tests.scripts.raw import (
    jpeg,
    png,
    tar_bytes,
    truncated_jpeg,
    turned_jpeg,
    write_tree,
)

IDS = imagenet_classes()
TENCH, GOLDFISH, WHITE_SHARK, ALLIGATOR, TISSUE = "n01440764", "n01443537", "n01484850", "n01698640", "n15075141"

# Queries 1 and 2 are of synset 1, as "tench" and "Tinca tinca" would be; synsets 51 and 1000 are no mini classes.
QUERIES = "1 1\n2 1\n3 2\n4 3\n5 51\n6 1000\n"
GOOGLE_LIST = """google/q0001/a.jpg 0
google/q0001/really_png.jpg 0
google/q0002/a.jpg 0
google/q0003/cmyk.jpg 1
google/q0003/turned.jpg 1
google/q0004/empty.jpg 2
google/q0004/cut.jpg 2
google/q0004/v1.2.jpg 2
google/q0004/gone.jpg 2
google/q0005/out.jpg 50
"""
FLICKR_LIST = "flickr/q0001/a.jpg 0\nflickr/q0005/b.jpg 50\nflickr/q0006/last.jpg 999\n"
VAL_LIST = "".join(f"val{n:06d}.jpg {label}\n" for n, label in enumerate([0, 1, 2, 50, 999, 0], start=1))

TRAIN = {
    "google/q0001/a": TENCH,
    "google/q0001/really_png": TENCH,
    "google/q0002/a": TENCH,
    "google/q0003/cmyk": GOLDFISH,
    "google/q0003/turned": GOLDFISH,
    "google/q0004/v1_2": WHITE_SHARK,
    "google/q0005/out": ALLIGATOR,
    "flickr/q0001/a": TENCH,
    "flickr/q0005/b": ALLIGATOR,
    "flickr/q0006/last": TISSUE,
}
VAL = {
    "val000001": TENCH,
    "val000002": GOLDFISH,
    "val000003": WHITE_SHARK,
    "val000004": ALLIGATOR,
    "val000005": TISSUE,
}
MINI_TRAIN = {key: name for key, name in TRAIN.items() if key.startswith("google") and name != ALLIGATOR}  # 6
MINI_VAL = {key: VAL[key] for key in ("val000001", "val000002", "val000003")}
SKIPPED = {
    "google/q0004/empty.jpg": "empty file",
    "google/q0004/gone.jpg": "listed in train_filelist_google.txt, not among the images",
}


def synsets(ids: tuple[str, ...] = IDS) -> str:
    return "".join(f"{wnid} a name, another name\n" for wnid in ids)


def info_files() -> dict[str, bytes]:
    return {
        "info/synsets.txt": synsets().encode(),
        "info/queries_synsets_map.txt": QUERIES.encode(),
        "info/queries_google.txt": b"1 tench\n2 Tinca tinca\n3 goldfish\n4 white shark\n5 alligator\n6 tissue\n",
        "info/train_filelist_google.txt": GOOGLE_LIST.encode(),
        "info/train_filelist_flickr.txt": FLICKR_LIST.encode(),
        "info/val_filelist.txt": VAL_LIST.encode(),
        "info/test_filelist.txt": b"test000001.jpg\n",
    }


def google_files() -> dict[str, bytes]:
    return {
        "google/q0001/a.jpg": jpeg(1),
        "google/q0001/really_png.jpg": png(2),
        "google/q0002/a.jpg": jpeg(3),
        "google/q0003/cmyk.jpg": jpeg(4, mode="CMYK"),
        "google/q0003/turned.jpg": turned_jpeg(5, (60, 44)),
        "google/q0003/stray.jpg": jpeg(6),
        "google/q0004/empty.jpg": b"",
        "google/q0004/cut.jpg": truncated_jpeg(7),
        "google/q0004/v1.2.jpg": jpeg(8, mode="L"),
        "google/q0005/out.jpg": jpeg(9),
    }


def flickr_files() -> dict[str, bytes]:
    names = [line.partition(" ")[0] for line in FLICKR_LIST.splitlines()]
    return {name: jpeg(20 + number) for number, name in enumerate(names)}


def val_files(folder: str = "val_images_256", size: tuple[int, int] = (40, 36)) -> dict[str, bytes]:
    return {f"{folder}/val{n:06d}.jpg": jpeg(30 + n, size) for n in range(1, 6)}


def as_tars(folder: Path, **changed: Mapping[str, bytes] | None) -> Path:
    """The four tars of the resized set. `changed` replaces the content of one, None leaves it out."""
    contents: dict[str, Mapping[str, bytes] | None] = {
        "info": info_files(),
        "google_resized_256": google_files(),
        "flickr_resized_256": flickr_files(),
        "val_images_256": val_files(),
        **changed,
    }
    return write_tree(folder, {f"{name}.tar": tar_bytes(files) for name, files in contents.items() if files})


def as_folder(folder: Path, **info: str) -> Path:
    """The tars extracted in one place, where no name tells that Google's and Flickr's images are resized."""
    lists = {f"info/{name}.txt": content.encode() for name, content in info.items()}
    return write_tree(folder, {**info_files(), **google_files(), **flickr_files(), **val_files(), **lists})


def below(folder: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": content for name, content in files.items()}


def manifest_fields(folder: Path) -> dict[str, object]:
    """A manifest without the name of what was read."""
    fields = json.loads((folder / "manifest.json").read_text())
    assert fields["source"].pop("raw")
    return fields

"""ImageNet in small, in the layouts in which it is published and kept, and its script run on them."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
from scipy.io import savemat

from data_scripts.layouts.wordnet import imagenet_classes
from tests.scripts.raw import jpeg, png, tar_bytes, truncated_jpeg, turned_jpeg, write_tree

TENCH, GOLDFISH, SHARK, TISSUE = "n01440764", "n01443537", "n01484850", "n15075141"  # labels 0, 1, 2, 999
FISH = "n02512053"  # a synset above classes, which has children

TRAIN = {
    TENCH: {f"{TENCH}_18": jpeg(1), f"{TENCH}_36": png(2), f"{TENCH}_37": jpeg(3, mode="CMYK")},
    GOLDFISH: {
        f"{GOLDFISH}_2": turned_jpeg(4),
        f"{GOLDFISH}_5": b"",
        f"{GOLDFISH}_6": truncated_jpeg(5),
        f"{TENCH}_18": jpeg(6),  # the name of another file, in another folder
    },
    TISSUE: {f"{TISSUE}_10": jpeg(7, mode="L"), f"{TISSUE}_11": jpeg(8), "flowers": jpeg(9)},
}
# Validation images by number, with the class whose id stands in that line of the ground truth.
VAL = {1: SHARK, 2: TENCH, 7: TISSUE, 8: TENCH, 49_999: GOLDFISH, 50_000: TISSUE}
TRAIN_CLASSES = {f"{TENCH}/{TENCH}_{n}": TENCH for n in (18, 36, 37)} | {
    f"{GOLDFISH}/{GOLDFISH}_2": GOLDFISH,
    f"{TISSUE}/{TISSUE}_10": TISSUE,
    f"{TISSUE}/{TISSUE}_11": TISSUE,
}
VAL_CLASSES = {f"ILSVRC2012_val_{number:08d}": wnid for number, wnid in VAL.items()}


def ids() -> dict[str, int]:
    """ILSVRC2012_ID by WordNet id: as in the published kit, another order than that of the WordNet ids."""
    shuffled = random.Random(0).sample(imagenet_classes(), 1000)
    return {wnid: number for number, wnid in enumerate(shuffled, start=1)}


def meta_mat(numbers: dict[str, int], field: str = "synsets", train_images: int = 1300) -> bytes:
    """The table of classes as the development kit holds it: leaves first, then what is above them."""
    names = ["ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children"]
    names += ["wordnet_height", "num_train_images"]
    rows = [
        (number, wnid, "a fish, a thing", "gloss", 0, [], 0, train_images)
        for wnid, number in sorted(numbers.items(), key=lambda item: item[1])
    ]
    rows += [(1001, FISH, "fish", "gloss", 2, [1, 2], 3, 0), (1002, "n00001740", "entity", "all", 1, [1001], 19, 0)]
    table = np.zeros((len(rows), 1), dtype=[(name, object) for name in names])
    for position, row in enumerate(rows):
        table[position, 0] = tuple(np.array(v, dtype=float) if isinstance(v, list) else v for v in row)
    out = io.BytesIO()
    savemat(out, {field: table}, do_compression=True)
    return out.getvalue()


def ground_truth(lines: int = 50_000) -> bytes:
    """A line for each published image; those that are not among ours say tench or goldfish, in turn."""
    numbers = ids()
    classes = (VAL.get(line, (TENCH, GOLDFISH)[line % 2]) for line in range(1, lines + 1))
    return "".join(f"{numbers[wnid]}\n" for wnid in classes).encode()


KIT = {
    "ILSVRC2012_devkit_t12/readme.txt": b"ILSVRC 2012",
    "ILSVRC2012_devkit_t12/data/meta.mat": meta_mat(ids()),
    "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": ground_truth(),
}
SOLUTION = "ImageId,PredictionString\n" + "".join(
    f"{key},{f'{wnid} 111 108 230 366 ' * 2}\n" for key, wnid in VAL_CLASSES.items()
)


def val_files(folder: str = "{wnid}/") -> dict[str, bytes]:
    return {
        f"{folder.format(wnid=wnid)}ILSVRC2012_val_{number:08d}.JPEG": jpeg(100 + number)
        for number, wnid in VAL.items()
    }


def train_files() -> dict[str, bytes]:
    return {f"{wnid}/{stem}.JPEG": content for wnid, files in TRAIN.items() for stem, content in files.items()}


def class_tars() -> dict[str, bytes]:
    return {
        f"{wnid}.tar": tar_bytes({f"{stem}.JPEG": content for stem, content in files.items()})
        for wnid, files in TRAIN.items()
    }


def under(folder: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": content for name, content in files.items()}


PUBLISHED = {
    "ILSVRC2012_img_train.tar": tar_bytes(class_tars()),
    "ILSVRC2012_img_val.tar": tar_bytes(val_files("")),
    "ILSVRC2012_devkit_t12.tar.gz": tar_bytes(KIT, "w:gz"),
}
LAYOUTS = {
    "published": PUBLISHED,
    "in folders": under("train", train_files()) | under("val", val_files("")) | KIT,
    "sorted": under("a/train", train_files()) | under("a/val", val_files()),
    "class tars": under("train", class_tars()) | under("validation", val_files()),
    "kaggle": under("ILSVRC/Data/CLS-LOC/train", train_files())
    | under("ILSVRC/Data/CLS-LOC/val", val_files(""))
    | {
        "LOC_val_solution.csv": SOLUTION.encode(),
        "LOC_train_solution.csv": b"ImageId,PredictionString\n",
        f"ILSVRC/Annotations/CLS-LOC/train/{TENCH}/{TENCH}_18.xml": b"<annotation/>",
        "ILSVRC/Data/CLS-LOC/test/ILSVRC2012_test_00000001.JPEG": jpeg(1),
    },
    "one tar": None,
}


def lay_out(folder: Path, layout: str) -> Path:
    files = LAYOUTS[layout]
    if files is not None:
        return write_tree(folder, files)
    path = folder.with_suffix(".tar")
    path.write_bytes(tar_bytes(under("ILSVRC2012", LAYOUTS["in folders"])))
    return path

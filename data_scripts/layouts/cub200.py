"""CUB-200-2011: `images/<class>/<file>.jpg` with four lists of `id value`."""

from __future__ import annotations

from data_scripts.layouts.listing import Folder, Listing, key_of
from data_scripts.layouts.lists import read_pairs, require_same_ids
from en_bench.data.archives import RawFiles
from en_bench.data.places import shown
from en_bench.errors import InputError

_NAME = "CUB-200-2011"
_SPLITS = {"1": "train", "0": "val"}  # what `is_training` says


def list_cub200(raw: RawFiles, split_map: dict[str, str]) -> Listing:
    """Places the images that images.txt lists: train_test_split.txt 1 is `train`, 0 is `val`.

    Raises InputError where a list is missing, or the lists do not fit together.
    """
    images, images_sha256 = read_pairs(raw, "images.txt", _NAME)
    labels, labels_sha256 = read_pairs(raw, "image_class_labels.txt", _NAME)
    classes, classes_sha256 = read_pairs(raw, "classes.txt", _NAME)
    training, training_sha256 = read_pairs(raw, "train_test_split.txt", _NAME)
    require_same_ids(raw, images, "images.txt", labels, "image_class_labels.txt")
    require_same_ids(raw, images, "images.txt", training, "train_test_split.txt")
    listing = Listing(
        classes=list(classes.values()),
        source={
            "lists_sha256": {
                "images.txt": images_sha256,
                "image_class_labels.txt": labels_sha256,
                "classes.txt": classes_sha256,
                "train_test_split.txt": training_sha256,
            }
        },
    )
    folder = Folder(raw, "images")
    for number, path in images.items():
        if labels[number] not in classes:
            raise InputError(
                f"{shown(raw.path)}: image_class_labels.txt: class {labels[number]!r} is not in classes.txt"
            )
        if training[number] not in _SPLITS:
            raise InputError(f"{shown(raw.path)}: train_test_split.txt: {training[number]!r} is neither 0 nor 1")
        split = _SPLITS[training[number]]
        key = key_of(path.split("/"))
        listing.items.append(folder.item(path, split_map.get(split, split), classes[labels[number]], key, "images.txt"))
    folder.note_rest(listing, "images.txt")
    return listing

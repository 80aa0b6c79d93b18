"""Classes of the validation images of ILSVRC 2012: from the development kit, or from Kaggle's solution table."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from data_scripts.layouts.imagenet_files import PUBLISHED, VAL_PREFIX, Image
from data_scripts.layouts.mat_files import load_mat
from data_scripts.layouts.wordnet import imagenet_classes, require_imagenet_classes
from en_bench.data.archives import RawFiles
from en_bench.data.places import shown
from en_bench.data.tables import parse_csv
from en_bench.errors import InputError, message_of

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
SYNSETS = "meta.mat"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
SOLUTION = "LOC_val_solution.csv"


@dataclass(frozen=True)
class Synsets:
    """The 1,000 leaf classes as meta.mat lists them.

    Attributes:
        file: its name among the raw files.
        sha256: of the file.
        wnids: WordNet id by ILSVRC2012_ID, which the ground truth uses.
        train_images: published number of training images by WordNet id; empty where the file does not say.
    """

    file: str
    sha256: str
    wnids: Mapping[int, str]
    train_images: Mapping[str, int]


@dataclass(frozen=True)
class LabelTable:
    """WordNet ids of validation images.

    Attributes:
        name: of the file that labels them.
        wnids: by the image's name without extension.
        sha256: of the files that were read, by their names.
    """

    name: str
    wnids: Mapping[str, str]
    sha256: Mapping[str, str]


@dataclass
class Companions:
    """The files beside the images that may hold labels, by their names without folders."""

    raw: RawFiles
    names: Mapping[str, list[str]] = field(default_factory=dict)

    @classmethod
    def among(cls, raw: RawFiles, names: Iterable[str]) -> Companions:
        """Picks them out of `names`."""
        found: dict[str, list[str]] = {}
        for name in names:
            file = name.rpartition("/")[2]
            if file in (SYNSETS, GROUND_TRUTH, SOLUTION):
                found.setdefault(file, []).append(name)
        return cls(raw, found)

    def read(self, file: str) -> tuple[str, bytes] | None:
        """Name and content of a file, None if there is none. Raises InputError for two that differ."""
        held: tuple[str, bytes] | None = None
        for name in self.names.get(file, ()):
            try:
                content = self.raw.read(name)
            except OSError as error:
                raise InputError(
                    f"{shown(self.raw.path)}: {name}: {error.strerror or error}: make it readable"
                ) from error
            if held is not None and held[1] != content:
                raise InputError(f"{shown(self.raw.path)}: {held[0]} and {name} differ: remove the wrong one")
            held = held or (name, content)
        return held


def read_synsets(companions: Companions) -> Synsets | None:
    """The leaf classes of meta.mat, None if there is none.

    Raises InputError for a file that is not so built, and unless its leaves are ImageNet's 1,000 classes, each once.
    """
    found = companions.read(SYNSETS)
    if found is None:
        return None
    name, content = found
    wnids: dict[int, str] = {}
    train_images: dict[str, int] = {}
    leaves = 0
    try:
        synsets = load_mat(content, ["synsets"])["synsets"].reshape(-1)
        for synset in synsets:
            if int(synset["num_children"]) == 0:
                leaves += 1
                wnid = str(synset["WNID"])
                wnids[int(synset["ILSVRC2012_ID"])] = wnid
                if "num_train_images" in synsets.dtype.names:
                    train_images[wnid] = int(synset["num_train_images"])
    except Exception as error:  # scipy raises nearly any type on a file that is something else
        reason = message_of(error)
        raise InputError(
            f"{name}: not the table of classes of the development kit ({reason}): take {DEVKIT}'s"
        ) from error
    require_imagenet_classes(wnids.values(), name)
    if len(wnids) != leaves:
        raise InputError(f"{name}: {leaves - len(wnids)} ILSVRC2012_IDs are given twice: take {DEVKIT}'s")
    return Synsets(name, hashlib.sha256(content).hexdigest(), wnids, train_images)


def read_devkit(companions: Companions, synsets: Synsets | None, images: int) -> LabelTable | None:
    """The labels of the development kit, None unless both of its files are there.

    The number in an image's name is the line of the ground truth, whichever other images there are.

    Args:
        companions: where the ground truth is looked for.
        synsets: of the same kit.
        images: number of validation images. The ground truth must have a line for each, or its published 50,000.

    Raises InputError for a line that is not the id of a class, and for a number of lines that does not fit.
    """
    found = companions.read(GROUND_TRUTH)
    if found is None or synsets is None:
        return None
    name, content = found
    lines = content.rstrip().splitlines()
    if len(lines) not in (PUBLISHED["val"], images):
        raise InputError(
            f"{name}: {len(lines):,} labels for {images:,} validation images, and {PUBLISHED['val']:,} were published: "
            f"take {DEVKIT}'s"
        )
    classes = {str(number).encode(): wnid for number, wnid in synsets.wnids.items()}
    wnids = {}
    for number, line in enumerate(lines, start=1):
        wnid = classes.get(line.strip())
        if wnid is None:
            raise InputError(
                f"{name}: line {number} holds {line[:40].decode(errors='replace')!r}, not the ILSVRC2012_ID of a "
                f"class: take {DEVKIT}'s"
            )
        wnids[f"{VAL_PREFIX}_{number:08d}"] = wnid
    sha256 = {SYNSETS: synsets.sha256, GROUND_TRUTH: hashlib.sha256(content).hexdigest()}
    return LabelTable(GROUND_TRUTH, wnids, sha256)


def read_solution(companions: Companions) -> LabelTable | None:
    """The labels of Kaggle's table (ImageId, PredictionString), None if there is none.

    A prediction string is a WordNet id and four numbers for each object, all of one class.
    """
    found = companions.read(SOLUTION)
    if found is None:
        return None
    name, content = found
    known = set(imagenet_classes())
    wnids = {}
    for row in parse_csv(content, name, ["ImageId", "PredictionString"]):
        classes = set(row["PredictionString"].split()[::5])
        if len(classes) != 1 or not classes <= known:
            raise InputError(
                f"{name}: line {row.line} ({row['ImageId']}) names {' and '.join(sorted(classes)) or 'no class'}, not "
                "one of ImageNet's 1,000 classes: take the file of Kaggle's ImageNet Object Localization Challenge"
            )
        wnids[row["ImageId"]] = classes.pop()
    return LabelTable(SOLUTION, wnids, {SOLUTION: hashlib.sha256(content).hexdigest()})


def label_val(images: Sequence[Image], tables: Sequence[LabelTable], companions: Companions) -> list[Image]:
    """Gives every validation image its class.

    Args:
        images: with the class of their folder, or "".
        tables: that may label them.
        companions: from which the tables are, for messages.

    Raises InputError for an image without a label, and where two sources of labels disagree.
    """
    labelled, without = [], []
    where = shown(companions.raw.path)
    for image in images:
        told = {table.name: table.wnids[image.key] for table in tables if image.key in table.wnids}
        if image.wnid:
            told[f"its folder ({image.name})"] = image.wnid
        if not told:
            without.append(image)
        elif len(set(told.values())) > 1:
            sides = " and ".join(f"{wnid} by {who}" for who, wnid in told.items())
            raise InputError(f"{where}: {image.key} is {sides}: remove the wrong one, or take the published files")
        else:
            labelled.append(image._replace(wnid=next(iter(told.values()))))
    if without and tables:
        names = " and ".join(table.name for table in tables)
        raise InputError(
            f"{where}: {names} lacks {len(without):,} of {len(images):,} validation images (first: "
            f"{without[0].name}): take the published file, or leave them out with --splits train"
        )
    if without:
        there = ", ".join(sorted(companions.names))
        raise InputError(
            f"{where}: {len(without):,} validation images have no labels (first: {without[0].name}"
            f"{f'; of the label files only {there} is there' if there else ''}): put {DEVKIT} (or its {SYNSETS} and "
            f"{GROUND_TRUTH}) or {SOLUTION} into one folder with them and name that folder with --raw, or sort them "
            "into val/<wnid>/, or leave them out with --splits train"
        )
    return labelled

"""What is published about CIFAR-10 and CIFAR-100."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_FINE_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""


@dataclass(frozen=True)
class Cifar:
    """What is published about one of the two sets.

    Attributes:
        name: in manifests.
        classes: in the order of its labels.
        files: per split the files of the python archive; those of the binary one end in .bin.
        label: key of the labels in a python file.
        meta: file and key of the class names in the python archive, and their file in the binary one.
        record_labels: label bytes before the pixels of a binary record; the last one is that of the class.
        counts: images per split as published.
        noisy: label column by key of the CIFAR-N file.
    """

    name: str
    classes: tuple[str, ...]
    files: Mapping[str, tuple[str, ...]]
    label: str
    meta: tuple[str, str, str]
    record_labels: int
    noisy: Mapping[str, str]
    counts: Mapping[str, int] = field(default_factory=lambda: {"train": 50_000, "val": 10_000})


CIFAR10 = Cifar(
    name="cifar10",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    files={"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "val": ("test_batch",)},
    label="labels",
    meta=("batches.meta", "label_names", "batches.meta.txt"),
    record_labels=1,
    noisy={
        "clean_label": "clean",
        "aggre_label": "aggre",
        **{f"random_label{number}": f"random{number}" for number in (1, 2, 3)},
        "worse_label": "worst",
    },
)
CIFAR100 = Cifar(
    name="cifar100",
    classes=tuple(_FINE_CLASSES.split()),
    files={"train": ("train",), "val": ("test",)},
    label="fine_labels",
    meta=("meta", "fine_label_names", "fine_label_names.txt"),
    record_labels=2,
    noisy={"clean_label": "clean", "noisy_label": "noisy"},
)
SETS = (CIFAR10, CIFAR100)

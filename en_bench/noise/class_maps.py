"""Which classes of CIFAR-10 and CIFAR-100 asymmetric noise mistakes for which."""

from __future__ import annotations

from collections.abc import Mapping

# Patrini et al., "Making deep neural networks robust to label noise" (CVPR 2017), section 5.
CIFAR10: Mapping[str, str] = {
    "truck": "automobile",
    "bird": "airplane",
    "deer": "horse",
    "cat": "dog",
    "dog": "cat",
}

# Krizhevsky, "Learning multiple layers of features from tiny images" (2009): 20 superclasses of five classes.
_SUPERCLASSES = """
beaver dolphin otter seal whale
aquarium_fish flatfish ray shark trout
orchid poppy rose sunflower tulip
bottle bowl can cup plate
apple mushroom orange pear sweet_pepper
clock keyboard lamp telephone television
bed chair couch table wardrobe
bee beetle butterfly caterpillar cockroach
bear leopard lion tiger wolf
bridge castle house road skyscraper
cloud forest mountain plain sea
camel cattle chimpanzee elephant kangaroo
fox porcupine possum raccoon skunk
crab lobster snail spider worm
baby boy girl man woman
crocodile dinosaur lizard snake turtle
hamster mouse rabbit shrew squirrel
maple_tree oak_tree palm_tree pine_tree willow_tree
bicycle bus motorcycle pickup_truck train
lawn_mower rocket streetcar tank tractor
"""


def _next_of_superclass() -> dict[str, str]:
    mapping: dict[str, str] = {}
    for line in _SUPERCLASSES.split("\n"):
        names = line.split()
        mapping |= dict(zip(names, names[1:] + names[:1], strict=True))
    return mapping


# Each class to the next one of its superclass, in alphabetical order, the last to the first (Patrini et al.).
CIFAR100: Mapping[str, str] = _next_of_superclass()

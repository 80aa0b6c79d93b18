"""What every kind of made label noise is: a pure function of labels, seed, sample keys and, for one kind, images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from en_bench.data.draws import draws
from en_bench.errors import InputError
from en_bench.noise.in_words import told

Labels = NDArray[np.int32]  # (N,) class numbers, -1 where unknown
Keys = NDArray[np.bytes_]  # (N,)
SmallImages = NDArray[np.uint8]  # (N, 32, 32, 3), RGB, as `small_image` makes them
Images = Callable[[NDArray[np.int64]], SmallImages]  # from positions among the labels to their images

# In the place of an epoch: augmentation, which takes its random numbers from the same keys, never comes so far.
_STREAM = int.from_bytes(b"noise", "big")


class Noise(ABC):
    """Makes some labels wrong.

    Which ones, and how, follows from `seed` and the sample's key (for the instance-dependent kind from its image, too)
    by exact arithmetic: labels are the same on every rank, in every order, subset and process, and when data are
    prepared or read. The seed is that of the noise and not the run's: every normaliser, loss and seed of a matrix meets
    the same wrong labels, as it does with labels that people got wrong, so that what differs is what is compared.

    One of your own is a subclass with `kind`, `flip` and `arguments`, named in YAML by its class path. An attribute
    `rate` is held to 0 .. 1.

    Args:
        seed: of the noise, 0 .. 2**63 - 1.

    Attributes:
        kind: its name in records.
        needs_images: whether `flip` is given images.
    """

    kind: ClassVar[str]
    needs_images: ClassVar[bool] = False

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def validate(self) -> None:
        """Raises InputError for arguments that cannot be used.

        Not when it is made: jsonargparse, which makes it for the command line, would hide the message.
        """
        if not 0 <= self.seed < 2**63:
            raise InputError(f"{type(self).__name__}: {self.seed} is not a seed: use 0 to 2**63 - 1")
        rate = getattr(self, "rate", 0.0)
        if not 0 <= rate <= 1:
            raise InputError(f"{type(self).__name__}: {rate} is not a rate: use 0 to 1")

    @abstractmethod
    def flip(self, labels: Labels, keys: Keys, classes: Sequence[str], images: SmallImages | None) -> Labels:
        """The labels that take the place of these, all of them known. Raises InputError as `check` does."""

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """What the labels depend on beside the seed, as JSON values."""

    def check(self, classes: Sequence[str]) -> None:
        """Raises InputError where this noise cannot be made with these classes, and as `validate` does."""
        self.validate()
        if len(classes) < 2:
            raise InputError(f"{self.kind} noise: one class has no other to flip to: leave the noise out")

    def apply(self, labels: Labels, keys: Keys, classes: Sequence[str], images: Images | None = None) -> Labels:
        """The labels with this noise; those that are unknown (-1) stay so.

        Args:
            labels, keys: (N,).
            classes: names, in label order.
            images: reads them, for noise that needs images.

        Raises InputError as `check` does.
        """
        self.check(classes)
        known = np.flatnonzero(labels >= 0)
        found = images(known) if self.needs_images and images is not None else None
        made = labels.copy()
        made[known] = self.flip(labels[known], keys[known], classes, found)
        return made

    def describe(self) -> dict[str, Any]:
        """Kind, arguments and seed, for records: equal descriptions make equal labels."""
        return {"kind": self.kind, **self.arguments(), "seed": self.seed}

    def compared(self) -> dict[str, Any]:
        """The description without names of files, whose bytes it has the sha256 of: a file may be renamed."""
        return {name: _without_name(value) for name, value in self.describe().items()}

    def __str__(self) -> str:
        return told(self.describe())

    def _draws(self, keys: Keys, count: int) -> NDArray[np.float64]:
        """`count` uniform numbers for each key, (N, count)."""
        return draws(keys, self.seed, _STREAM, count)


def _without_name(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"file", "sha256"}:  # else classes may be called so
        return {"sha256": value["sha256"]}
    return value

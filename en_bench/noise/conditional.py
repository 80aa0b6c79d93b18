"""Noise that depends on the class alone: symmetric, pair and asymmetric, or from any transition matrix."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from en_bench.data.classes import ClassMap, read_class_map
from en_bench.errors import InputError
from en_bench.noise.base import Keys, Labels, Noise, SmallImages
from en_bench.noise.class_maps import CIFAR10, CIFAR100
from en_bench.noise.transition import Matrix, TransitionFile, read_transition

_NAMED: Mapping[str, Mapping[str, str]] = {"cifar10": CIFAR10, "cifar100": CIFAR100}
_MAPPINGS = ("next", *_NAMED)


class ConditionalNoise(Noise):
    """Noise whose new label is drawn from the row of a transition matrix.

    Of two uniform numbers per key the first decides whether the label becomes another one, the second which. So of two
    rates of one kind and seed the wrong labels of the lower one are wrong, and the same, under the higher one too.
    """

    @abstractmethod
    def transition(self, classes: Sequence[str]) -> Matrix:
        """T of shape (C, C): T[i, j] is the probability that label i becomes j. Rows sum to 1."""

    def check(self, classes: Sequence[str]) -> None:
        super().check(classes)
        self.transition(classes)

    def flip(self, labels: Labels, keys: Keys, classes: Sequence[str], images: SmallImages | None) -> Labels:
        matrix = self.transition(classes)
        chance, choice = self._draws(keys, 2).T
        made = labels.copy()
        for label in np.unique(labels):
            others = matrix[label].copy()
            others[label] = 0
            # Not `sum`, whose order of adding differs between machines.
            reached = np.cumsum(others)
            total = reached[-1]
            if not total:
                continue
            rows = np.flatnonzero((labels == label) & (chance < total))
            new = np.searchsorted(reached, choice[rows] * total, side="right")
            made[rows] = np.minimum(new, np.flatnonzero(others)[-1])  # where the product is rounded up to the total
        return made


class SymmetricNoise(ConditionalNoise):
    """With probability `rate` the label becomes another one, each as likely: `rate` is the share of wrong labels.

    The other convention in the field draws the new label among all classes, its own included: with `include_own` the
    share of wrong labels is `rate` * (C - 1) / C, for ten classes 0.36 at rate 0.4. Papers call both symmetric: the
    released code of DivideMix includes the own class, that of Co-teaching does not.

    Args:
        rate: 0 .. 1.
        include_own: whether the new label may be the old one.
        seed: of the noise, not the run's.
    """

    kind: ClassVar[str] = "symmetric"

    def __init__(self, rate: float, include_own: bool = False, seed: int = 0) -> None:
        super().__init__(seed)
        self.rate, self.include_own = rate, include_own

    def arguments(self) -> dict[str, Any]:
        return {"rate": self.rate, **({"include_own": True} if self.include_own else {})}

    def transition(self, classes: Sequence[str]) -> Matrix:
        count = len(classes)
        share = self.rate / (count if self.include_own else count - 1)
        matrix = np.full((count, count), share)
        np.fill_diagonal(matrix, 1 - self.rate + (share if self.include_own else 0))
        return matrix


class PairNoise(ConditionalNoise):
    """With probability `rate` the label of a class becomes that of the class it is mistaken for.

    Args:
        rate: 0 .. 1, of the classes that the mapping names. Where it names some only, the share of wrong labels is
            less: with `cifar10` half of the rate. At more than 0.5 most labels of a class that is mistaken are wrong.
        mapping: which class is mistaken for which.
            `next`: each for the following one, the last for the first (pair flip; Han et al., "Co-teaching", 2018).
            `cifar10`: truck for automobile, bird for airplane, deer for horse, cat and dog for each other.
            `cifar100`: each for the next one of its superclass, in alphabetical order, the last for the first.
            Both are those of Patrini et al., "Making deep neural networks robust to label noise" (CVPR 2017), section
            5, there called asymmetric. Or names of classes (`{cat: dog}`), or a CSV with columns source and target.
        seed: of the noise, not the run's.
    """

    kind: ClassVar[str] = "pair"

    def __init__(self, rate: float, mapping: str | dict[str, str] = "next", seed: int = 0) -> None:
        super().__init__(seed)
        self.rate, self.mapping = rate, mapping

    @cached_property
    def _table(self) -> ClassMap | None:
        """The CSV, if `mapping` names one."""
        if isinstance(self.mapping, dict) or self.mapping in _MAPPINGS:
            return None
        try:
            return read_class_map(self.mapping)
        except InputError as error:
            if "/" in self.mapping or "." in self.mapping:
                raise
            # No name of a CSV: a mapping was meant.
            raise InputError(
                f"PairNoise: there is no mapping {self.mapping!r}: use {', '.join(_MAPPINGS)}, or a CSV with columns "
                "source and target"
            ) from error

    def validate(self) -> None:
        super().validate()
        _ = self._table

    def arguments(self) -> dict[str, Any]:
        table = self._table
        return {
            "rate": self.rate,
            "mapping": self.mapping if table is None else {"file": table.name, "sha256": table.sha256},
        }

    def _mapping(self) -> Mapping[str, str]:
        """By names of classes."""
        if isinstance(self.mapping, dict):
            return self.mapping
        return _NAMED[self.mapping] if self._table is None else self._table.mapping

    def transition(self, classes: Sequence[str]) -> Matrix:
        count = len(classes)
        number = {name: position for position, name in enumerate(classes)}
        if self.mapping == "next":
            pairs = {label: (label + 1) % count for label in range(count)}
        else:
            mapping = self._mapping()
            names = [name for pair in mapping.items() for name in pair]
            strange = [name for name in names if name not in number]
            if strange:
                fitting = [name for name, pairs in _NAMED.items() if {*pairs, *pairs.values()} <= number.keys()]
                raise InputError(
                    f"pair noise: {strange[0]!r} of its mapping is none of the {count:,} classes of the set: map "
                    f"classes that it has, or use mapping {' or '.join([*fitting, 'next'])}"
                )
            pairs = {number[source]: number[target] for source, target in mapping.items()}
        matrix = np.eye(count)
        for source, target in pairs.items():
            matrix[source, source] -= self.rate
            matrix[source, target] += self.rate
        return matrix


class MatrixNoise(ConditionalNoise):
    """Labels drawn from a transition matrix, for example the one that `en-bench noise matrix` counts in human labels.

    Args:
        matrix: file. JSON: `{"classes": [names], "matrix": [[...], ...]}`, or the rows alone; or .npy of shape (C, C).
            Entry (i, j) is the probability that label i becomes j; rows sum to 1. Class names are compared.
        seed: of the noise, not the run's.
    """

    kind: ClassVar[str] = "matrix"

    def __init__(self, matrix: str, seed: int = 0) -> None:
        super().__init__(seed)
        self.matrix = matrix

    @cached_property
    def file(self) -> TransitionFile:
        """What the file holds. Raises InputError."""
        return read_transition(self.matrix)

    def validate(self) -> None:
        super().validate()
        _ = self.file

    def arguments(self) -> dict[str, Any]:
        return {"matrix": {"file": self.file.name, "sha256": self.file.sha256}}

    def transition(self, classes: Sequence[str]) -> Matrix:
        return self.file.for_classes(classes)

"""A transition matrix as people read it, in percent."""

from __future__ import annotations

from collections.abc import Sequence

from en_bench.data.info import printable
from en_bench.noise.transition import Counts, Matrix

_TABLE = 20  # classes of which the whole matrix is printed
_CONFUSIONS = 20  # largest ones that are printed of more
_NAME = 12  # characters of a class name in the table
_NAMED = 8  # classes in a list


def matrix_lines(matrix: Matrix, classes: Sequence[str], counts: Counts | None = None) -> list[str]:
    """The rows of T (C, C) in percent; of many classes the largest confusions.

    These are by the `counts` (C, C) that T was made of, and without counts by their entries in T.
    """
    if len(classes) > _TABLE:
        return _confusions(matrix, classes, counts)
    names = [printable(name)[:_NAME] for name in classes]
    width = max(map(len, names))
    rows = [
        f"{name:<{width}}" + "".join(f"{100 * share:7.2f}" for share in row)
        for name, row in zip(names, matrix, strict=True)
    ]
    return [" " * width + "".join(f"{name[:6]:>7}" for name in names), *rows]


def named(classes: Sequence[str]) -> str:
    """Names in a line, the first of many."""
    return ", ".join(map(printable, classes[:_NAMED])) + (", …" if len(classes) > _NAMED else "")


def _confusions(matrix: Matrix, classes: Sequence[str], counts: Counts | None) -> list[str]:
    by = matrix if counts is None else counts
    pairs = [(by[i, j].item(), i, j) for i, j in zip(*by.nonzero(), strict=True) if i != j]
    found = sorted(pairs, key=lambda pair: (-pair[0], pair[1:]))[:_CONFUSIONS]
    told = [
        f"  {printable(classes[i])} called {printable(classes[j])}: {100 * matrix[i, j]:.2f}"
        + ("" if counts is None else f" ({counts[i, j]:,})")
        for _, i, j in found
    ]
    largest = "largest" if counts is None else "most frequent"
    return [f"the {len(told)} {largest} of {len(pairs):,} confusions:", *told]

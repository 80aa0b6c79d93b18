"""The metrics that a matrix can be about, and the unit in which people write them."""

from decimal import Decimal
from math import inf

METRICS = ("top1", "top5", "nll", "ece")
IN_PER_CENT = frozenset({"top1", "top5", "ece"})  # fractions everywhere else


PERCENT, FRACTION, NATS = "percent", "fraction", "nats"
LARGEST = {PERCENT: 100.0, FRACTION: 1.0, NATS: inf}
"""The largest value that a metric can have, by the unit it is written in."""


def units_of(metric: str) -> tuple[str, ...]:
    """The units in which people write a metric, the usual one first."""
    return (PERCENT, FRACTION) if metric in IN_PER_CENT else (NATS,)


def from_printed(unit: str, printed: float) -> float:
    """A value as people print it in the unit it is measured in: a fraction, or nats."""
    # The fraction that those digits write: 0.9 / 100 is 0.009000000000000001.
    return float(Decimal(repr(printed)) / 100) if unit == PERCENT else printed

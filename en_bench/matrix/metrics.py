"""The metrics that a matrix can be about, and the unit in which people write them."""

from decimal import Decimal

METRICS = ("top1", "top5", "nll", "ece")
IN_PER_CENT = frozenset({"top1", "top5", "ece"})  # fractions everywhere else


def from_printed(metric: str, printed: float) -> float:
    """A value as people print it (per cent, or nats) in the unit it is measured in (a fraction, or nats)."""
    # The fraction that those digits write: 0.9 / 100 is 0.009000000000000001.
    return float(Decimal(repr(printed)) / 100) if metric in IN_PER_CENT else printed

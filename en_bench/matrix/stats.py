"""Mean and interval over seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Summary:
    """`n` values in short. Below three values `half_width` (of the 95 % interval) is None, below two `sd` is None."""

    mean: float
    sd: float | None
    half_width: float | None
    n: int


def summarise(values: Sequence[float]) -> Summary:
    """Mean, sample standard deviation (n - 1) and half the 95 % confidence interval of the mean by Student's t.

    Raises ValueError if there is no value.
    """
    n = len(values)
    if n == 0:
        raise ValueError("no values to summarise")
    mean = math.fsum(values) / n if all(map(math.isfinite, values)) else math.nan
    sd = None if n == 1 else _sd(values) if math.isfinite(mean) else math.nan
    if sd is None or n < 3:
        return Summary(mean, sd, None, n)
    return Summary(mean, sd, _t(n - 1) * sd / math.sqrt(n), n)


def _sd(values: Sequence[float]) -> float:
    """As `statistics.stdev`, a tenth of whose time it takes; differences to the first make equal values exactly 0."""
    apart = [value - values[0] for value in values]
    mean = math.fsum(apart) / len(apart)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in apart) / (len(apart) - 1))


@cache
def _t(degrees: int) -> float:
    """The quantile 0.975 of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))

"""Mean and interval over seeds."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


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
    mean = statistics.fmean(values)
    sd = None if n == 1 else statistics.stdev(values) if math.isfinite(mean) else math.nan
    if sd is None or n < 3:
        return Summary(mean, sd, None, n)
    from scipy.special import stdtrit

    return Summary(mean, sd, float(stdtrit(n - 1, 0.975)) * sd / math.sqrt(n), n)

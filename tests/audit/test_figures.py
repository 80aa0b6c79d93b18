"""The figures of ratios, where some interval is not known."""

import numpy as np

from en_bench.audit.figures import effects_png
from en_bench.audit.ratios import Effect, RatioReport, Spread


def test_an_interval_that_is_not_known_hides_no_other():
    def picture(*bars: tuple[float, float]) -> bytes:
        effects = tuple(
            Effect(f"bn{i}", "in", "clean", None, 9, 0.1 * i, low, high) for i, (low, high) in enumerate(bars)
        )
        spreads = tuple(Spread(effect.layer, "in", (0.5,) * 5, (0.5,) * 5, 0.5, 0.5) for effect in effects)
        return effects_png(RatioReport("test", 3, 3, 10, 2, effects, spreads), "title")

    unknown, first, second = (np.nan, np.nan), (-0.4, 0.4), (-0.2, 0.5)
    none, one, both = picture(unknown, unknown), picture(first, unknown), picture(first, second)
    assert none != one != both
    assert one == picture(first, unknown)  # the same figure twice is the same file

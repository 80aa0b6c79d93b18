"""Whether a normaliser's ratios differ between wrongly and rightly labelled samples, by layer.

Ratios are compositional: those of a layer sum to 1, so that one falls where another rises. And they depend on what an
image shows, while classes differ in how many labels are wrong: over all samples, a difference between classes would
pose as one between wrong and right labels. So each comparison is made three times: over all pairs of a wrong and a
right sample, within the class that the sample is known to have, and within the class that its label gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from en_bench.audit.effect import Pairs, adjusted, intervals

Bools = NDArray[np.bool_]
Ratios = NDArray[np.float32]

Within = Literal["all", "clean", "given"]
WITHIN: tuple[Within, ...] = ("all", "clean", "given")
SHOWN: Within = "clean"  # what is left of a difference when the samples show the same
_SEED = 0
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, eq=False)
class LayerRatios:
    """The ratios of one layer.

    Attributes:
        layer: its name in the network.
        normalisers: K names.
        epochs: E epochs, from 1, that were recorded; empty for ratios of a pass.
        values: (N, K) of each row of the split: of the pass, or the mean over the epochs; NaN where there are none.
        by_epoch: (E, N, K), NaN where there are none.
    """

    layer: str
    normalisers: tuple[str, ...]
    epochs: tuple[int, ...]
    values: Ratios
    by_epoch: Ratios


@dataclass(frozen=True)
class Effect:
    """One comparison: a layer and a normaliser, within what, over all epochs (`epoch` None) or in one.

    `low` .. `high` is the 95 % bootstrap interval of `delta`, `p_adjusted` is corrected for all comparisons over all
    epochs; NaN where they were not computed, as for single epochs.
    """

    layer: str
    normaliser: str
    within: Within
    epoch: int | None
    pairs: int
    delta: float
    low: float = np.nan
    high: float = np.nan
    p: float = np.nan
    p_adjusted: float = np.nan


@dataclass(frozen=True)
class Spread:
    """Quantiles 5, 25, 50, 75, 95 % and mean of the ratios of a layer's normaliser, of wrong and of right samples."""

    layer: str
    normaliser: str
    wrong: tuple[float, ...]
    right: tuple[float, ...]
    mean_wrong: float
    mean_right: float


@dataclass(frozen=True)
class RatioReport:
    """All comparisons.

    Attributes:
        source: where the ratios come from.
        wrong, right: samples of each kind that at least one layer compares.
        resamples: of the bootstrap.
        comparisons: that the p values are corrected for.
        effects, spreads: of all layers but those left out.
        left_out: layers without ratios of wrong samples, or of right ones.
    """

    source: str
    wrong: int
    right: int
    resamples: int
    comparisons: int
    effects: tuple[Effect, ...]
    spreads: tuple[Spread, ...]
    left_out: tuple[str, ...] = ()


def compare(
    layers: Iterator[LayerRatios], clean: NDArray[np.int32], given: NDArray[np.int32], source: str, resamples: int
) -> RatioReport | None:
    """Compares the samples (N,) whose clean and given labels are known (not negative) by the ratios that they have.

    A layer without ratios of both kinds of samples is left out; None where no layer is left. `resamples` of the
    bootstrap give the intervals, 0 none.
    """
    effects: list[Effect] = []
    spreads: list[Spread] = []
    left_out: list[str] = []
    compared = np.zeros(len(given), np.bool_)
    for layer in layers:
        rows = np.flatnonzero((clean >= 0) & (given >= 0) & ~np.isnan(layer.values).any(1))
        wrong = given[rows] != clean[rows]
        if not wrong.any() or wrong.all():
            left_out.append(layer.layer)
            continue
        compared[rows] = True
        strata = {"all": None, "clean": clean[rows].astype(np.int64), "given": given[rows].astype(np.int64)}
        effects += _of_layer(layer, rows, wrong, strata, resamples)
        for k, normaliser in enumerate(layer.normalisers):
            spreads.append(_spread(layer.layer, normaliser, layer.values[rows, k].astype(np.float64), wrong))
        effects += _by_epoch(layer, clean, given)
    if not effects:
        return None
    over_all = [i for i, effect in enumerate(effects) if effect.epoch is None]
    for i, corrected in zip(over_all, adjusted([effects[i].p for i in over_all]), strict=True):
        effects[i] = Effect(**{**vars(effects[i]), "p_adjusted": corrected})
    comparisons = sum(not np.isnan(effects[i].p) for i in over_all)
    wrong_count = int((compared & (given != clean)).sum())
    counts = wrong_count, int(compared.sum()) - wrong_count
    return RatioReport(source, *counts, resamples, comparisons, tuple(effects), tuple(spreads), tuple(left_out))


def _of_layer(
    layer: LayerRatios,
    rows: NDArray[np.int64],
    wrong: Bools,
    strata: Mapping[str, NDArray[np.int64] | None],
    times: int,
) -> list[Effect]:
    wanted = [(k, name, within) for k, name in enumerate(layer.normalisers) for within in WITHIN]
    pairs = [Pairs(layer.values[rows, k], wrong, strata[within]) for k, _, within in wanted]
    return [
        Effect(layer.layer, name, within, None, pair.count, pair.delta(), *bounds, p=pair.p_value())
        for (_, name, within), pair, bounds in zip(wanted, pairs, intervals(pairs, times, _SEED), strict=True)
    ]


def _by_epoch(layer: LayerRatios, clean: NDArray[np.int32], given: NDArray[np.int32]) -> list[Effect]:
    effects = []
    for epoch, values in zip(layer.epochs, layer.by_epoch, strict=True):
        rows = np.flatnonzero((clean >= 0) & (given >= 0) & ~np.isnan(values).any(1))
        wrong = given[rows] != clean[rows]
        for k, name in enumerate(layer.normalisers):
            pairs = Pairs(values[rows, k], wrong, clean[rows].astype(np.int64))
            effects.append(Effect(layer.layer, name, SHOWN, epoch, pairs.count, pairs.delta()))
    return effects


def _spread(layer: str, normaliser: str, values: NDArray[np.float64], wrong: Bools) -> Spread:
    of_wrong, of_right = (tuple(np.quantile(values[group], _QUANTILES).tolist()) for group in (wrong, ~wrong))
    return Spread(layer, normaliser, of_wrong, of_right, float(values[wrong].mean()), float(values[~wrong].mean()))

"""Means and variances of feature maps: the only file that reduces over H and W.

Shape suffixes: N sample, C channel, G group. A variance is always the population variance.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """A mean and a population variance of the same shape, float32 or wider."""

    mean: Tensor
    var: Tensor


def table_dtype(x: Tensor) -> torch.dtype:
    """The dtype of every (N, C) table made from `x`: float32, or float64 where `x` is float64."""
    return torch.promote_types(x.dtype, torch.float32)


def sample_moments(x: Tensor) -> Moments:
    """Moments of `x` (N, C, *spatial) over the spatial dimensions, per sample and channel: (N, C).

    Two passes, since E[x^2] - E[x]^2 loses every digit of the variance where the mean is large. Without spatial
    dimensions the mean is `x` itself and the variance 0.
    """
    x = x.to(table_dtype(x))
    if x.ndim == 2:
        return Moments(x, torch.zeros_like(x))
    spatial = tuple(range(2, x.ndim))
    mean = x.mean(spatial, keepdim=True)
    centred = x - mean
    # What rounding left in a mean of many large values; it is 0 in exact arithmetic, so it needs no gradient.
    # Where all of the variance is residue, a device that multiplies by 1 / n could round it below 0.
    residue = centred.detach().mean(spatial)
    var = (centred.square().mean(spatial) - residue.square()).clamp_min(0)
    return Moments(mean.flatten(1) + residue, var)


def pool_batch(sample: Moments) -> Moments:
    """Moments (C,) over samples and positions, from those of each sample (N, C), by the law of total variance."""
    mean_C = sample.mean.mean(0)
    return Moments(mean_C, sample.var.mean(0) + (sample.mean - mean_C).square().mean(0))


def pool_groups(sample: Moments, groups: int) -> Moments:
    """Moments (N, C) that the channels of each of `groups` groups share, by the law of total variance.

    `groups` divides C; the channels of a group are neighbours, as in `torch.nn.GroupNorm`.
    """
    mean_NGc, var_NGc = (table.reshape(len(table), groups, table.shape[1] // groups) for table in sample)
    mean_NG1 = mean_NGc.mean(2, keepdim=True)
    var_NG1 = var_NGc.mean(2, keepdim=True) + (mean_NGc - mean_NG1).square().mean(2, keepdim=True)
    return Moments(*(table.expand_as(mean_NGc).flatten(1) for table in (mean_NG1, var_NG1)))

"""Means and variances of feature maps, and their pooling.

Shape suffixes: N sample, C channel, G group. A variance is always the population variance.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """A mean and a population variance of the same shape, float32 or wider."""

    mean: Tensor
    var: Tensor

    def to(self, dtype: torch.dtype) -> "Moments":
        return Moments(self.mean.to(dtype), self.var.to(dtype))


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
    return _pool(sample.mean, sample.var, dim=0)


def pool_groups(sample: Moments, groups: int) -> Moments:
    """Moments (N, C) that the channels of each of `groups` groups share, by the law of total variance.

    `groups` divides C; the channels of a group are neighbours, as in `torch.nn.GroupNorm`.
    """
    n, channels = sample.mean.shape
    mean_NGc, var_NGc = (table.reshape(n, groups, channels // groups) for table in sample)
    pooled_NG = _pool(mean_NGc, var_NGc, dim=2)
    return Moments(*(table.unsqueeze(2).expand_as(mean_NGc).flatten(1) for table in pooled_NG))


def _pool(mean: Tensor, var: Tensor, dim: int) -> Moments:
    """Over `dim`, every entry with the same weight."""
    # Summed around one of them, as a mean of large means would round. It cancels, so it needs no gradient.
    origin = mean.narrow(dim, 0, 1).detach()
    apart = (mean - origin).mean(dim, keepdim=True)
    pooled = origin + apart
    spread = (mean - pooled).square().mean(dim)
    return Moments(pooled.squeeze(dim), var.mean(dim) + spread)

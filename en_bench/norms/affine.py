"""The affine map that every normaliser comes down to."""

import torch
from torch import Tensor

from en_bench.norms.moments import Moments


def apply_affine(x: Tensor, mean_NC: Tensor, scale_NC: Tensor, shift_NC: Tensor) -> Tensor:
    """`scale * (x - mean) + shift` for `x` (N, C, *spatial), in the dtype and memory format of `x`.

    Centred, so that a large mean cancels before it is scaled.
    """
    centred = x.to(mean_NC.dtype) - per_position(mean_NC, x)
    return torch.addcmul(per_position(shift_NC, x), centred, per_position(scale_NC, x)).to(x.dtype)


def per_position(table_NC: Tensor, x: Tensor) -> Tensor:
    """`table_NC` as a view (N, C, 1, ...) that broadcasts over the positions of `x`."""
    return table_NC.view(*table_NC.shape, *(1,) * (x.ndim - 2))


def standardise(mean_NC: Tensor, moments: Moments, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Scale and shift (N, C) around `mean_NC` of `weight * (x - moments.mean) / sqrt(moments.var + eps) + bias`.

    Everything but `mean_NC` need only broadcast to (N, C).
    """
    scale = weight * torch.rsqrt(moments.var + eps)
    return scale.expand_as(mean_NC), bias + scale * (mean_NC - moments.mean)

"""The affine map that every normaliser comes down to: the only file that writes a feature map."""

import torch
from torch import Tensor

from en_bench.norms.moments import Moments


def apply_affine(x: Tensor, mean_NC: Tensor, scale_NC: Tensor, shift_NC: Tensor) -> Tensor:
    """`scale * (x - mean) + shift` for `x` (N, C, *spatial), in the dtype and memory format of `x`.

    Centred, so that a large mean cancels before it is scaled.
    """
    shape = (*mean_NC.shape, *(1,) * (x.ndim - 2))
    centred = x.to(mean_NC.dtype) - mean_NC.view(shape)
    return torch.addcmul(shift_NC.view(shape), centred, scale_NC.view(shape)).to(x.dtype)


def standardise(mean_NC: Tensor, moments: Moments, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Scale and shift (N, C) around `mean_NC` of `weight * (x - moments.mean) / sqrt(moments.var + eps) + bias`.

    Everything but `mean_NC` need only broadcast to (N, C).
    """
    scale = weight * torch.rsqrt(moments.var + eps)
    return scale.expand_as(mean_NC), bias + scale * (mean_NC - moments.mean)

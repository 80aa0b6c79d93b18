"""The four passes in PyTorch, for every device and dtype, and the reference of the faster ones."""

from torch import Tensor

from en_bench.norms.affine import apply_affine, per_position
from en_bench.norms.moments import sample_moments


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    mean, var = sample_moments(x)
    return mean.contiguous(), var


def affine(x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return apply_affine(x, mean, scale, shift)


def sums(dy: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    wide = dy.to(mean.dtype)
    products = wide * (x.to(mean.dtype) - per_position(mean, x))
    if x.ndim == 2:
        return wide.contiguous(), products
    spatial = tuple(range(2, x.ndim))
    return wide.sum(spatial), products.sum(spatial)


def gradient(dy: Tensor, x: Tensor, mean: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    along_x = apply_affine(x.to(mean.dtype), mean, b, c)
    return along_x.addcmul_(dy.to(mean.dtype), per_position(a, x)).to(x.dtype)

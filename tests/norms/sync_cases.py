"""Layers and maps whose batch lies on two ranks, and what one process computes from the joined batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from en_bench import norms
from en_bench.norms import Norm, SwitchNorm
from en_bench.norms.affine import apply_affine
from en_bench.norms.moments import Moments
from tests.norms.ranks import RANKS
from tests.norms.reference import randomise

CHANNELS = 8

Outcome = dict[str, Tensor]


@dataclass(frozen=True)
class Variant:
    """What the two ranks are given."""

    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    dtype: torch.dtype = torch.float64
    channels_last: bool = False
    autocast: bool = False
    mean: float = 1.0

    @property
    def joins(self) -> bool:
        """Whether the maps are of one size, so that there is a joined batch."""
        return self.shapes[0][2:] == self.shapes[1][2:]


UNEVEN = ((3, CHANNELS, 4, 5), (5, CHANNELS, 4, 5))
VARIANTS = {
    "equal": Variant(((4, CHANNELS, 4, 5), (4, CHANNELS, 4, 5))),
    "uneven": Variant(UNEVEN),
    "vectors": Variant(((3, CHANNELS), (5, CHANNELS))),
    "volumes": Variant(((2, CHANNELS, 2, 3, 2), (1, CHANNELS, 2, 3, 2))),
    "one value, then more": Variant(((1, CHANNELS, 1, 1), (5, CHANNELS, 1, 1))),
    "one value each": Variant(((1, CHANNELS, 1, 1), (1, CHANNELS, 1, 1))),
    "one value, then maps": Variant(((1, CHANNELS, 1, 1), (3, CHANNELS, 4, 5))),
    "no sample": Variant(((5, CHANNELS, 4, 5), (0, CHANNELS, 4, 5))),
    "sizes": Variant(((3, CHANNELS, 6, 5), (2, CHANNELS, 2, 3))),
    "channels_last": Variant(UNEVEN, channels_last=True),
    "float32": Variant(UNEVEN, torch.float32),
    "float32 channels_last": Variant(UNEVEN, torch.float32, channels_last=True),
    "float32 far from 0": Variant(UNEVEN, torch.float32, mean=1e4),
    "bfloat16 autocast": Variant(UNEVEN, torch.bfloat16, autocast=True),
}


def leaves(cls: type[Norm]) -> set[type[Norm]]:
    return {cls, *(leaf for sub in cls.__subclasses__() for leaf in leaves(sub))} - {Norm}


FACTORIES: dict[str, Callable[..., Norm]] = {
    cls.__name__: cls
    for cls in sorted(leaves(Norm), key=lambda cls: cls.__name__)
    if cls.__module__.startswith(norms.__name__) and cls(CHANNELS).tracks_running_moments
}
FACTORIES["SwitchNorm, official"] = partial(SwitchNorm, official=True)


def refused(factory: str, variant: Variant) -> bool:
    """The released SwitchNorm has no variance of one position."""
    return factory == "SwitchNorm, official" and any(torch.Size(shape[2:]).numel() == 1 for shape in variant.shapes)


# The fused passes in C++ and in PyTorch, and the formulation that outer compilers read.
WAYS = {"eager": VARIANTS, "plain": ["sizes", "float32"], "differentiable": VARIANTS}
CASES = [
    (way, factory, name)
    for way, names in WAYS.items()
    for factory in FACTORIES
    for name in names
    if not refused(factory, VARIANTS[name])
]


class OtherTensor(Tensor):
    """No plain tensor, so layers take the differentiable formulation."""


def layer_of(factory: str, dtype: torch.dtype, **options: Any) -> Norm:
    """Parameters stay float32 where maps are narrower."""
    torch.manual_seed(1)
    layer = FACTORIES[factory](CHANNELS, **options)
    randomise(layer)
    if hasattr(layer, "radius"):
        layer.radius.fill_(0.4)
    return layer.to(torch.promote_types(dtype, torch.float32))


def map_of(variant: Variant, rank: int) -> tuple[Tensor, Tensor]:
    """Input and derivative of the loss by the output, of one rank."""
    shape = variant.shapes[rank]
    torch.manual_seed(10 + rank)
    x = (torch.randn(shape, dtype=torch.float64) * (1 + rank) + variant.mean + rank).to(variant.dtype)
    if variant.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    return x, torch.randn(shape, dtype=torch.float64).to(variant.dtype)


def outcome(layer: nn.Module, x: Tensor, dy: Tensor, autocast: bool = False, differentiable: bool = False) -> Outcome:
    """Output, gradients and buffers after one training step."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = layer(x.as_subclass(OtherTensor) if differentiable else x).as_subclass(Tensor)
    y.backward(dy)
    named = {f"{name}.grad": parameter.grad for name, parameter in layer.named_parameters()}
    return {"output": y.detach(), "x.grad": x.grad, **named, **dict(layer.named_buffers())}


def joined(factory: str, variant: Variant, dtype: torch.dtype) -> Outcome:
    """One process without any exchange, computing in `dtype`, on the samples of both ranks."""
    layer = layer_of(factory, variant.dtype)
    if dtype == torch.float64:
        layer = layer.double()
    xs, dys = (
        [tensor.to(dtype) for tensor in both]
        for both in zip(*(map_of(variant, rank) for rank in range(RANKS)), strict=True)
    )
    if not variant.joins:
        return by_hand(layer, xs, dys)
    autocast = variant.autocast and dtype == variant.dtype
    return outcome(layer, torch.cat(xs), torch.cat(dys), autocast, differentiable=True)


def by_hand(layer: Norm, xs: Sequence[Tensor], dys: Sequence[Tensor]) -> Outcome:
    """Maps of several sizes: batch moments of all their values, each of which counts the same."""
    xs = [x.clone().requires_grad_() for x in xs]
    tables = [(x.flatten(2).mean(2), x.flatten(2).var(2, correction=layer.sample_correction)) for x in xs]
    sample = Moments(*(torch.cat(table) for table in zip(*tables, strict=True)))
    values_CV = torch.cat([x.transpose(0, 1).flatten(1) for x in xs], 1)
    count = values_CV.shape[1]
    mean_C, var_C = values_CV.mean(1), values_CV.var(1, correction=0)
    unbiased_C = var_C * count / (count - 1)
    if layer.sample_correction:  # pooled from corrected variances, which is not the variance of all values
        share_N1 = torch.cat([torch.full((len(x), 1), x[0, 0].numel() / count, dtype=x.dtype) for x in xs])
        var_C = (share_N1 * (sample.var + (sample.mean - mean_C).square())).sum(0)
        unbiased_C = var_C
    scale_NC, shift_NC = layer.coefficients(sample, Moments(mean_C, var_C), *layer.parameter_tensors())
    parts = zip(xs, *(table.split([len(x) for x in xs]) for table in (sample.mean, scale_NC, shift_NC)), strict=True)
    ys = [apply_affine(*part) for part in parts]
    params = dict(layer.named_parameters())
    grads = torch.autograd.grad(ys, (*xs, *params.values()), dys)
    buffers = dict(layer.named_buffers())
    buffers["running_mean"] = 0.9 * buffers["running_mean"] + 0.1 * mean_C
    buffers["running_var"] = 0.9 * buffers["running_var"] + 0.1 * unbiased_C
    buffers["num_batches_tracked"] = buffers["num_batches_tracked"] + 1
    named = dict(zip((f"{name}.grad" for name in params), grads[len(xs) :], strict=True))
    maps = {"output": torch.cat([y.flatten() for y in ys]), "x.grad": torch.cat([g.flatten() for g in grads[:2]])}
    return {key: value.detach() for key, value in {**maps, **named, **buffers}.items()}

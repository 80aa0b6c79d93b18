"""Setting a normaliser's parameters so that it computes what another one did, and can still learn all it could.

A normaliser that mixes others can often be one of them without a saturated gate, whose gradient would be nothing: its
affine maps undo the ratios. How, is said for a class by a function under `@preserver(cls)`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from en_bench.norms.base import Norm
from en_bench.norms.batch_instance import BatchInstanceNorm
from en_bench.norms.conditional import ConditionalBatchNorm
from en_bench.norms.exemplar import ExemplarNorm, Normalizer
from en_bench.norms.find import Found
from en_bench.norms.fixed import BatchNorm, GroupNorm, InstanceNorm
from en_bench.norms.sparse import SparseSwitchNorm
from en_bench.norms.switchable import SwitchNorm

# Whose moments: the batch's (in evaluation the running ones), or those that each of so many groups of channels shares
# within a sample; 1 is layer and C instance normalisation.
Pool = int | Literal["batch"]


@dataclass(frozen=True)
class Source:
    """`weight * (x - mean) / sqrt(var + eps) + bias`, with moments of one `pool`: what a normaliser computes.

    weight and bias are (C,); None is 1 and 0. `in_training`, where not empty, names the moments it had there instead.
    """

    pool: Pool
    weight: Tensor | None
    bias: Tensor | None
    eps: float
    in_training: str = ""


_Preserver = Callable[[Any, Source], str | None]
_PRESERVERS: dict[type[Norm], _Preserver] = {}


def preserver(cls: type[Norm]) -> Callable[[_Preserver], _Preserver]:
    """Registers `function(norm, source)`, which sets `norm`, a fresh one, to `source`, or returns why it cannot.

    It holds for `cls` and for subclasses that leave `coefficients` alone.
    """

    def register(function: _Preserver) -> _Preserver:
        _PRESERVERS[cls] = function
        return function

    return register


def preserve(norm: Norm, source: Source) -> str | None:
    """Sets weight, bias and mixture of `norm`, so that with the same eps and running moments it computes `source`.

    Returns None, or the reason why it cannot, with nothing changed.
    """
    if norm.eps != source.eps:
        return f"eps is {norm.eps}, was {source.eps}"
    with torch.no_grad():
        return _PRESERVERS.get(_owner(norm), _preserve_other)(norm, source)


def source_of(found: Found) -> Source | str:
    """What a module computes in evaluation; or, where no `Source` says it, why."""
    old, kind = found.module, found.kind
    tracks = getattr(old, "running_mean", None) is not None
    in_training = ""
    pool: Pool | None = "batch"
    if kind == "position":
        return "it had the moments of each position"
    if isinstance(old, Norm):
        pool = pool_of(old)
    elif kind == "group":
        pool = int(old.num_groups)  # type: ignore[arg-type]
    elif kind == "instance":
        pool = "batch" if tracks else int(old.num_features)  # type: ignore[arg-type]
        in_training = "the moments of each sample and channel" if tracks else ""
    elif kind == "frozen":
        in_training = "its running moments"
    elif not tracks:
        return "it had the moments of the batch in evaluation, too"
    if pool is None:
        return f"{type(old).__name__} was a mixture"
    weight, bias = (None if tensor is None else tensor.flatten() for tensor in (old.weight, old.bias))  # type: ignore[operator]
    return Source(pool, weight, bias, float(old.eps), in_training)  # type: ignore[arg-type]


def pool_of(norm: Norm) -> Pool | None:
    """The one kind of moments that `norm` has, whatever its parameters are; None for a mixture."""
    owner = _owner(norm)
    if owner is BatchNorm:
        return "batch"
    if owner is InstanceNorm:
        return norm.num_features
    if owner is GroupNorm:
        assert isinstance(norm, GroupNorm)
        return norm.groups
    if owner is ExemplarNorm:
        assert isinstance(norm, ExemplarNorm)
        pools: dict[Normalizer, Pool] = {"in": norm.num_features, "ln": 1, "bn": "batch"}
        return pools[norm.normalizers[0]] if len(norm.normalizers) == 1 else None
    return None


def starts_as(norm: Norm) -> Pool | None:
    """The kind of moments that `norm` has as it is built; None for a mixture."""
    return "batch" if _owner(norm) in (BatchInstanceNorm, ConditionalBatchNorm) else pool_of(norm)


def _owner(norm: Norm) -> type[Norm]:
    """The class whose `coefficients` run: a subclass that leaves them alone computes what its base does."""
    return next(cls for cls in type(norm).__mro__ if "coefficients" in vars(cls))


@preserver(ExemplarNorm)
def _preserve_exemplar(norm: ExemplarNorm, source: Source) -> str | None:
    """Constant ratios, and one normaliser's weight divided by its own: nothing saturates.

    The weights and the gate's last layer get a gradient at once, the rest of the gate from the second step.
    """
    pools: dict[Normalizer, Pool] = {"in": norm.num_features, "ln": 1, "bn": "batch"}
    row = next((k for k, normalizer in enumerate(norm.normalizers) if pools[normalizer] == source.pool), None)
    if row is None:
        return f"its normalizers, {', '.join(norm.normalizers)}, have no moments of {_named(source.pool, norm)}"
    if len(norm.weight) < len(norm.normalizers):
        return "its normalizers share one weight and bias"
    last = norm.gate.layers[-1]
    last.weight.zero_()
    ratio_K = last.bias.to(torch.promote_types(last.bias.dtype, torch.float32)).softmax(0)
    _copy_affine(source, norm)
    norm.weight[row] /= ratio_K[row]
    norm.weight[:row] = norm.weight[row + 1 :] = 0
    return None


@preserver(BatchInstanceNorm)
def _preserve_batch_instance(norm: BatchInstanceNorm, source: Source) -> str | None:
    if source.pool not in ("batch", norm.num_features):
        return _mismatch(norm, f"the batch and of {_named(norm.num_features, norm)}", source)
    norm.rho.fill_(1 if source.pool == "batch" else 0)
    _copy_affine(source, norm)
    return None


@preserver(ConditionalBatchNorm)
def _preserve_conditional(norm: ConditionalBatchNorm, source: Source) -> str | None:
    """A zero output layer: it gets a gradient at once, the layer below from the second step."""
    if source.pool != "batch":
        return _mismatch(norm, "the batch", source)
    for layer in (norm.mlp.gamma, norm.mlp.beta):
        layer.weight.zero_()
        layer.bias.zero_()
    _copy_affine(source, norm)
    return None


@preserver(SwitchNorm)
def _preserve_switch(norm: SwitchNorm, source: Source) -> str | None:
    return "it mixes moments, and its softmax reaches those of one normaliser in the limit only"


@preserver(SparseSwitchNorm)
def _preserve_sparse_switch(norm: SparseSwitchNorm, source: Source) -> str | None:
    return "its ratios would be 0 and 1, which have no gradient: it could never leave them"


def _preserve_other(norm: Norm, source: Source) -> str | None:
    pool = pool_of(norm)
    if pool is None:
        return f"nothing says how {type(norm).__name__} can be one normaliser"
    if pool != source.pool:
        return _mismatch(norm, _named(pool, norm), source)
    _copy_affine(source, norm)
    return None


def _copy_affine(source: Source, norm: Norm) -> None:
    for own, old, identity in ((norm.weight, source.weight, 1), (norm.bias, source.bias, 0)):
        own.copy_(own.new_tensor(identity) if old is None else old)


def _mismatch(norm: Norm, moments: str, source: Source) -> str:
    return f"{type(norm).__name__} has the moments of {moments}, not of {_named(source.pool, norm)}"


def _named(pool: Pool, norm: Norm) -> str:
    if pool == "batch":
        return "the batch"
    if pool == norm.num_features:
        return "each sample and channel"
    return "each sample" if pool == 1 else f"{pool} groups of channels in each sample"

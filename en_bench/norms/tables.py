"""The arithmetic on (N, C) tables between the passes over the feature map, compiled once for all shapes.

What tells normalisers apart is `Norm.coefficients`, a pure function of small tables. Written in PyTorch, EN's takes
some fifty small operations forward and a hundred backward, which cost more than the passes over a CIFAR-sized map. So
the function and its vector-Jacobian product are traced with symbolic N and C, and compiled by TorchInductor: one graph
serves every batch and width of a network, evaluation never compiles anew, and there is no number of shapes beyond
which anything falls back. Inductor keeps what it compiled on disk, so the next process reads it.
"""

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from en_bench.norms.maps import native
from en_bench.norms.mode import mode
from en_bench.norms.moments import Moments, pool_batch
from en_bench.norms.symbolic import Compiled

if TYPE_CHECKING:
    from en_bench.norms.base import Norm

# pooled: batch moments come from the samples' (training); given: they are an input (evaluation, or pooled over ranks);
# alone: there are none.
Kind = Literal["pooled", "given", "alone"]
Tables = tuple[Tensor, ...]
Function = Callable[..., Tables]

_made: dict[Hashable, tuple[Function, Function, Function]] = {}


def forward_and_vjp(norm: "Norm", kind: Kind, mean: Tensor) -> tuple[Function, Function]:
    """Two functions of tables, for any N and C:

        forward(mean, var, *batch, *params) -> scale, shift, and with `pooled` the batch's mean and variance
        vjp(mean, var, *batch, sum_dy, sum_dy_centred, *params) -> scale, d var, d mean - scale * sum_dy, with `given`
            the derivatives by the batch's mean and variance, and those by `params`

    where `batch` is a mean and a variance (C,) with `given`, else nothing, and sum_dy and sum_dy_centred are the
    derivatives by shift and scale. The last term of d mean is for the mean in `scale * (x - mean)`.
    """
    forward, vjp, _ = _functions(norm, kind, mean)
    return forward, vjp


def ratio_function(norm: "Norm", kind: Kind, mean: Tensor) -> Function:
    """A function of the tables that `forward` takes, which returns the ratios of each sample (N, K) alone."""
    return _functions(norm, kind, mean)[2]


def _functions(norm: "Norm", kind: Kind, mean: Tensor) -> tuple[Function, Function, Function]:
    if "coefficients" in vars(norm):
        raise TypeError(
            f"{type(norm).__name__}: coefficients of an instance are not asked, as code is shared: subclass it"
        )
    how = mode()
    key = (type(norm), constants(norm), kind, mean.dtype, mean.device, how)
    if (found := _made.get(key)) is None:
        stripped = bare(norm)
        found = _forward(stripped, kind), _vjp(stripped, kind), _ratios(stripped, kind)
        # float64 is for checking: no rounding of a compiler's choosing, no waiting.
        if how == "compiled" and mean.dtype == torch.float32 and _has_compiler(mean.device.type):
            batch, wide = [(0,)] * (2 if kind == "given" else 0), norm.width_dims()
            found = (
                Compiled(found[0], [None, None, *batch, *wide]),
                Compiled(found[1], [None, None, *batch, None, None, *wide]),
                Compiled(found[2], [None, None, *batch, *wide]),
            )
        _made[key] = found
    return found


def _has_compiler(device_type: str) -> bool:
    # Where there is none for the passes, there is none for the tables, and a warning has said so.
    return device_type == "cuda" or (device_type == "cpu" and native.serves(torch.float32))


def compiled_graphs() -> tuple[int, int]:
    """How many graphs this process has compiled, for forward and for backward."""
    forward, backward = (
        sum(len(function.graphs) for function in functions if isinstance(function, Compiled))
        for functions in ([made[i] for made in _made.values()] for i in (0, 1))
    )
    return forward, backward


def forget() -> None:
    """Forgets every function; the next call of a layer makes them anew."""
    _made.clear()


def constants(norm: "Norm") -> tuple[tuple[str, Any], ...]:
    """The attributes of `norm` that `coefficients` may read, by name: plain values.

    Others are not the normaliser's own arithmetic: what tools hang on a layer, and tensors where a parameter was (in
    the replicas of `torch.nn.DataParallel`, pruned layers, FSDP), of which each step has new ones.
    """
    return tuple(
        (name, value)
        for name, value in vars(norm).items()
        if not name.startswith("_") and name not in _NO_CONSTANTS and _is_plain(value)
    )


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(element) for element in value)
    return value is None or isinstance(value, bool | int | float | str)


# Differ between layers that share their arithmetic.
_NO_CONSTANTS = frozenset({"training", "num_features", "momentum", "sync", "drop", "act"})


def bare(norm: "Norm") -> "Norm":
    """`norm` with its constants alone, no parameter or buffer: all that `coefficients` may read from self."""
    stripped = type(norm).__new__(type(norm))
    nn.Module.__init__(stripped)
    vars(stripped).update(constants(norm))
    return stripped


def _forward(norm: "Norm", kind: Kind) -> Function:
    def forward(mean: Tensor, var: Tensor, *rest: Tensor) -> Tables:
        sample = Moments(mean, var)
        batch, params = _batch(kind, sample, rest)
        try:
            scale, shift = norm.coefficients(sample, batch, *params)
        except AttributeError as unknown:
            raise TypeError(
                f"{unknown}: from self, coefficients may read constants alone (None, bool, int, float, str, tuples of "
                "them), as one compiled graph serves all layers of a kind. Tensors come through parameter_tensors, "
                "sizes from sample.mean.shape"
            ) from unknown
        # The passes know addresses alone: whatever broadcasts, or is wider, is made what they read.
        tables = tuple(table.to(mean.dtype).expand_as(mean).contiguous() for table in (scale, shift))
        return (*tables, *batch) if kind == "pooled" and batch is not None else tables

    return forward


def _ratios(norm: "Norm", kind: Kind) -> Function:
    def ratios(mean: Tensor, var: Tensor, *rest: Tensor) -> Tables:
        sample = Moments(mean, var)
        batch, params = _batch(kind, sample, rest)
        return (norm.sample_ratios(sample, batch, *params),)

    return ratios


def _vjp(norm: "Norm", kind: Kind) -> Function:
    forward = _forward(norm, kind)

    def vjp(mean: Tensor, var: Tensor, *rest: Tensor) -> Tables:
        given = 2 if kind == "given" else 0
        batch, (sum_dy, sum_dy_centred), params = rest[:given], rest[given : given + 2], rest[given + 2 :]
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() for t in (mean, var, *batch, *params)]
            scale, shift = forward(*leaves)[:2]
        d_mean, d_var, *others = torch.autograd.grad(
            (scale, shift), leaves, (sum_dy_centred, sum_dy), allow_unused=True, materialize_grads=True
        )
        scale = scale.detach()
        return scale, d_var.contiguous(), (d_mean - scale * sum_dy).contiguous(), *others

    return vjp


def _batch(kind: Kind, sample: Moments, rest: tuple[Tensor, ...]) -> tuple[Moments | None, tuple[Tensor, ...]]:
    if kind == "pooled":
        return pool_batch(sample), rest
    if kind == "given":
        return Moments(*rest[:2]), rest[2:]
    return None, rest

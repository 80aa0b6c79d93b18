"""Normalisers whose whole forward and backward on a CPU is one call of the C++ library each.

The passes of a small map take less time than the Python between them. So the normalisers of the papers have, beside
`coefficients`, a program: what they mix, in a form that `maps/native_tables.h` computes and differentiates by hand. Tests
hold it against the vector-Jacobian product of `coefficients`.
"""

import ctypes
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from en_bench.norms.maps import dense, native
from en_bench.norms.mode import mode

if TYPE_CHECKING:
    from en_bench.norms.base import Norm

INSTANCE, GROUP, BATCH = range(3)


class Program(NamedTuple):
    """A mixture of `kinds`: of their outputs by a gate, of their statistics, or one alone.

    The normaliser's parameters are weight and bias, then those of the gate (fc1, fc2, reduce) or of the shares.
    """

    kinds: tuple[int, ...]
    groups: int = 1  # of channels that share moments, for GROUP
    statistics: bool = False
    hidden: int = 0  # units of the gate; 0 without
    reduced: int = 0  # channels that the gate relates; 0 for all
    relu: bool = False
    shared_affine: bool = False


class Arguments(ctypes.Structure):
    """Field by field the Arguments of maps/native_tables.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("columns", "threads", "n", "c", "s", "statistics", "kinds_count")),
        *((name, ctypes.c_int64) for name in ("kind_0", "kind_1", "kind_2", "groups", "pooled", "skip_samples")),
        *((name, ctypes.c_int64) for name in ("affine_stride", "gate", "reduced", "hidden", "relu")),
        *((name, ctypes.c_double) for name in ("eps", "correction", "rate", "unbias")),
        *((name, ctypes.c_void_p) for name in ("x", "dy", "y", "dx", "mean", "var", "batch_mean", "batch_var")),
        *((name, ctypes.c_void_p) for name in ("running_mean", "running_var", "weight", "bias")),
        *((f"param_{i}", ctypes.c_void_p) for i in range(6)),
        *((name, ctypes.c_void_p) for name in ("d_weight", "d_bias")),
        *((f"d_param_{i}", ctypes.c_void_p) for i in range(6)),
    )


def program_for(norm: "Norm", x: Tensor) -> Program | None:
    """The program of `norm` if it is to run for `x`: on a CPU, with the C++ library, unless EN_BENCH_NORMS is plain."""
    if x.device.type != "cpu" or not _is_its_own(type(norm)) or mode() == "plain" or not native.serves(x.dtype):
        return None
    return norm.program()


@functools.cache
def _is_its_own(cls: "type[Norm]") -> bool:
    """Whether `program` was written for the `coefficients` that `cls` has: a subclass may change these alone."""
    owners = [next(i for i, base in enumerate(cls.__mro__) if name in vars(base)) for name in ("program", "coefficients")]
    return owners[0] <= owners[1]


def forward(
    ctx: Any,
    norm: "Norm",
    program: Program,
    pooling: bool,
    x: Tensor,
    batch_mean: Tensor | None,
    batch_var: Tensor | None,
    params: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """The output, moments (2, N, C), and the batch's mean and variance (C,), those given or those pooled.

    With `pooling`, running moments move too.
    """
    n, c = x.shape[:2]
    moments = x.new_empty((2, n, c), dtype=torch.promote_types(x.dtype, torch.float32))
    if pooling:
        batch_mean, batch_var = moments.new_empty((2, c))
    y = torch.empty_like(x)
    block = _arguments(norm, program, x, moments, batch_mean, batch_var, params)
    block.y = y.data_ptr()
    block.pooled = pooling
    block.skip_samples = not norm.reads_samples and not pooling
    native.run_program("forward", x.dtype, block)
    return y, moments, batch_mean, batch_var


def backward(
    norm: "Norm",
    program: Program,
    pooling: bool,
    dy: Tensor,
    x: Tensor,
    moments: Tensor,
    batch_mean: Tensor | None,
    batch_var: Tensor | None,
    params: Sequence[Tensor],
    wants_dx: bool,
) -> tuple[Tensor | None, list[Tensor]]:
    """The gradients of `x`, None if it is not wanted, and of `params`."""
    block = _arguments(norm, program, x, moments, batch_mean, batch_var, params)
    grads = [torch.empty_like(param) for param in params]
    dx = torch.empty_like(x) if wants_dx else None
    block.dy = dy.data_ptr()
    block.dx = None if dx is None else dx.data_ptr()
    block.pooled = pooling
    block.d_weight, block.d_bias = grads[0].data_ptr(), grads[1].data_ptr()
    for i, grad in enumerate(grads[2:]):
        setattr(block, f"d_param_{i}", grad.data_ptr())
    native.run_program("backward", x.dtype, block)
    return dx, grads


def _arguments(
    norm: "Norm",
    program: Program,
    x: Tensor,
    moments: Tensor,
    batch_mean: Tensor | None,
    batch_var: Tensor | None,
    params: Sequence[Tensor],
) -> Arguments:
    n, c = x.shape[:2]
    positions = x.numel() // (n * c)
    kinds = program.kinds
    mean = moments.data_ptr()
    block = Arguments(
        native.lies_as_columns(x, positions),
        torch.get_num_threads(),
        n,
        c,
        positions,
        program.statistics,
        len(kinds),
        *(*kinds, 0, 0)[:3],
        program.groups,
        False,
        False,
        0 if program.shared_affine or program.statistics else c,
        program.hidden > 0,
        program.reduced,
        program.hidden,
        program.relu,
        norm.eps,
        positions / (positions - norm.sample_correction) if norm.sample_correction else 1.0,
    )
    block.x = x.data_ptr()
    block.mean, block.var = mean, mean + n * c * moments.element_size()
    if batch_mean is not None and batch_var is not None:
        block.batch_mean, block.batch_var = batch_mean.data_ptr(), batch_var.data_ptr()
    block.weight, block.bias = params[0].data_ptr(), params[1].data_ptr()
    for i, param in enumerate(params[2:]):
        setattr(block, f"param_{i}", param.data_ptr())
    return block

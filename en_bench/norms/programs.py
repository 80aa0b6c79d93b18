"""Normalisers whose whole forward and backward on a CPU is one call of the C++ library each.

The passes of a small map take less time than the Python between them. So the normalisers of the papers have, beside
`coefficients`, a program: what they mix, in a form that `maps/cpp/tables.h` computes and differentiates by hand.
Tests hold it against the vector-Jacobian product of `coefficients`.
"""

import ctypes
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from en_bench.norms.maps import native
from en_bench.norms.mode import mode
from en_bench.norms.moments import Moments

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
    """Field by field the Arguments of maps/cpp/tables.h."""

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
        ("ratios", ctypes.c_void_p),
    )


def program_for(norm: "Norm", x: Tensor) -> Program | None:
    """The program of `norm` if it is to run for `x`: on a CPU, with the C++ library, unless EN_BENCH_NORMS is plain."""
    if (
        x.device.type != "cpu"
        or not _is_its_own(type(norm))
        or "coefficients" in vars(norm)
        or mode() == "plain"
        or not native.serves(x.dtype)
    ):
        return None
    return norm.program()


@functools.cache
def _is_its_own(cls: "type[Norm]") -> bool:
    """Whether the program of `cls` was written for what its `coefficients` and their helpers compute."""
    mro = cls.__mro__
    owner = next(i for i, base in enumerate(mro) if "program" in vars(base))
    written_for = {name for base in mro[owner:] for name, value in vars(base).items() if callable(value)}
    # A subclass below may set other options, and add to what surrounds the arithmetic.
    changed = {name for base in mro[:owner] for name in vars(base) if not name.startswith("__")} - {
        "extra_repr",
        "forward",
    }
    return not changed & (written_for | {"_moments_of", "sample_correction", "reads_samples"})


@functools.cache
def _values(program: Program, channels: int) -> tuple[int, ...]:
    """How many values each parameter has."""
    kinds, units = len(program.kinds), program.hidden
    affine = channels if program.shared_affine or program.statistics else kinds * channels
    shares = (kinds, kinds) if program.statistics else ()
    gate = (units * kinds * kinds, units, kinds * units, kinds) if units else ()
    return affine, affine, *shares, *gate, *((channels, program.reduced) if program.reduced else ())


def _check(norm: "Norm", program: Program, params: Sequence[Tensor]) -> None:
    """The library knows addresses alone: what PyTorch would refuse has to be refused before."""
    buffers = [] if norm.running_mean is None or norm.running_var is None else [norm.running_mean, norm.running_var]
    expected = (*_values(program, norm.num_features), *(norm.num_features for _ in buffers))
    tensors = (*params, *buffers)
    whole = norm.num_features % program.groups == 0 and (
        not program.reduced or norm.num_features % program.reduced == 0
    )
    if not whole or tuple(t.numel() for t in tensors) != expected or not all(t.is_cpu for t in tensors):
        told = ", ".join(f"{tuple(t.shape)} on {t.device}" for t in tensors)
        told += "" if whole else f", groups {program.groups}, reduced {program.reduced}"
        raise RuntimeError(
            f"{type(norm).__name__}: parameters, buffers {told} do not fit {norm.num_features} channels of a map on cpu"
        )


def forward(
    norm: "Norm",
    program: Program,
    pooling: bool,
    x: Tensor,
    batch: Sequence[Tensor] | None,
    params: Sequence[Tensor],
    ratios: Tensor | None = None,
) -> tuple[Tensor, Tensor, Sequence[Tensor] | None]:
    """The output, moments (2, N, C), and the batch's mean and variance (C,): those given, or those pooled.

    With `pooling` the running moments of `norm` move too. `ratios` (N, K), of the tables' dtype, is overwritten with
    those of the gate if it is given.
    """
    _check(norm, program, params)
    n, c = x.shape[:2]
    dtype = torch.promote_types(x.dtype, torch.float32)
    moments = x.new_empty((2, n, c), dtype=dtype)
    running, rate = None, 0.0
    if pooling:
        batch = x.new_empty((2, c), dtype=dtype).unbind()
        assert norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None
        buffers = norm.running_mean, norm.running_var
        if all(buffer.dtype == dtype and buffer.is_contiguous() for buffer in buffers):
            running = buffers
            norm.num_batches_tracked.add_(1)
            rate = 1 / int(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    y = torch.empty_like(x)
    _run("forward", norm, program, pooling, x, None, y, None, moments, batch, running, rate, params, (), ratios)
    if pooling and running is None and batch is not None:
        norm.track(Moments(*batch), x.numel() // c)
    return y, moments, batch


def backward(
    norm: "Norm",
    program: Program,
    pooling: bool,
    dy: Tensor,
    x: Tensor,
    moments: Tensor,
    batch: Sequence[Tensor] | None,
    params: Sequence[Tensor],
    wants_dx: bool,
) -> tuple[Tensor | None, list[Tensor]]:
    """The gradients of `x`, None if it is not wanted, and of `params`."""
    grads = [torch.empty_like(param) for param in params]
    dx = torch.empty_like(x) if wants_dx else None
    _run("backward", norm, program, pooling, x, dy, None, dx, moments, batch, None, 0.0, params, grads)
    return dx, grads


def _run(
    name: str,
    norm: "Norm",
    program: Program,
    pooling: bool,
    x: Tensor,
    dy: Tensor | None,
    y: Tensor | None,
    dx: Tensor | None,
    moments: Tensor,
    batch: Sequence[Tensor] | None,
    running: Sequence[Tensor] | None,
    rate: float,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    ratios: Tensor | None = None,
) -> None:
    n, c = x.shape[:2]
    batch = [table.contiguous() for table in batch or ()]
    positions = x.numel() // (n * c)
    kinds, count = program.kinds, n * positions
    mean = moments.data_ptr()
    correction = norm.sample_correction
    block = Arguments(
        native.lies_as_columns(x, positions),
        torch.get_num_threads(),
        n,
        c,
        positions,
        program.statistics,
        len(kinds),
        *(kinds if len(kinds) == 3 else (*kinds, 0, 0)[:3]),
        program.groups,
        pooling,
        not (norm.reads_samples or pooling),
        0 if program.shared_affine or program.statistics else c,
        program.hidden > 0,
        program.reduced,
        program.hidden,
        program.relu,
        norm.eps,
        positions / (positions - correction) if correction else 1.0,
        rate,
        1.0 if correction or count == 1 else count / (count - 1),
        x.data_ptr(),
        None if dy is None else dy.data_ptr(),
        None if y is None else y.data_ptr(),
        None if dx is None else dx.data_ptr(),
        mean,
        mean + n * c * moments.element_size(),
        *_pointers(batch, 2),
        *_pointers(running or (), 2),
        *_pointers(params, 8),
        *_pointers(grads, 8),
        None if ratios is None else ratios.data_ptr(),
    )
    native.run_program(name, x.dtype, block)


def _pointers(tensors: Sequence[Tensor], count: int) -> list[int | None]:
    found: list[int | None] = [tensor.data_ptr() for tensor in tensors]
    return found + [None] * (count - len(found))

"""The arithmetic on (N, C) tables between the passes over the feature map, compiled once for all shapes.

What tells normalisers apart is `Norm.coefficients`, a pure function of small tables. Written in PyTorch, EN's takes
some fifty small operations forward and a hundred backward, which cost more than the passes over a CIFAR-sized map. So
the function and its vector-Jacobian product are traced with symbolic N and C, and compiled by TorchInductor: one graph
serves every batch and width of a network, evaluation never compiles anew, and there is no number of shapes beyond
which anything falls back. Inductor keeps what it compiled on disk, so the next process reads it.
"""

import functools
import logging
import threading
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from en_bench.errors import EnBenchWarning
from en_bench.norms.mode import mode
from en_bench.norms.moments import Moments, pool_batch

if TYPE_CHECKING:
    from en_bench.norms.base import Norm

# pooled: batch moments come from the samples' (training); given: they are an input (evaluation, or pooled over ranks);
# alone: there are none.
Kind = Literal["pooled", "given", "alone"]
Tables = tuple[Tensor, ...]
Function = Callable[..., Tables]

_lock = threading.Lock()
_compiled: dict[Hashable, tuple[Function, Function]] = {}  # by all that the code depends on
_found: dict[Hashable, tuple[Function, Function]] = {}  # the same by what is quickly told of a layer


def forward_and_vjp(norm: "Norm", kind: Kind, mean: Tensor, params: Sequence[Tensor]) -> tuple[Function, Function]:
    """Two functions of tables, for any N and C:

        forward(mean, var, *batch, *params) -> scale, shift, and with `pooled` the batch's mean and variance
        vjp(mean, var, *batch, sum_dy, sum_dy_centred, *params) -> scale, d var, d mean - scale * sum_dy, with `given`
            the derivatives by the batch's mean and variance, and those by `params`

    where `batch` is a mean and a variance (C,) with `given`, else nothing, and sum_dy and sum_dy_centred are the
    derivatives by shift and scale. The last term of d mean is for the mean in `scale * (x - mean)`.
    """
    told = (type(norm), constants(norm), kind, tuple(t.shape for t in params), mean.dtype, mean.device, mode())
    if (found := _found.get(told)) is None:
        with _lock:
            code = (*told[:3], _layout(norm, params), *told[4:])
            if (found := _compiled.get(code)) is None:
                found = _compiled[code] = _made(bare(norm), kind, norm.width_dims(), mean, params)
            _found[told] = found
    return found


def forget() -> None:
    """Forgets every function; the next call of a layer makes them anew."""
    with _lock:
        _compiled.clear()
        _found.clear()


def compiled_graphs() -> int:
    """How many pairs of functions this process has made."""
    return len(_compiled)


def constants(norm: "Norm") -> tuple[tuple[str, Any], ...]:
    """The attributes of `norm` that `coefficients` may read, by name.

    Raises TypeError for one that is not hashable.
    """
    found = tuple((k, v) for k, v in vars(norm).items() if not k.startswith("_") and k not in _NO_CONSTANTS)
    try:
        hash(found)
    except TypeError:
        for name, value in found:
            if type(value).__hash__ is None:
                raise TypeError(
                    f"{type(norm).__name__}.{name} is a {type(value).__name__}: constants of a normaliser must be "
                    "hashable (a tuple for a list), as compiled code is shared by layers with equal ones"
                ) from None
        raise
    return found


# Differ between layers that share their arithmetic.
_NO_CONSTANTS = frozenset({"training", "num_features", "momentum", "sync", "drop", "act"})


def bare(norm: "Norm") -> "Norm":
    """`norm` with its constants alone, no parameter or buffer: all that `coefficients` may read from self."""
    cls = type(norm)
    stripped = _bare_class(cls).__new__(_bare_class(cls))
    nn.Module.__init__(stripped)
    vars(stripped).update(constants(norm))
    return stripped


@functools.cache
def _bare_class(cls: "type[Norm]") -> "type[Norm]":
    """`cls` with an error that explains, where `coefficients` reads what it may not."""

    def refuse(_: nn.Module, name: str) -> Any:
        raise TypeError(
            f"{cls.__name__}.coefficients reads {name!r}: from self it may read constants alone, as one compiled graph "
            "serves all widths. Tensors come through parameter_tensors, sizes from sample.mean.shape"
        )

    return type(cls.__name__, (cls,), {"__getattr__": refuse})


def _layout(norm: "Norm", params: Sequence[Tensor]) -> tuple[tuple[int, ...], ...]:
    """The sizes of `params`, with those that grow with the width as -1, -2 and so on, equal ones alike.

    A size of 1 stays: loops over one value are simplified away. Equal sizes may be taken for one.
    """
    names: dict[int, int] = {1: 1}
    return tuple(
        tuple(names.setdefault(size, -len(names)) if i in wide else size for i, size in enumerate(param.shape))
        for param, wide in zip(params, norm.width_dims(), strict=True)
    )


# ---- What is compiled


def _forward(norm: "Norm", kind: Kind) -> Function:
    def forward(mean: Tensor, var: Tensor, *rest: Tensor) -> Tables:
        sample = Moments(mean, var)
        batch, params = _batch(kind, sample, rest)
        scale, shift = norm.coefficients(sample, batch, *params)
        tables = (scale.contiguous(), shift.contiguous())
        return (*tables, *batch) if kind == "pooled" and batch is not None else tables

    return forward


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


# ---- How


def _made(
    norm: "Norm", kind: Kind, width_dims: Sequence[Sequence[int]], mean: Tensor, params: Sequence[Tensor]
) -> tuple[Function, Function]:
    forward, vjp = _forward(norm, kind), _vjp(norm, kind)
    # float64 is for checking: no rounding of a compiler's choosing, no waiting.
    if mode() != "compiled" or mean.dtype != torch.float32 or mean.device.type not in ("cpu", "cuda"):
        return forward, vjp
    # An example batch that equals no other size, or the two would be taken for one.
    others = {mean.shape[1], *(size for param in params for size in param.shape)}
    samples = next(n for n in range(31, 31 + len(others) + 1) if n not in others)
    table, row = mean.new_empty(samples, mean.shape[1]), mean.new_empty(mean.shape[1])
    tables = [(table, (0, 1))] * 2
    batch = [(row, (0,))] * (2 if kind == "given" else 0)
    wide_params = list(zip(params, width_dims, strict=True))
    try:
        return (
            _compile(forward, [*tables, *batch, *wide_params]),
            _lazy(lambda: _compile(vjp, [*tables, *batch, *tables, *wide_params]), vjp),
        )
    except TypeError:
        raise
    except Exception as problem:  # whatever a compiler dislikes, the functions themselves are right
        _warn(problem)
        return forward, vjp


def _lazy(compile_it: Callable[[], Function], otherwise: Function) -> Function:
    """Compiles at the first call: who only evaluates needs no derivative."""

    @functools.cache
    def compiled() -> Function:
        with _lock:
            try:
                return compile_it()
            except Exception as problem:
                _warn(problem)
                return otherwise

    return lambda *args: compiled()(*args)


@functools.cache
def _warn_once(text: str) -> None:
    warnings.warn(text, EnBenchWarning, stacklevel=2)


def _warn(problem: Exception) -> None:
    reason = next((line for line in str(problem).splitlines() if line.strip()), type(problem).__name__)
    _warn_once(
        f"the small tables of normalisers are not compiled, which costs about a millisecond per layer: {reason}. Cure: "
        "install a C++ compiler and Python's headers (g++, python3-dev); EN_BENCH_NORMS=eager says that it is meant"
    )


def _compile(function: Function, examples: Sequence[tuple[Tensor, Sequence[int]]]) -> Function:
    """`function` compiled for tensors like `examples`, of any size in the dimensions that stand beside each."""
    from torch._inductor import standalone_compile
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    # Equal example sizes are a coincidence, and a size may be 1 later.
    sizes = ShapeEnv(duck_shape=False, specialize_zero_one=False)
    fake_mode = FakeTensorMode(shape_env=sizes)

    def fake(example: Tensor, wide: Sequence[int]) -> Tensor:
        dims = [DimDynamic.DYNAMIC if i in wide else DimDynamic.STATIC for i in range(example.ndim)]
        return fake_mode.from_tensor(
            example.detach().contiguous(),
            symbolic_context=StatelessSymbolicContext(dynamic_sizes=dims),
        )

    arguments = [fake(example, wide) for example, wide in examples]
    with torch.no_grad(), fake_mode:
        graph = make_fx(function, tracing_mode="real")(*arguments)
    # Threads as many as PyTorch has when called, not when compiled; no pool of compiling processes that outlives it.
    patches = {"cpp.dynamic_threads": True, "compile_threads": 1}
    with torch.no_grad(), _quiet():
        artifact = standalone_compile(graph, [*arguments], options={"config_patches": patches})

    def compiled(*args: Tensor) -> Tables:
        try:
            tables: Tables = artifact(*args)
            return tables
        except AssertionError as problem:  # it checks the sizes it was compiled for before it computes
            _warn(problem)
            return function(*args)

    return compiled


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the compiler says of itself: a toolkit without a GPU, its own deprecated calls."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

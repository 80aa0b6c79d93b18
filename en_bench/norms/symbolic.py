"""Functions of small tensors, compiled by TorchInductor for all sizes at once.

Inductor's ahead-of-time entry is used rather than `torch.compile`: no guard is checked at each call, and no limit of
recompilations falls back to eager in silence. What was compiled stays in Inductor's cache on disk.
"""

import functools
import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from en_bench.errors import EnBenchWarning
from en_bench.norms.maps.native import one_thread

Function = Callable[..., tuple[Tensor, ...]]

# Values of a table on a CPU. A graph has some ten loops: to start threads for each takes longer than a small loop, and
# much longer where they have to wait for a busy processor.
_WORTH_THREADS = 16384

_lock = threading.Lock()


class Compiled:
    """`function` of tensors, compiled when called, for any sizes of their wide dimensions.

    `wide` names these for each argument; None stands for a table (N, C), of which the first argument is one. A size
    that happens to be special where a graph is made (1, or equal to another) may be taken for a rule: then the graph
    serves what obeys it, and another is made when needed. Where compiling fails, `function` itself is called from then
    on, with one warning.
    """

    def __init__(self, function: Function, wide: Sequence[Sequence[int] | None]) -> None:
        self.function = function
        self.wide = wide
        self._rest = tuple(i for i, dims in enumerate(wide) if dims is not None)
        self.graphs: list[tuple[tuple[Any, ...], Function]] = []
        self._known: dict[tuple[Any, ...], Function] = {}
        self._failed = False

    def __call__(self, *args: Tensor) -> tuple[Tensor, ...]:
        shapes = (args[0].shape[1], *(args[i].shape for i in self._rest))
        graph = self._known.get(shapes)
        if graph is None:
            graph = self._known[shapes] = self._graph_for(args)
        small = args[0].numel() < _WORTH_THREADS and args[0].device.type == "cpu"
        with one_thread() if small else nullcontext():
            return graph(*args)

    def _graph_for(self, args: Sequence[Tensor]) -> Function:
        with _lock:
            if self._failed:
                return self.function
            sizes = tuple(size for arg in args for size in arg.shape)
            for rule, graph in self.graphs:
                if _obeys(sizes, rule):
                    return graph
            try:
                self.graphs.append(_compile(self.function, args, self.wide))
            except TypeError:
                raise
            except Exception as problem:  # whatever the compiler dislikes, the function itself is right
                _warn(problem)
                self._failed = True
                return self.function
            return self.graphs[-1][1]


def _obeys(sizes: Sequence[int], rule: Sequence[Any]) -> bool:
    """Whether `sizes` are those of `rule`, expressions of symbols that stand alone at least once."""
    values: dict[Any, int] = {}
    for size, expression in zip(sizes, rule, strict=True):
        if expression.is_Symbol and values.setdefault(expression, size) != size:
            return False
    return all(int(expression.xreplace(values)) == size for size, expression in zip(sizes, rule, strict=True))


def _compile(
    function: Function, args: Sequence[Tensor], wide: Sequence[Sequence[int] | None]
) -> tuple[tuple[Any, ...], Function]:
    """The sizes that the graph serves, as expressions of symbols, and the graph."""
    from torch._inductor import standalone_compile
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    symbols = ShapeEnv(duck_shape=False, specialize_zero_one=False)
    fake_mode = FakeTensorMode(shape_env=symbols)
    # An example batch that equals no other size, whatever the first batch is: one code for every first batch.
    others = [arg for arg, dims in zip(args, wide, strict=True) if dims is not None]
    taken = {args[0].shape[1], *(size for arg in others for size in arg.shape)}
    samples = next(n for n in range(31, 32 + len(taken)) if n not in taken)

    def fake(arg: Tensor, dims: Sequence[int] | None) -> Tensor:
        if dims is None:
            arg, dims = arg.new_empty(samples, arg.shape[1]), (0, 1)
        dynamic = [DimDynamic.DYNAMIC if i in dims else DimDynamic.STATIC for i in range(arg.ndim)]
        return fake_mode.from_tensor(
            arg.detach().contiguous(), symbolic_context=StatelessSymbolicContext(dynamic_sizes=dynamic)
        )

    examples = [fake(arg, dims) for arg, dims in zip(args, wide, strict=True)]
    with torch.no_grad(), fake_mode:
        graph = make_fx(function, tracing_mode="real")(*examples)
    # Threads as many as PyTorch has when called, not when compiled; no pool of compiling processes that outlives it.
    patches = {"cpp.dynamic_threads": True, "compile_threads": 1}
    with torch.no_grad(), _quiet():
        artifact = standalone_compile(graph, [*examples], options={"config_patches": patches})
    return tuple(symbols.simplify(_expression(size)) for example in examples for size in example.shape), artifact


def _expression(size: int | torch.SymInt) -> Any:
    import sympy

    return size.node.expr if isinstance(size, torch.SymInt) else sympy.Integer(size)


@functools.cache
def _warn_once(text: str) -> None:
    warnings.warn(text, EnBenchWarning, stacklevel=2)


def _warn(problem: Exception) -> None:
    reason = next((line for line in str(problem).splitlines() if line.strip()), type(problem).__name__)
    _warn_once(
        f"the small tables of normalisers are not compiled, which costs about a millisecond per layer: {reason}. Cure: "
        "install a C++ compiler and Python's headers (g++, python3-dev); EN_BENCH_NORMS=eager says that it is meant"
    )


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

"""What normalisers cost in a network: parameters, FLOPs, memory kept for backward, seconds of a training step.

Shape suffixes: N sample, C channel, S position.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from en_bench.norms.base import Norm
from en_bench.norms.moments import Moments, pool_batch

# For each value of a map: an addition for the mean; a difference, a product and a sum for the variance around it.
_MOMENTS_PER_VALUE = 4
# A difference, a product and a sum: scale * (x - mean) + shift.
_AFFINE_PER_VALUE = 3
# Largest, difference, exponential, sum, quotient.
_SOFTMAX_PER_VALUE = 5


def parameters(modules: Iterable[nn.Module]) -> int:
    """The parameters of `modules`, each counted once."""
    return sum(tensor.numel() for tensor in {id(p): p for module in modules for p in module.parameters()}.values())


def norm_flops(norm: Norm, shape: Sequence[int]) -> int:
    """FLOPs of a training forward of `norm` on a map of `shape` (N, C, *spatial).

    7 per value, for the moments and the affine map, or 3 without spatial dimensions; and those of the tables between
    them, operation by operation: an elementwise one is 1 for each value it gives, whatever it computes, a sum or a
    maximum 1 for each value it takes, a product of matrices 2 for each multiplication. Copies, selections and views are
    free. `drop` and `act` are left out.

    Raises ValueError for an operation in `coefficients` whose FLOPs are not known.
    """
    table = torch.empty(tuple(shape[:2]), device="meta")
    sample = Moments(table, table)
    params = [tensor.detach().to("meta", table.dtype) for tensor in norm.parameter_tensors()]
    with _ArithmeticCounter() as counter:
        batch = pool_batch(sample) if norm.tracks_running_moments else None
        norm.coefficients(sample, batch, *params)
    per_value = _AFFINE_PER_VALUE + (_MOMENTS_PER_VALUE if len(shape) > 2 else 0)
    return int(counter.flops) + per_value * math.prod(shape)


class _ArithmeticCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the FLOPs of the operations run under it, as `norm_flops` says."""

    _FREE = frozenset(
        {"clone", "copy_", "where", "scatter", "sort", "gather", "bitwise_and", "bitwise_or", "logical_and"}
    )

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.flops += self._count(func, args, kwargs or {}, out)
        return out

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any) -> int:
        packet, name = func.overloadpacket, func.overloadpacket.__name__
        if packet in flop_registry:
            return int(flop_registry[packet](*args, **kwargs, out_val=out))
        if name in self._FREE or func.is_view or _makes(name):
            return 0
        if torch.Tag.pointwise in func.tags:
            return int(out.numel())
        if torch.Tag.reduction in func.tags or name == "cumsum":
            return int(args[0].numel())
        if name == "_softmax":
            return _SOFTMAX_PER_VALUE * int(out.numel())
        raise ValueError(f"the FLOPs of {func} are not known: add them to {__name__}")


def _makes(name: str) -> bool:
    """Whether an operation only makes or moves values."""
    makers = ("_to_copy", "cat", "stack", "arange", "scalar_tensor", "lift_fresh_copy", "_unsafe_view", "repeat")
    return (
        name in makers or name.rpartition("_")[2] == "like" or name.split("_")[-1] in ("empty", "ones", "zeros", "full")
    )


def network_flops(network: nn.Module, x: Tensor) -> int:
    """FLOPs of the convolutions, linear layers and products of matrices in a forward of `network` on `x`."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x)
    return int(counter.get_total_flops())


def input_shapes(network: nn.Module, names: Iterable[str], x: Tensor) -> dict[str, list[torch.Size]]:
    """The shapes of what each of the modules called `names` takes in a forward of `network` on `x`, call by call."""
    shapes: dict[str, list[torch.Size]] = {name: [] for name in names}
    hooks = [
        network.get_submodule(name).register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].shape))
        for name, seen in shapes.items()
    ]
    try:
        with torch.no_grad():
            network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


def bytes_kept(network: nn.Module, x: Tensor, context: Callable[[], AbstractContextManager[Any]] = nullcontext) -> int:
    """Bytes that a forward of `network` on `x` keeps for backward: whole storages, each once, without parameters.

    `context`, an autocast say, is entered around the forward.
    """
    own = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # holds them, so that no two share an address

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), context():
        out = network(x)
    total = sum(storage.nbytes() for storage in kept.values())
    del out
    return total


def step_seconds(
    networks: Mapping[str, nn.Module],
    x: Tensor,
    repeats: int,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    warm_up: int = 2,
) -> dict[str, list[float]]:
    """Seconds of a forward and a backward on `x`, `repeats` times each, in turns, after `warm_up` turns.

    In turns, so that whatever else the machine does meets all networks alike.
    """
    seconds: dict[str, list[float]] = {label: [] for label in networks}
    for turn in range(warm_up + repeats):
        for label, network in networks.items():
            taken = _step(network, x, context)
            if turn >= warm_up:
                seconds[label].append(taken)
    return seconds


def _step(network: nn.Module, x: Tensor, context: Callable[[], AbstractContextManager[Any]]) -> float:
    _wait(x.device)
    start = time.perf_counter()
    with context():
        loss = network(x).float().square().mean()
    loss.backward()
    _wait(x.device)
    taken = time.perf_counter() - start
    network.zero_grad(set_to_none=True)
    return taken


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)

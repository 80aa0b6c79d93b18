"""Running moments made anew: those of a whole set, in place of an average over the last batches of training.

Shape suffixes: N sample, C channel.
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from en_bench.norms.base import Norm
from en_bench.norms.moments import sample_moments


@dataclass(frozen=True)
class Recalibration:
    """What `recalibrate` did. `unreached` names normalisers that no batch came by; they keep their running moments."""

    layers: int
    batches: int
    samples: int
    unreached: tuple[str, ...]


def recalibrate(model: nn.Module, batches: Iterable[Tensor | Sequence[Tensor]]) -> Recalibration:
    """Replaces the running moments of all normalisers of `model` by the moments of `batches`, in one pass.

    Each layer ends with the mean and the variance of all values that reached it, as if they had been one batch: the
    moments of the batches are pooled in float64 by the law of total variance, weighted by their sizes, so neither a
    short batch nor the order counts. The variance is the one that the layer keeps in training: unbiased, for a Norm
    with `sample_correction` that of corrected samples; for an InstanceNorm of torch, which averages the moments of
    samples, the average over samples. During the pass normalisers use the moments of the present batch, as in training,
    so layers above the first depend on how the samples are split. Everything else, dropout included, is in evaluation.

    `batches` are inputs (N, ...), or sequences that begin with one; `itertools.islice` takes the first of a loader.
    They are moved to the model's device; autocast around the call applies. `num_batches_tracked` becomes the number of
    batches, modes, momenta, parameters and all other buffers are as before, also when the pass is interrupted, which
    leaves the old running moments. Frozen normalisers without a training mode are left. Moments are those of this
    process's batches, on every rank.

    Raises ValueError, with the model as it was, where there is no normaliser with running moments, no batch, or a
    moment that is not finite.
    """
    layers = with_running_moments(model)
    if not layers:
        raise ValueError(f"{type(model).__name__} has no normaliser with running moments: nothing to recalibrate")
    pools = {name: _Pool() for name in layers}
    modes = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.clone()) for layer in layers.values() for buffer in layer.buffers()]
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    count = samples = 0
    with torch.no_grad(), ExitStack() as undo:
        undo.callback(_set_modes, modes)
        # A drop layer that a normaliser holds rests too.
        _set_modes(dict.fromkeys(modes, False) | dict.fromkeys(layers.values(), True))
        for name, layer in layers.items():
            if isinstance(layer, Norm) and layer.sync:
                undo.callback(setattr, layer, "sync", True)
                layer.sync = False  # ranks with other numbers of batches would wait for each other
            undo.callback(layer.register_forward_pre_hook(partial(_observe, pools[name]), with_kwargs=True).remove)
        for batch in batches:
            x = (batch if isinstance(batch, Tensor) else batch[0]).to(device)
            try:
                model(x)
            finally:
                # What a training forward counts or anneals in its buffers must not add up over the pass either.
                _restore(buffers)
            count, samples = count + 1, samples + len(x)
    if count == 0:
        raise ValueError("there is no batch to take moments of: give at least one")
    reached = {name: pool for name, pool in pools.items() if pool.calls}
    if not reached:
        raise ValueError("no batch came by a normaliser: give the network itself, not a compiled or traced copy")
    for name, pool in reached.items():
        if not (pool.mean_C.isfinite().all() and pool.variance().isfinite().all()):
            raise ValueError(f"the moments of {name} over {count} batches are not finite: nothing was changed")
    for name, pool in reached.items():
        pool.store(layers[name])
    return Recalibration(len(reached), count, samples, tuple(name for name in layers if name not in reached))


def with_running_moments(model: nn.Module) -> dict[str, nn.Module]:
    """The normalisers of `model` that keep running moments, by qualified name."""
    return {name: module for name, module in model.named_modules() if _has_running_moments(module)}


def _has_running_moments(module: nn.Module) -> bool:
    if isinstance(module, Norm):
        return module.tracks_running_moments
    # The base of torch's BatchNorm and InstanceNorm, and of what timm derives from them.
    return isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None


class _Pool:
    """Moments (C,) of everything added, float64 on the CPU: `scatter_C` sums the squared distances to the mean."""

    def __init__(self) -> None:
        self.calls = 0
        self.weight = 0
        self.lost = 0  # degrees of freedom that the mean takes from the variance
        self.mean_C = torch.zeros(1, dtype=torch.float64)
        self.scatter_C = torch.zeros(1, dtype=torch.float64)

    def add(self, mean_C: Tensor, scatter_C: Tensor, weight: int, between: bool) -> None:
        """Adds a batch; `between` says whether the distance of its mean to the others' is variance."""
        total = self.weight + weight
        delta_C = mean_C - self.mean_C
        self.mean_C = self.mean_C + delta_C * (weight / total)
        self.scatter_C = self.scatter_C + scatter_C
        if between:
            self.scatter_C = self.scatter_C + delta_C.square() * (self.weight * weight / total)
        self.weight, self.calls = total, self.calls + 1

    def variance(self) -> Tensor:
        return self.scatter_C / (self.weight - self.lost)

    def store(self, layer: nn.Module) -> None:
        for name, value in (("running_mean", self.mean_C), ("running_var", self.variance())):
            getattr(layer, name).copy_(value)
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked.fill_(self.calls)  # type: ignore[operator]


def _observe(pool: _Pool, layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
    """A forward pre-hook that adds the moments of a layer's input (N, C, *spatial) to its pool."""
    x = args[0] if args else next(iter(kwargs.values()))
    averages_samples = isinstance(layer, nn.modules.instancenorm._InstanceNorm)
    if averages_samples and x.ndim == layer._get_no_batch_dim():  # type: ignore[operator]
        x = x.unsqueeze(0)
    positions = x.shape[2:].numel()
    if x.shape[0] * positions <= 1 or (averages_samples and positions == 1):
        return  # no variance; the layer says so in its own words
    mean_NC, var_NC = (table.cpu().double() for table in sample_moments(x))
    if averages_samples:
        pool.add(mean_NC.mean(0), (var_NC * positions / (positions - 1)).sum(0), len(mean_NC), between=False)
        return
    if isinstance(layer, Norm):
        var_NC = layer.corrected(var_NC, positions)
    pool.lost = 0 if getattr(layer, "sample_correction", 0) else 1
    mean_C = mean_NC.mean(0)
    scatter_C = positions * (var_NC + (mean_NC - mean_C).square()).sum(0)
    pool.add(mean_C, scatter_C, len(mean_NC) * positions, between=True)


def _set_modes(modes: dict[nn.Module, bool]) -> None:
    for module, training in modes.items():
        module.training = training


def _restore(buffers: list[tuple[Tensor, Tensor]]) -> None:
    for buffer, before in buffers:
        buffer.copy_(before)

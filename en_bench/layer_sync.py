"""The trainer's flag `sync_batchnorm`, for our normalisers too.

Lightning's own plugin knows torch's BatchNorm alone, and Lightning refuses another plugin beside the flag; so the flag
becomes this one.
"""

from __future__ import annotations

from typing import Any

import torch
from jsonargparse import Namespace
from lightning import LightningModule
from lightning.pytorch.plugins import LayerSync
from lightning.pytorch.utilities import rank_zero_warn
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from en_bench.errors import EnBenchWarning
from en_bench.norms import Norm

_STATE = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


class SyncBatchMoments(LayerSync):
    """Batch moments over all ranks, for the time of a training.

    Of every Norm with running moments, as its `sync` does, and of torch's BatchNorm and timm's with an activation in
    it, which become their synchronised kin. torch has none for a CPU: there these stay as they are, with an
    EnBenchWarning. Parameters remain the same objects, and `revert` puts every layer back as it was.
    """

    def __init__(self) -> None:
        self._set: list[Norm] = []
        self._converted: dict[nn.Module, nn.Module] = {}  # synchronised: what it stands for

    def apply(self, model: nn.Module) -> nn.Module:
        self._set = [m for m in model.modules() if isinstance(m, Norm) and m.tracks_running_moments and not m.sync]
        for norm in self._set:
            norm.sync = True
        theirs = [m for m in model.modules() if isinstance(m, _BatchNorm) and not isinstance(m, nn.SyncBatchNorm)]
        if theirs and _device(model).type == "cpu":
            rank_zero_warn(
                f"--trainer.sync_batchnorm leaves {len(theirs)} layers of torch's BatchNorm alone, which cannot be "
                "synchronised on a CPU. Cure: --model.norm en_bench.norms.BatchNorm, which can",
                category=EnBenchWarning,
            )
            return model
        synchronised: dict[nn.Module, nn.Module] = {old: convert_sync_batchnorm(old) for old in theirs}
        self._converted = {new: old for old, new in synchronised.items()}
        return _replaced(model, synchronised)

    def revert(self, model: nn.Module) -> nn.Module:
        for norm in self._set:
            norm.sync = False
        converted, self._set, self._converted = self._converted, [], {}
        for new, old in converted.items():
            # Buffers became others when the model went to its device.
            for key in _STATE:
                setattr(old, key, getattr(new, key))
            old.training = new.training
        return _replaced(model, converted)


def flag_as_plugin(settings: Namespace) -> dict[str, Any]:
    """Of a trainer's settings those that change if `sync_batchnorm` is to mean SyncBatchMoments."""
    if not settings.sync_batchnorm:
        return {}
    given = settings.plugins or []
    return {
        "sync_batchnorm": False,
        "plugins": [*(given if isinstance(given, list) else [given]), SyncBatchMoments()],
    }


def _device(model: nn.Module) -> torch.device:
    """Where the model trains. Plugins are applied before a model goes there."""
    if isinstance(model, LightningModule):
        return model.trainer.strategy.root_device
    return next((tensor.device for tensor in model.parameters()), torch.device("cpu"))


def _replaced(model: nn.Module, new_modules: dict[nn.Module, nn.Module]) -> nn.Module:
    """`model` with modules replaced in place, everywhere they are; a new one if it is itself to be replaced."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in new_modules:
                parent._modules[name] = new_modules[child]
    return new_modules.get(model, model)

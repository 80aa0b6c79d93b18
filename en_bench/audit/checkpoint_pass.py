"""One pass of a checkpoint's network over a training split, each sample once, as validation sees it.

Shape suffixes: N row of the split, B sample of a batch, C class, K normaliser.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from numpy.typing import NDArray
from torch import Tensor, nn

from en_bench.audit.ratios import LayerRatios
from en_bench.data.dataset import Batch
from en_bench.data.module import ShardDataModule
from en_bench.data.once import each_once
from en_bench.data.samplers import PADDING
from en_bench.data.targets import Targets
from en_bench.norms import ExemplarNorm
from en_bench.tasks.classification import ClassificationTask


@dataclass(frozen=True, eq=False)
class CheckpointPass:
    """What the network said of each sample.

    Attributes:
        logits: (N, C), NaN for samples that took no part.
        ratios: of each layer that has them, if they were asked for.
        unreadable: samples that could not be decoded and were skipped, as the run wants it.
    """

    logits: NDArray[np.float32]
    ratios: tuple[LayerRatios, ...]
    unreadable: int

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Class (N,), -1 for samples that took no part."""
        there = np.flatnonzero(~np.isnan(self.logits).any(1))
        predicted = np.full(len(self.logits), -1, np.int64)
        predicted[there] = self.logits[there].argmax(1)
        return predicted


def run_pass(
    trainer: Trainer, task: ClassificationTask, data: ShardDataModule, targets: Targets, with_ratios: bool
) -> CheckpointPass:
    """The network, in evaluation, over the samples of the training split with a target (N,) that is not NO_PART.

    Images are transformed as for validation, and padding never passes through the network. Ratios are those of
    evaluation: with running moments.
    """
    assert data.train_manifest is not None
    rows = len(targets)
    watched = _Watched(task.network, rows) if with_ratios and task.network is not None else None
    logits_NC: NDArray[np.float32] | None = None
    unreadable = 0
    task.eval()
    with ExitStack() as undo, torch.inference_mode(), trainer.precision_plugin.forward_context():
        if watched is not None:
            undo.enter_context(watched)
        for batch in each_once(data, targets):
            unreadable += int((~batch.valid & (batch.row != PADDING)).sum())
            if not batch.valid.any():
                continue
            here = Batch(*(tensor.to(trainer.strategy.root_device) for tensor in batch))
            image: Tensor = data.on_after_batch_transfer(here, 0).image[here.valid]
            row = batch.row[batch.valid].numpy()
            if watched is not None:
                watched.row = row
            out = task(trainer.precision_plugin.convert_input(image)).float().cpu().numpy()
            if logits_NC is None:
                logits_NC = np.full((rows, out.shape[1]), np.nan, np.float32)
            logits_NC[row] = out
    if logits_NC is None:
        logits_NC = np.full((rows, len(data.classes)), np.nan, np.float32)
    return CheckpointPass(logits_NC, watched.found() if watched is not None else (), unreadable)


class _Watched:
    """Collects the ratios of a network's layers while it is entered."""

    def __init__(self, network: nn.Module, rows: int) -> None:
        self.row: NDArray[np.int64] = np.empty(0, np.int64)  # of the samples that pass through
        self._layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, ExemplarNorm)}
        self._values = {
            name: np.full((rows, len(layer.ratio_names)), np.nan, np.float32) for name, layer in self._layers.items()
        }
        self._undo = ExitStack()

    def __enter__(self) -> _Watched:
        for name, layer in self._layers.items():
            self._undo.callback(layer.register_forward_pre_hook(partial(self._look, name)).remove)
        return self

    def __exit__(self, *error: Any) -> None:
        self._undo.close()

    def _look(self, name: str, layer: ExemplarNorm, inputs: tuple[Tensor, ...]) -> None:
        self._values[name][self.row] = layer.ratios(inputs[0]).float().cpu().numpy()

    def found(self) -> tuple[LayerRatios, ...]:
        return tuple(
            LayerRatios(name, layer.ratio_names, (), values, np.empty((0, *values.shape), np.float32))
            for (name, layer), values in zip(self._layers.items(), self._values.values(), strict=True)
        )

"""One pass of a checkpoint's network over a training split, each sample once, as validation sees it.

Shape suffixes: N row of the split, B sample of a batch, C class, K normaliser.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from lightning import Trainer
from numpy.typing import NDArray
from torch import Tensor

from en_bench.audit.ratios import LayerRatios
from en_bench.audit.scores import finite_rows
from en_bench.data.dataset import Batch
from en_bench.data.module import ShardDataModule
from en_bench.data.once import each_once
from en_bench.data.samplers import PADDING
from en_bench.data.targets import Targets
from en_bench.dynamics.recording import Recording, layers_with_ratios
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
        """Class (N,), -1 for samples that took no part, or whose logits are not finite."""
        predicted: NDArray[np.int64] = np.where(finite_rows(self.logits), self.logits.argmax(1), -1)
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
    layers = layers_with_ratios(task.network) if with_ratios and task.network is not None else {}
    recording = Recording(layers)
    ratios = {name: np.full((rows, len(layer.ratio_names)), np.nan, np.float32) for name, layer in layers.items()}
    logits_NC: NDArray[np.float32] | None = None
    unreadable = 0
    task.eval()
    with torch.inference_mode(), trainer.precision_plugin.forward_context():
        for batch in each_once(data, targets):
            unreadable += int((~batch.valid & (batch.row != PADDING)).sum())
            if not batch.valid.any():
                continue
            here = Batch(*(tensor.to(trainer.strategy.root_device) for tensor in batch))
            image: Tensor = data.on_after_batch_transfer(here, 0).image[here.valid]
            row = batch.row[batch.valid].numpy()
            with recording.watching():
                out = task(trainer.precision_plugin.convert_input(image)).float().cpu().numpy()
            for name, found in recording.ratios.items():
                if len(found) == len(row):  # else the layer sees something else than samples
                    ratios[name][row] = found.float().cpu().numpy()
            if logits_NC is None:
                logits_NC = np.full((rows, out.shape[1]), np.nan, np.float32)
            logits_NC[row] = out
    if logits_NC is None:
        logits_NC = np.full((rows, len(data.classes)), np.nan, np.float32)
    of_layers = tuple(
        LayerRatios(name, layer.ratio_names, (), ratios[name], np.empty((0, *ratios[name].shape), np.float32))
        for name, layer in layers.items()
    )
    return CheckpointPass(logits_NC, of_layers, unreadable)

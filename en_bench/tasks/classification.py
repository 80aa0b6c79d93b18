"""Image classification: a backbone with its normalisers swapped, trained by SGD, scored exactly."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from en_bench import backbones
from en_bench.attention import Attention
from en_bench.data.dataset import Batch
from en_bench.data.manifest import require_same_classes
from en_bench.data.module import ShardDataModule
from en_bench.errors import InputError
from en_bench.losses import BatchFacts, CrossEntropy, Loss, TrainingFacts
from en_bench.norms import Norm, SwapReport, anneal_radius, swap_norms
from en_bench.norms.swap import Inherit
from en_bench.tasks.effective_batch import EffectiveBatch
from en_bench.tasks.metrics import WIDE, SetScores
from en_bench.tasks.mixup import draw_mixing
from en_bench.tasks.optim import Optimisation
from en_bench.tasks.sample_table import SampleTables
from en_bench.tasks.schedules import CosineSchedule, Length, Schedule
from en_bench.tasks.weights import require_same_weights

_TABLES = "en_bench_sample_tables"
_VAL, _HELD_OUT = "val", "held_out"  # the validation sets, in the order of their loaders, and their metrics' prefixes


class ClassificationTask(LightningModule):
    """Trains and validates a classifier.

    Args:
        backbone: `cifar/resnet20` (8, 20, 32, 44, 56, 110), `timm/<model>` or `torchvision/<model>`.
        norm: class (or factory of the number of channels) of the normaliser that replaces those of the backbone;
            None keeps what the backbone has.
        num_classes: taken from the data where they are ours; needed only beside loaders of your own.
        pretrained: start from the backbone's published weights.
        attention: `se`, `eca` or `cbam` adds such a block, timm's, to each residual branch of the backbone.
        inherit: what a swapped layer takes over: `affine` (weight, bias, running moments), `preserve` (the function
            that the layer computed; where it cannot, the swap report says why) or `none`.
        where: regular expression for the qualified names of the normalisers to swap; None swaps all that are not per
            position.
        lr: learning rate after warm-up, for the batch over all ranks that the run has. It is not scaled.
        momentum: of SGD.
        nesterov: of SGD.
        weight_decay: of weights.
        decay_all: parameters of normalisers and biases decay too.
        warmup_epochs: epochs of linear warm-up.
        schedule: what follows it (default: a cosine over the rest).
        lr_batch: the batch that `lr` is for, over all ranks and accumulated passes: `en-bench fit` refuses another.
        channels_last: memory format of weights and images.
        loss: what trains (default: cross entropy). Validation's `nll` is cross entropy whatever it is.
        mixup: alpha of mixup (Zhang et al., 2018), 0 for none: images are mixed with others of the rank's batch.

    Raises InputError for values outside, and for mixup beside a loss that does not take it.

    Attributes:
        sample_tables: what is remembered of each training sample, by name. Put in before training (in a callback's
            `setup`), they are merged over the ranks between epochs and are part of every checkpoint.
        recalibrated: on which images the running moments of the loaded checkpoint were made anew, if they were.
    """

    def __init__(
        self,
        backbone: str = "cifar/resnet20",
        norm: Callable[[int], Norm] | None = None,
        num_classes: int | None = None,
        pretrained: bool = False,
        inherit: Inherit = "affine",
        where: str | None = None,
        attention: Attention | None = None,
        lr: float = 0.1,
        momentum: float = 0.9,
        nesterov: bool = True,
        weight_decay: float = 1e-4,
        decay_all: bool = False,
        warmup_epochs: float = 1.0,
        schedule: Schedule | None = None,
        lr_batch: int | None = None,
        channels_last: bool = True,
        loss: Loss | None = None,
        mixup: float = 0.0,
    ) -> None:
        super().__init__()
        self.optimisation = Optimisation(
            lr, momentum, nesterov, weight_decay, decay_all, warmup_epochs, schedule or CosineSchedule()
        )
        self.lr_batch = lr_batch
        if lr_batch is not None and lr_batch < 1:
            raise InputError(f"--model.lr_batch {lr_batch} is no batch: use 1 or more, or leave it out")
        self.loss = loss if loss is not None else CrossEntropy()
        self.mixup = mixup
        if not 0 <= mixup < math.inf:
            raise InputError(f"--model.mixup {mixup} is no alpha: use a number above 0, or 0 for no mixup")
        if mixup and not self.loss.takes_mixup:
            raise InputError(f"{type(self.loss).__name__} cannot train on mixed images: leave --model.mixup out")
        self.backbone = backbone
        self.norm = norm
        self.num_classes = num_classes
        self.pretrained = pretrained
        self.attention: Attention | None = attention
        self.inherit: Inherit = inherit
        self.where = where
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network: nn.Module | None = None
        self.swap_report: SwapReport | None = None
        self.sample_tables = SampleTables()
        self.anneals = False
        self.recalibrated: dict[str, Any] | None = None

    @property
    def data(self) -> ShardDataModule | None:
        """The data module, if it is one of ours: it knows the classes and how many samples there are."""
        module = getattr(self._trainer, "datamodule", None) if self._trainer is not None else None
        return module if isinstance(module, ShardDataModule) else None

    def configure_model(self) -> None:
        if self.network is not None:
            return
        num_classes = len(self.data.classes) if self.data is not None else self.num_classes
        if num_classes is None:
            raise InputError("the number of classes is unknown: give --model.num_classes, or data with a manifest")
        if self.num_classes not in (None, num_classes):
            raise InputError(
                f"--model.num_classes {self.num_classes} contradicts the data's {num_classes} classes: leave it out"
            )
        network = backbones.build(self.backbone, num_classes, self.pretrained, self.attention)
        if self.norm is not None:
            try:
                self.swap_report = swap_norms(network, self.norm, inherit=self.inherit, where=self.where)
            except ValueError as error:  # of the normaliser's own arguments
                raise InputError(f"--model.norm: {error}") from None
            if self.swap_report.swapped == 0:
                raise InputError(f"{self.backbone} has no normaliser to swap: leave --model.norm out")
        self.num_classes = num_classes
        self.network = network.to(memory_format=self.memory_format)
        self.anneals = anneal_radius(network, 0.0) > 0
        self.scored_sets = nn.ModuleDict({name: SetScores(num_classes) for name in (_VAL, _HELD_OUT)})

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, classes) of normalised images (B, 3, H, W)."""
        assert self.network is not None, "the network is built by configure_model()"
        logits: Tensor = self.network(image.contiguous(memory_format=self.memory_format))
        return logits

    def check(self, data: ShardDataModule, trainer: Trainer) -> None:
        """Raises InputError for a training that was not meant so, before any process group starts."""
        self.loss.check(data.classes)
        ranks = trainer.num_devices * trainer.num_nodes
        batch = EffectiveBatch(data.batch_size, ranks, trainer.accumulate_grad_batches)
        batch.check(self.optimisation.lr, self.lr_batch)

    def on_fit_start(self) -> None:
        assert self.num_classes is not None
        samples = self.data.train_manifest.count if self.data is not None and self.data.train_manifest else None
        self.loss.prepare(TrainingFacts(self.num_classes, samples, self.device, self.sample_tables))

    def on_train_epoch_start(self) -> None:
        self.sample_tables.merge()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if self.anneals:
            assert self.network is not None
            anneal_radius(self.network, self.trainer.global_step / self.trainer.estimated_stepping_batches)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The mean `loss` over the valid samples of the rank's batch, which alone pass through the network.

        With it, for those who watch, of these samples: their `logits` (b, classes), float32 and detached, the `target`
        (b,) that trained, and their `row` (b,) in the index of the split.
        """
        image, target, row = batch.image, batch.target, batch.row
        size = int(batch.valid.sum()) if self._may_skip else len(target)  # to ask a GPU is to wait for it
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=len(target))
        if size == 0:
            # Other ranks wait for this one in forward (moments of all ranks) and in backward (gradients).
            logits = self(image).float()
            return {"loss": 0 * logits.sum(), "logits": logits[:0].detach(), "target": target[:0], "row": row[:0]}
        if size < len(target):
            image, target, row = image[batch.valid], target[batch.valid], row[batch.valid]
        step = self.trainer.fit_loop.epoch_loop.total_batch_idx
        facts = BatchFacts(row, step, self.trainer.current_epoch)
        if self.mixup:
            mixing = draw_mixing(self.mixup, size, image.device, self._seed(), step, self.global_rank)
            logits = self(mixing.images(image)).float()
            of_own, of_partner = (self.loss(logits, labels, facts) for labels in (target, target[mixing.partner]))
            loss = mixing.loss(of_own, of_partner)
        else:
            logits = self(image).float()
            loss = self.loss(logits, target, facts)
        self.log("train/loss", loss, batch_size=size, prog_bar=True)
        return {"loss": loss, "logits": logits.detach(), "target": target, "row": row}

    def _seed(self) -> int:
        """Of the order of samples, where the data are ours: a checkpoint is continued with no other."""
        return self.data.shuffle.seed if self.data is not None else int(os.environ.get("PL_GLOBAL_SEED", "0"))

    @property
    def _may_skip(self) -> bool:
        """Whether training batches can hold samples that are not valid."""
        return self.data is None or self.data.on_error == "skip"

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        name = (_VAL, _HELD_OUT)[dataloader_idx]
        scores = self.scored_sets[name]
        assert isinstance(scores, SetScores)
        scores.update(self(batch.image), batch)

    def on_validation_epoch_end(self) -> None:
        for name, scores in self.scored_sets.items():
            assert isinstance(scores, SetScores)
            if name == _HELD_OUT and not self._scores_held_out():
                continue
            n, unreadable = scores.counts()
            if self._validates_whole_set():
                self._check_count(name, n, unreadable)
            values = {**scores.take(), "n": n}
            if self._may_skip:
                values["unreadable"] = unreadable
            # Already reduced over the ranks; sync_dist only tells Lightning so, the mean of equal numbers being the
            # number.
            for metric, value in values.items():
                self.log(f"{name}/{metric}", torch.tensor(value, dtype=WIDE), batch_size=1, sync_dist=True)

    def _scores_held_out(self) -> bool:
        return self.data is not None and self.data.held_out_count > 0

    def _validates_whole_set(self) -> bool:
        limit = self.trainer.limit_val_batches  # the float 1.0 is everything, the integer 1 is one batch
        return not self.trainer.sanity_checking and isinstance(limit, float) and limit == 1.0

    def _check_count(self, name: str, n: int, unreadable: int) -> None:
        """An accuracy over other than all samples once is no accuracy: refuse it. Those skipped on demand are told."""
        if self.data is None or self.data.val_manifest is None:
            return
        expected, of = self.data.val_manifest.count, self.data.val
        if name == _HELD_OUT:
            expected, of = self.data.held_out_count, f"the held-out part of {self.data.train}"
        if n + unreadable != expected:
            skipped = f" and skipped {unreadable}" if unreadable else ""
            raise InputError(
                f"validated {n} samples{skipped} of {of}, which has {expected}: each must count exactly "
                "once; is another sampler in place (a Trainer with use_distributed_sampler, or a replaced data loader)?"
            )
        if n == 0:
            raise InputError(f"none of the {expected} samples of {of} can be decoded: prepare it again")

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.optimisation.optimizer(self)
        scheduler = self.optimisation.scheduler(optimizer, self.training_length())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def training_length(self) -> Length:
        """Of the trainer's training, in optimiser steps. Raises InputError if it has no end."""
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps) or math.isinf(self.trainer.num_training_batches):
            raise InputError("the schedule needs an end: give --trainer.max_epochs or --trainer.max_steps")
        return self.optimisation.length(int(steps), self._steps_per_epoch())

    def _is_fitting(self) -> bool:
        return self._trainer is not None and self._trainer.state.fn == "fit"

    def _steps_per_epoch(self) -> int:
        return math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)

    def on_train_start(self) -> None:
        """What the run was started with wins over what a checkpoint's optimiser and schedule hold."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        scheduler = self.lr_schedulers()
        assert isinstance(optimizer, torch.optim.SGD) and isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
        changes = self.data.changes if self.data is not None else None
        self.sample_tables.restore(other_samples=changes is not None and changes.samples)
        if changes is not None and changes.restarted_at is not None:
            # The steps before were of another size, or another number to an epoch: the schedule follows the epochs.
            scheduler.last_epoch = changes.restarted_at * self._steps_per_epoch()
            self.sample_tables.forget_times()
        self.optimisation.enforce(optimizer, scheduler)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.data is not None:
            checkpoint["en_bench"] = {"classes": list(self.data.classes), "backbone": self.backbone}
        if self._is_fitting():
            checkpoint[_TABLES] = self.sample_tables.merged_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get("en_bench", {})
        if self.data is not None and "classes" in saved:
            require_same_classes(saved["classes"], self.data.classes, "the checkpoint", self.data.val)
        self.recalibrated = saved.get("recalibrated")
        require_same_weights(self.state_dict(), checkpoint["state_dict"], saved.get("backbone"))
        if self._is_fitting():
            self.sample_tables.keep(checkpoint.get(_TABLES, {}))

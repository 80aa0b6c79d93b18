"""The optimiser: which parameters decay, and what sets the learning rate."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from en_bench.errors import InputError
from en_bench.norms import Norm
from en_bench.tasks.schedules import CosineSchedule, Length, Schedule

_TORCH_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


def decay_groups(model: nn.Module, weight_decay: float, decay_all: bool = False) -> list[dict[str, Any]]:
    """Two parameter groups: weights, which decay, and biases with everything inside a normaliser.

    The latter do not decay, unless `decay_all`, as in the published code of SwitchNorm. Everything inside a normaliser
    includes EN's gate: its parameters say how to normalise, not what to compute. Frozen parameters belong to neither. A
    parameter shared by two modules counts once.
    """
    of_norms = {
        id(p) for module in model.modules() if isinstance(module, (Norm, *_TORCH_NORMS)) for p in module.parameters()
    }
    of_norms |= {id(p) for name, p in model.named_parameters() if name.rpartition(".")[2] == "bias"}
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if id(p) not in of_norms], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) in of_norms], "weight_decay": weight_decay if decay_all else 0.0},
    ]


@dataclass(frozen=True)
class Optimisation:
    """SGD and its schedule, as `ClassificationTask` documents them. Raises InputError for values outside."""

    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    decay_all: bool
    warmup_epochs: float
    schedule: Schedule = field(default_factory=CosineSchedule)

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.weight_decay < 0 or self.warmup_epochs < 0 or not 0 <= self.momentum < 1:
            raise InputError(
                f"--model.lr {self.lr}, --model.momentum {self.momentum}, --model.weight_decay {self.weight_decay}, "
                f"--model.warmup_epochs {self.warmup_epochs}: lr has to be above 0, momentum within 0 .. 1, "
                "the others 0 or more"
            )
        if self.nesterov and self.momentum == 0:
            raise InputError("--model.nesterov true needs a momentum: give --model.nesterov false beside momentum 0")

    def length(self, steps: int, per_epoch: int) -> Length:
        """Of a training of so many optimiser steps, with so many in each epoch."""
        return Length(steps, min(round(self.warmup_epochs * per_epoch), steps), per_epoch)

    def optimizer(self, model: nn.Module) -> torch.optim.SGD:
        groups = decay_groups(model, self.weight_decay, self.decay_all)
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov)

    def scheduler(self, optimizer: torch.optim.SGD, length: Length) -> torch.optim.lr_scheduler.LambdaLR:
        """What sets the learning rate before each optimiser step."""
        return torch.optim.lr_scheduler.LambdaLR(optimizer, partial(self.schedule.factor, length=length))

    def enforce(self, optimizer: torch.optim.SGD, scheduler: torch.optim.lr_scheduler.LambdaLR) -> None:
        """Lets these values win over what a checkpoint has put into optimiser and scheduler."""
        scheduler.base_lrs = [self.lr for _ in optimizer.param_groups]
        own = {"momentum": self.momentum, "nesterov": self.nesterov, "initial_lr": self.lr}
        decays = (self.weight_decay, self.weight_decay if self.decay_all else 0.0)
        for group, factor, decay in zip(optimizer.param_groups, scheduler.lr_lambdas, decays, strict=True):
            group.update(own, weight_decay=decay, lr=self.lr * factor(scheduler.last_epoch))

    def told(self, length: Length) -> str:
        """For people: `lr 0.1, x 0.1 at epochs 30, 60, 90`."""
        cut = round(self.warmup_epochs * length.per_epoch) > length.steps
        shorter = " (shortened to the whole training, which is no longer)" if cut else ""
        warmup = f"warm-up of {self.warmup_epochs:g} epochs{shorter}, " if length.warmup else ""
        decay = f"weight decay {self.weight_decay:g}{' of all parameters' if self.decay_all else ''}"
        return f"lr {self.lr:g}, {warmup}{self.schedule.told(length)}, {decay}"

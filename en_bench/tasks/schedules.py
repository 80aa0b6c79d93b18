"""How the learning rate runs, as a factor on it at each optimiser step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from en_bench.errors import InputError


class Length(NamedTuple):
    """Of a training, in optimiser steps."""

    steps: int  # in all
    warmup: int  # of linear warm-up among them
    per_epoch: int


class Schedule(ABC):
    """Linear warm-up, then what a subclass says. A function of the step alone, so that any step can be gone on from."""

    def factor(self, step: int, length: Length) -> float:
        """The factor at `step`, from 0: in warm-up from 1/warmup to 1, and 0 from the end on."""
        if step < length.warmup:
            return (step + 1) / length.warmup
        return 0.0 if step >= length.steps else self.after_warmup(step, length)

    @abstractmethod
    def after_warmup(self, step: int, length: Length) -> float:
        """The factor at a step between warm-up and end."""

    @abstractmethod
    def told(self, length: Length) -> str:
        """What follows the warm-up, for people."""


class CosineSchedule(Schedule):
    """Half a cosine from 1 towards 0, which it would reach one step after the last.

    Source: Loshchilov and Hutter, "SGDR", 2017, eq. 5, without restarts.
    """

    def after_warmup(self, step: int, length: Length) -> float:
        return 0.5 * (1 + math.cos(math.pi * (step - length.warmup) / (length.steps - length.warmup)))

    def told(self, length: Length) -> str:
        return "cosine"


class StepSchedule(Schedule):
    """Constant, and multiplied by `gamma` at each milestone.

    Source: He et al., "Deep Residual Learning for Image Recognition", 2015, section 3.4; the published trainings with
    SwitchNorm and SparseSwitchNorm have x 0.1 at epochs 30, 60 and 90.

    Args:
        milestones: epochs from the beginning of the training on, warm-up included; 5.4 lies within the sixth epoch.
        gamma: the factor.

    Raises InputError for milestones that do not rise from above 0, and for a gamma outside 0 .. 1.
    """

    def __init__(self, milestones: Sequence[float] = (30, 60, 90), gamma: float = 0.1) -> None:
        self.milestones, self.gamma = tuple(milestones), gamma
        if not all(earlier < later for earlier, later in zip((0, *self.milestones), self.milestones, strict=False)):
            raise InputError(f"--model.schedule: the milestones {list(milestones)} have to rise, from above 0")
        if not 0 < gamma <= 1:
            raise InputError(f"--model.schedule: gamma is {gamma}, and has to be above 0 and at most 1")

    def after_warmup(self, step: int, length: Length) -> float:
        passed = sum(step >= round(milestone * length.per_epoch) for milestone in self.milestones)
        return float(self.gamma**passed)

    def told(self, length: Length) -> str:
        steps = {each: round(each * length.per_epoch) for each in self.milestones}
        late = [each for each, step in steps.items() if max(step, length.warmup) >= length.steps]
        early = [each for each, step in steps.items() if step < length.warmup and each not in late]
        notes = [f"only from the end of the warm-up on: {_listed(early)}"] * bool(early)
        notes += [f"never reached: {_listed(late)}"] * bool(late)
        told = f" ({'; '.join(notes)})" if notes else ""
        return f"x {self.gamma:g} at epochs {_listed(self.milestones)}{told}"


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)

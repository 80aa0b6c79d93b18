"""What a training cost, by a clock that is set by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from en_bench.telemetry.cost import CostMeter

TRAINER: Any = SimpleNamespace(world_size=2, state=SimpleNamespace(fn="fit"), sanity_checking=False)
MODULE: Any = SimpleNamespace(device=torch.device("cpu"))
BATCH = SimpleNamespace(target=torch.zeros(8), image=torch.zeros(8, 3, 4, 4))


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("en_bench.telemetry.cost.time.monotonic", lambda: self.now)

    def steps(self, meter: CostMeter, *seconds: float) -> None:
        for each in seconds:
            self.now += each
            meter.on_train_batch_end(TRAINER, MODULE, None, BATCH, 0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_the_first_steps_and_validations_are_no_steps_time(clock: Clock) -> None:
    meter = CostMeter()
    meter.on_train_start(TRAINER, MODULE)
    clock.steps(meter, 60.0, 1.0, 1.0)
    assert meter.seconds_per_step is None
    meter.on_validation_start(TRAINER, MODULE)
    clock.now += 500.0
    meter.on_validation_end(TRAINER, MODULE)
    clock.steps(meter, 1.0, 1.0)
    assert meter.seconds_per_step is None
    clock.steps(meter, 0.25, 0.75, 0.5)
    meter.on_train_end(TRAINER, MODULE)
    assert meter.seconds == 65.5 and meter.images == 8 * 2 * 8
    assert meter.seconds_per_step == pytest.approx(0.5)


def test_each_process_starts_up_anew(clock: Clock) -> None:
    first, second, third = CostMeter(), CostMeter(), CostMeter()
    first.on_train_start(TRAINER, MODULE)
    clock.steps(first, *[10.0] * 5, 2.0, 2.0)
    saved = first.state_dict()
    second.load_state_dict(saved)
    clock.now += 3600.0
    second.on_train_start(TRAINER, MODULE)
    clock.steps(second, *[20.0] * 3)
    assert second.seconds_per_step == pytest.approx(2.0)
    third.load_state_dict(second.state_dict())  # cut off while it started up
    third.on_train_start(TRAINER, MODULE)
    clock.steps(third, *[30.0] * 5, 5.0)
    third.on_train_end(TRAINER, MODULE)
    assert third.seconds_per_step == pytest.approx((2 + 2 + 5) / 3)
    assert third.seconds == 50 + 4 + 60 + 150 + 5


def test_a_checkpoint_of_a_former_version_tells_of_no_steps(clock: Clock) -> None:
    meter = CostMeter()
    meter.load_state_dict({"seconds": 900.0, "images": 64})
    meter.on_train_start(TRAINER, MODULE)
    clock.steps(meter, *[30.0] * 5, 5.0)
    meter.on_train_end(TRAINER, MODULE)
    assert meter.seconds_per_step == 5.0 and meter.seconds == 900 + 155

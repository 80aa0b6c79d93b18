"""What a training cost, and how fast its parts were, by a clock that is set by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from en_bench.matrix.progress import read_progress
from en_bench.telemetry.cost import CostMeter
from en_bench.telemetry.progress import ProgressFile
from en_bench.telemetry.step_times import NAME, StepTimes
from en_bench.telemetry.validation_cost import ValidationCost

TRAINER: Any = SimpleNamespace(world_size=2, state=SimpleNamespace(fn="fit"), sanity_checking=False)
MODULE: Any = SimpleNamespace(device=torch.device("cpu"))
BATCH = SimpleNamespace(target=torch.zeros(8), image=torch.zeros(8, 3, 4, 4))


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("en_bench.telemetry.cost.time.monotonic", lambda: self.now)

    def steps(self, meter: CostMeter | StepTimes, *seconds: float, module: Any = MODULE) -> None:
        for each in seconds:
            self.now += each
            meter.on_train_batch_end(TRAINER, module, None, BATCH, 0)

    def validation(self, meter: ValidationCost, *seconds: float) -> None:
        """Of batches of 8 images on each rank, of the last of which 5 are valid, and a second for the scores."""
        meter.on_validation_start(TRAINER, MODULE)
        for batch, each in enumerate(seconds, start=1):
            self.now += each
            valid = torch.arange(8) < (5 if batch == len(seconds) else 8)
            meter.on_validation_batch_end(TRAINER, MODULE, None, SimpleNamespace(valid=valid), batch)
        self.now += 1.0
        meter.on_validation_end(TRAINER, MODULE)


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


@pytest.fixture
def gpu(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Any:
    """None is here: what stands in for one has 30 s of work queued whenever it is waited for, told in `asked`."""
    asked: list[torch.device] = []

    def synchronise(device: torch.device) -> None:
        asked.append(device)
        clock.now += 30.0

    monkeypatch.setattr(torch.cuda, "synchronize", synchronise)
    return SimpleNamespace(device=torch.device("cuda", 1), asked=asked)


def test_start_up_and_end_wait_for_the_device(clock: Clock, gpu: Any) -> None:
    meter = CostMeter()
    meter.on_train_start(TRAINER, gpu)
    clock.steps(meter, *[0.25] * 7, module=gpu)
    assert gpu.asked == [gpu.device]  # once: to wait for each step would slow them down
    assert meter.seconds_per_step == pytest.approx(0.25)
    meter.on_train_end(TRAINER, gpu)
    assert meter.seconds == 30 + 7 * 0.25 + 30


def test_steps_that_are_queued_before_a_validation_are_training(clock: Clock, gpu: Any) -> None:
    training, validating = CostMeter(), ValidationCost()
    training.on_train_start(TRAINER, gpu)
    clock.steps(training, 0.25, 0.25, module=gpu)
    training.on_validation_start(TRAINER, gpu)
    assert training.seconds == 0.5 + 30
    validating.on_validation_start(TRAINER, gpu)
    clock.now += 2.0
    validating.on_validation_batch_end(TRAINER, gpu, None, SimpleNamespace(valid=torch.ones(8)), 0)
    validating.on_validation_end(TRAINER, gpu)
    assert validating.seconds == 2.0


def test_a_checkpoint_of_a_former_version_tells_of_no_steps(clock: Clock) -> None:
    meter = CostMeter()
    meter.load_state_dict({"seconds": 900.0, "images": 64})
    meter.on_train_start(TRAINER, MODULE)
    clock.steps(meter, *[30.0] * 5, 5.0)
    meter.on_train_end(TRAINER, MODULE)
    assert meter.seconds_per_step == 5.0 and meter.seconds == 900 + 155


def test_validations_count_the_valid_images_of_all_ranks(clock: Clock) -> None:
    meter = ValidationCost()
    clock.validation(meter, 2.0, 3.0, 4.0)
    clock.now += 900.0  # training
    clock.validation(meter, 10.0)
    assert meter.images == 2 * (8 + 8 + 5) + 2 * 5
    assert meter.seconds == 2 + 3 + 4 + 1 + 10 + 1
    assert meter.images_per_second == pytest.approx(52 / 21)


def test_the_first_batches_of_validations_can_be_left_out(clock: Clock) -> None:
    meter = ValidationCost(skipped=1)
    clock.validation(meter, 60.0, 3.0, 4.0)
    clock.validation(meter, 2.0, 2.5)
    assert (meter.images, meter.seconds) == (2 * (8 + 5) + 2 * (8 + 5), 3 + 4 + 1 + 2 + 2.5 + 1)


def test_a_probe_measures_neither_warm_up_nor_validations_nor_the_first_step_of_an_epoch(
    clock: Clock, tmp_path: Path
) -> None:
    probe = StepTimes(warm_up=3)
    clock.steps(probe, 60.0, 2.0, 2.0, 0.5, 0.25)  # measured: the last two
    clock.validation(probe, 100.0, 3.0, 4.0)
    clock.steps(probe, 7.0, 0.75)  # and one
    probe.on_train_epoch_end(TRAINER, MODULE)
    clock.now += 500.0  # a checkpoint is written
    clock.steps(probe, 9.0, 1.0, 1.5)  # and two
    probe.on_train_epoch_end(TRAINER, MODULE)
    clock.now += 500.0
    end: Any = SimpleNamespace(is_global_zero=True, default_root_dir=str(tmp_path))
    probe.on_fit_end(end, MODULE)
    assert json.loads((tmp_path / NAME).read_text()) == {
        "steps": 5,
        "step_seconds": 0.5 + 0.25 + 0.75 + 1.0 + 1.5,
        "validation_images": 2 * (8 + 5),
        "validation_seconds": 3.0 + 4.0 + 1.0,
    }


def test_progress_tells_the_images_of_all_ranks(clock: Clock, tmp_path: Path) -> None:
    about = {"is_global_zero": True, "global_step": 1, "estimated_stepping_batches": 9, "callback_metrics": {}}
    trainer: Any = SimpleNamespace(**vars(TRAINER), **about, current_epoch=0, max_epochs=1)
    file = ProgressFile(tmp_path)

    def told() -> tuple[str, float | None]:
        found = read_progress(tmp_path)
        assert found is not None
        return found.phase, found.images_per_second

    file.on_train_start(trainer, MODULE)
    assert told() == ("fit", None)
    clock.now += 4.0
    file.on_train_batch_end(trainer, MODULE, None, BATCH, 0)
    assert told() == ("fit", 2 * 8 / 4)
    file.on_validation_start(trainer, MODULE)
    assert told() == ("validate", None)
    clock.now += 2.0
    file.on_validation_batch_end(trainer, MODULE, None, BATCH, 0)
    assert told() == ("validate", 2 * 8 / 2)
    file.on_validation_end(trainer, MODULE)
    assert told() == ("fit", 2 * 8 / 4)

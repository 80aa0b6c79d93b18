import math

import pytest
import torch

from en_bench.errors import InputError
from en_bench.tasks.schedules import CosineSchedule, Length, StepSchedule


def test_warmup_and_cosine_by_hand():
    factors = [CosineSchedule().factor(step, Length(steps=10, warmup=4, per_epoch=2)) for step in range(11)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0
    assert factors[7] == pytest.approx(0.5)
    assert factors[9] == pytest.approx(0.5 * (1 + math.cos(math.pi * 5 / 6)))
    assert factors[10] == 0.0


@pytest.mark.parametrize(("steps", "warmup"), [(5, 0), (5, 5), (1, 1), (3, 1)])
@pytest.mark.parametrize("schedule", [CosineSchedule(), StepSchedule([1, 2])])
def test_schedule_is_positive_in_every_step_that_trains(schedule, steps, warmup):
    length = Length(steps, warmup, 1)
    assert all(0 < schedule.factor(step, length) <= 1 for step in range(steps))
    assert schedule.factor(steps, length) == 0.0


def test_steps_agree_with_the_scheduler_of_torch():
    """Published code steps MultiStepLR once an epoch."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [30, 60, 90], 0.1)
    ours, length = StepSchedule(), Length(steps=100 * 7, warmup=0, per_epoch=7)
    for epoch in range(100):
        for step in range(7):
            assert 0.1 * ours.factor(7 * epoch + step, length) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        theirs.step()


def test_a_milestone_may_lie_inside_an_epoch_and_warm_up_comes_first():
    schedule, length = StepSchedule([1.5], gamma=0.1), Length(steps=20, warmup=5, per_epoch=10)
    factors = [schedule.factor(step, length) for step in range(20)]
    assert factors == [0.2, 0.4, 0.6, 0.8, 1.0, *[1.0] * 10, *[0.1] * 5]


def test_milestones_that_are_never_reached_are_told():
    assert StepSchedule().told(Length(1000, 0, 10)) == "x 0.1 at epochs 30, 60, 90"
    assert StepSchedule().told(Length(600, 0, 10)) == "x 0.1 at epochs 30, 60, 90 (never reached: 60, 90)"
    assert StepSchedule([5.4]).told(Length(180, 0, 10)) == "x 0.1 at epochs 5.4"
    assert StepSchedule([1, 2]).told(Length(30, 30, 10)) == "x 0.1 at epochs 1, 2 (never reached: 1, 2)"


def test_milestones_within_the_warm_up_are_told_as_what_they_are():
    schedule, length = StepSchedule([1, 2, 5, 12]), Length(steps=100, warmup=50, per_epoch=10)
    assert schedule.factor(49, length) == 1.0 and schedule.factor(50, length) == pytest.approx(0.1**3)
    assert schedule.told(length) == (
        "x 0.1 at epochs 1, 2, 5, 12 (only from the end of the warm-up on: 1, 2; never reached: 12)"
    )


@pytest.mark.parametrize(
    ("milestones", "gamma", "words"),
    [
        ([30, 30], 0.1, "the milestones [30, 30] have to rise"),
        ([60, 30], 0.1, "have to rise"),
        ([0, 30], 0.1, "from above 0"),
        ([30], 0.0, "gamma is 0.0"),
        ([30], 1.5, "gamma is 1.5"),
        ([math.nan], 0.1, "have to rise"),
    ],
)
def test_refusals(milestones, gamma, words):
    with pytest.raises(InputError) as error:
        StepSchedule(milestones, gamma)
    assert words in str(error.value)

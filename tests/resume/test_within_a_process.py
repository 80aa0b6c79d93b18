"""Every kind of interruption, without the price of real kills, which test_kills.py pays."""

import json
from pathlib import Path

import pytest
import torch

from en_bench.cli import main
from tests.resume.runs import Left, arguments, assert_same, what_is_left
from tests.resume.watch import Killed

POINTS = [
    "batch 0 0",  # before there is any checkpoint
    "batch 0 3",
    "batch 0 5",  # an epoch's last batch
    "validation 0",
    "batch 1 2",
    "batch 1 5",
    "save 1",
    "save 3",  # in front of a validation
    "save 4",  # after an epoch
    "save 8",  # the last one
    "end",
]
MORE_POINTS = ["batch 1 0", "validation 1", "save 5"]  # the same places in the other epoch
SLOW = [pytest.param(point, marks=pytest.mark.slow) for point in MORE_POINTS]


@pytest.fixture(scope="module")
def undisturbed(shards, tmp_path_factory) -> Left:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert main(arguments(shards, run)) == 0
    return what_is_left(run)


@pytest.mark.parametrize("point", [*POINTS, *SLOW])
def test_a_training_that_was_cut_off_ends_as_if_it_had_not_been(shards, tmp_path, undisturbed, point):
    run: Path = tmp_path / "run"
    with pytest.raises(Killed):
        main(arguments(shards, run, kill=point, by="raise"))
    assert main(arguments(shards, run, kill=point, by="raise")) == 0
    assert_same(what_is_left(run), undisturbed)


@pytest.fixture(scope="module")
def averaged(shards, tmp_path_factory) -> Left:
    """As `undisturbed`, with an average of the weights."""
    run = tmp_path_factory.mktemp("averaged") / "run"
    assert main(arguments(shards, run, averaged=True)) == 0
    return what_is_left(run)


@pytest.mark.parametrize("point", ["batch 0 3", "validation 0", "save 4", "batch 1 2"])
def test_an_average_of_the_weights_goes_on_too(shards, tmp_path, averaged, point):
    run = tmp_path / "run"
    with pytest.raises(Killed):
        main(arguments(shards, run, kill=point, by="raise", averaged=True))
    assert main(arguments(shards, run, kill=point, by="raise", averaged=True)) == 0
    assert_same(what_is_left(run), averaged)
    assert what_is_left(run).others["current_model_state"] is not None


@pytest.mark.parametrize("interval", [2, 4])
def test_validations_within_an_epoch(shards, tmp_path, interval):
    more = ("--trainer.val_check_interval", interval)
    for point in ("validation 0", "batch 0 3", "batch 1 4"):
        run = tmp_path / point
        with pytest.raises(Killed):
            main(arguments(shards, run, *more, kill=point, by="raise"))
        assert main(arguments(shards, run, *more, kill=point, by="raise")) == 0
    assert main(arguments(shards, tmp_path / "undisturbed", *more)) == 0
    for point in ("validation 0", "batch 0 3", "batch 1 4"):
        assert what_is_left(tmp_path / point).metrics == what_is_left(tmp_path / "undisturbed").metrics


def test_gradients_that_accumulate(shards, tmp_path):
    more = ("--trainer.accumulate_grad_batches", 4, "--checkpoint.every_n_steps", 1)
    for point in ("batch 0 2", "batch 0 4", "batch 1 4", "validation 1"):
        run = tmp_path / point
        with pytest.raises(Killed):
            main(arguments(shards, run, *more, kill=point, by="raise"))
        assert main(arguments(shards, run, *more, kill=point, by="raise")) == 0
    assert main(arguments(shards, tmp_path / "undisturbed", *more)) == 0
    for point in ("batch 0 2", "batch 0 4", "batch 1 4", "validation 1"):
        assert_same(what_is_left(tmp_path / point), what_is_left(tmp_path / "undisturbed"))


def test_the_clock_alone_calls_for_checkpoints(shards, tmp_path, undisturbed):
    more = ("--checkpoint.every_n_steps", "null", "--checkpoint.every_minutes", 1e-6, "--trainer.max_epochs", 4)
    more = (*more, "--data.batch_size", 8)
    run = tmp_path / "run"
    with pytest.raises(Killed):
        main(arguments(shards, run, *more, kill="batch 1 20", by="raise"))
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] > 25 and saved["global_step"] % 25


def cut_and_continued(shards: Path, folder: Path, point: str, *more: object) -> tuple[Left, Left]:
    """What a training leaves that was cut off at `point` and continued, and one that was not."""
    with pytest.raises(Killed):
        main(arguments(shards, folder / "run", *more, kill=point, by="raise"))
    assert main(arguments(shards, folder / "run", *more, kill=point, by="raise")) == 0
    assert main(arguments(shards, folder / "undisturbed", *more)) == 0
    return what_is_left(folder / "run"), what_is_left(folder / "undisturbed")


def test_a_step_schedule_goes_on_where_it_was(shards, tmp_path):
    steps = {"class_path": "en_bench.tasks.schedules.StepSchedule", "init_args": {"milestones": [0.5, 1.5]}}
    more = ("--model.schedule", json.dumps(steps), "--model.warmup_epochs", 0, "--model.decay_all", "true")
    cut_off, undisturbed = cut_and_continued(shards, tmp_path, "batch 1 2", *more)
    assert_same(cut_off, undisturbed)
    rates = [line["train/lr"] for line in undisturbed.metrics if "train/lr" in line]
    assert rates == pytest.approx([0.1] * 3 + [0.01] * 6 + [0.001] * 3)
    assert [group["weight_decay"] for group in undisturbed.optimiser[0]["param_groups"]] == [1e-4, 1e-4]


@pytest.mark.parametrize(("steps", "point"), [(12, "validation 1"), (8, "batch 1 0"), (8, "end")])
def test_a_number_of_steps_as_the_end(shards, tmp_path, steps, point):
    cut_off, undisturbed = cut_and_continued(shards, tmp_path, point, "--trainer.max_steps", steps)
    assert_same(cut_off, undisturbed)
    assert (undisturbed.fit["steps"], undisturbed.fit["epochs"]) == (steps, steps // 6)


def test_more_steps_than_before(shards, tmp_path):
    """A training that max_steps ended inside an epoch goes on there when it may take more."""
    assert main(arguments(shards, tmp_path / "few", "--trainer.max_steps", 8)) == 0
    checkpoint = tmp_path / "few" / "checkpoints" / "last.ckpt"
    assert main(arguments(shards, tmp_path / "more", "--ckpt_path", checkpoint)) == 0
    batches = [(line["epoch"], line["batch"]) for line in what_is_left(tmp_path / "more").trace[0] if "batch" in line]
    assert batches == [(1, 2), (1, 3), (1, 4), (1, 5)]


def test_early_stopping_that_was_decided_stays_decided(shards, tmp_path):
    stop = {
        "class_path": "lightning.pytorch.callbacks.EarlyStopping",
        "init_args": {"monitor": "val/n", "patience": 1},
    }
    more = ("--trainer.max_epochs", 4, "--trainer.callbacks+", json.dumps(stop))
    cut_off, undisturbed = cut_and_continued(shards, tmp_path, "end", *more)
    assert undisturbed.fit["epochs"] == 2
    assert_same(cut_off, undisturbed)

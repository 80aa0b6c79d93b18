"""Every kind of interruption, without the price of real kills, which test_kills.py pays."""

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
    "batch 1 0",
    "batch 1 2",
    "batch 1 5",
    "validation 1",
    "save 1",
    "save 3",  # in front of a validation
    "save 4",  # after an epoch
    "save 5",
]


@pytest.fixture(scope="module")
def undisturbed(shards, tmp_path_factory) -> Left:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert main(arguments(shards, run)) == 0
    return what_is_left(run)


@pytest.mark.parametrize("point", POINTS)
def test_a_training_that_was_cut_off_ends_as_if_it_had_not_been(shards, tmp_path, undisturbed, point):
    run: Path = tmp_path / "run"
    with pytest.raises(Killed):
        main(arguments(shards, run, kill=point, softly=True))
    assert main(arguments(shards, run, kill=point, softly=True)) == 0
    assert_same(what_is_left(run), undisturbed)


@pytest.mark.parametrize("point", ["batch 0 3", "validation 0", "save 4", "batch 1 2"])
def test_an_average_of_the_weights_goes_on_too(shards, tmp_path, point):
    runs = tmp_path / "run", tmp_path / "undisturbed"
    with pytest.raises(Killed):
        main(arguments(shards, runs[0], kill=point, softly=True, averaged=True))
    assert main(arguments(shards, runs[0], kill=point, softly=True, averaged=True)) == 0
    assert main(arguments(shards, runs[1], averaged=True)) == 0
    assert_same(what_is_left(runs[0]), what_is_left(runs[1]))
    assert what_is_left(runs[0]).others[0] is not None


@pytest.mark.parametrize("interval", [2, 4])
def test_validations_within_an_epoch(shards, tmp_path, interval):
    more = ("--trainer.val_check_interval", interval)
    for point in ("validation 0", "batch 0 3", "batch 1 4"):
        run = tmp_path / point
        with pytest.raises(Killed):
            main(arguments(shards, run, *more, kill=point, softly=True))
        assert main(arguments(shards, run, *more, kill=point, softly=True)) == 0
    assert main(arguments(shards, tmp_path / "undisturbed", *more)) == 0
    for point in ("validation 0", "batch 0 3", "batch 1 4"):
        assert what_is_left(tmp_path / point).metrics == what_is_left(tmp_path / "undisturbed").metrics


def test_gradients_that_accumulate(shards, tmp_path):
    more = ("--trainer.accumulate_grad_batches", 4, "--checkpoint.every_n_steps", 1)
    for point in ("batch 0 2", "batch 0 4", "batch 1 4", "validation 1"):
        run = tmp_path / point
        with pytest.raises(Killed):
            main(arguments(shards, run, *more, kill=point, softly=True))
        assert main(arguments(shards, run, *more, kill=point, softly=True)) == 0
    assert main(arguments(shards, tmp_path / "undisturbed", *more)) == 0
    for point in ("batch 0 2", "batch 0 4", "batch 1 4", "validation 1"):
        assert_same(what_is_left(tmp_path / point), what_is_left(tmp_path / "undisturbed"))


def test_the_clock_alone_calls_for_checkpoints(shards, tmp_path, undisturbed):
    more = ("--checkpoint.every_n_steps", "null", "--checkpoint.every_minutes", 1e-6, "--trainer.max_epochs", 4)
    more = (*more, "--data.batch_size", 8)
    run = tmp_path / "run"
    with pytest.raises(Killed):
        main(arguments(shards, run, *more, kill="batch 1 20", softly=True))
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] > 25 and saved["global_step"] % 25

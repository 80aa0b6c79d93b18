"""A step of another size than the learning rate is meant for is refused, and always told and recorded."""

import itertools
import json

import pytest

from en_bench.cli import main
from en_bench.errors import InputError
from en_bench.tasks.effective_batch import EffectiveBatch
from tests.conftest import REPO

EXPERIMENTS = REPO / "experiments"


@pytest.mark.parametrize(
    ("per_rank", "ranks", "accumulated"), [(32, 8, 1), (32, 1, 8), (64, 4, 1), (64, 2, 2), (256, 1, 1)]
)
def test_ranks_and_accumulation_multiply(per_rank, ranks, accumulated):
    batch = EffectiveBatch(per_rank, ranks, accumulated)
    assert batch.total == 256
    batch.check(0.1, 256)
    batch.check(0.1, None)


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        (
            EffectiveBatch(32, 1, 1),
            "the learning rate 0.1 is for a batch of 256, and a step of this run has 32 = 1 rank x 32: give "
            "--trainer.accumulate_grad_batches 8, or --data.batch_size 256, or --model.lr 0.0125 --model.lr_batch 32 "
            "(scaled in proportion)",
        ),
        (
            EffectiveBatch(32, 8, 2),
            "a step of this run has 512 = 8 ranks x 32 x 2 accumulated: give --trainer.accumulate_grad_batches 1, "
            "or --data.batch_size 16, or --model.lr 0.2 --model.lr_batch 512",
        ),
        (EffectiveBatch(32, 3, 1), "has 96 = 3 ranks x 32: give --model.lr 0.0375 --model.lr_batch 96"),
    ],
)
def test_another_size_is_refused_with_cures_that_hold(batch, told):
    with pytest.raises(InputError) as error:
        batch.check(0.1, 256)
    assert told in str(error.value)


def arguments(shards, folder, *options):
    chain = [EXPERIMENTS / name for name in ("base.yaml", "recipe/digits.yaml", "norm/bn.yaml")]
    small = ["--data.root", shards, "--data.train", "a/train", "--data.val", "a/val", "--trainer.accelerator", "cpu"]
    short = ["--trainer.max_epochs", 1, "--data.batch_size", 20, "--trainer.default_root_dir", folder]
    configs = itertools.chain.from_iterable(("--config", path) for path in chain)
    return ["fit", *map(str, [*configs, *small, *short, *options])]


def test_fit_refuses_it_before_it_trains_and_takes_its_own_cure(shards, tmp_path, capsys):
    meant = ("--model.lr_batch", 40)
    assert main(arguments(shards, tmp_path / "run", *meant)) == 1
    error = capsys.readouterr().err
    assert "is for a batch of 40, and a step of this run has 20 = 1 rank x 20" in error
    assert not (tmp_path / "run" / "fit.json").exists()
    assert main(arguments(shards, tmp_path / "run", *meant, "--trainer.accumulate_grad_batches", 2)) == 0
    out = capsys.readouterr().out
    assert "batch 40 = 1 rank x 20 x 2 accumulated, lr 0.1, warm-up of 1 epochs, cosine, weight decay 0.0001" in out
    record = json.loads((tmp_path / "run" / "fit.json").read_text())
    assert record["batch"] == {"effective": 40, "per_rank": 20, "ranks": 1, "accumulated": 2}
    assert record["steps"] == 5

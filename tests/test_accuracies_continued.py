"""Accuracies of a training that went on with other data: what still holds of the epochs before, and what says so."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning import Trainer

from en_bench.cli import main
from en_bench.data.module import ShardDataModule
from en_bench.data.transforms import CenterCrop
from en_bench.noise.conditional import SymmetricNoise
from en_bench.telemetry.console import ConsoleLines
from en_bench.telemetry.epoch_scores import EpochScores
from tests.test_cli import fit_arguments

SYMMETRIC = '{"class_path": "en_bench.noise.conditional.SymmetricNoise", "init_args": {"rate": 0.4}}'


def opened(shards: Path, train: str = "a/train", val: str = "a/val", **options: Any) -> ShardDataModule:
    data = ShardDataModule(train, val, CenterCrop(32), CenterCrop(32), root=str(shards), batch_size=8, **options)
    data.open("fit")
    return data


def validated(data: ShardDataModule, epoch: int, top1: float, held_out: float) -> Any:
    """What a callback sees of a trainer whose epoch has been validated."""
    values = {"val/top1": top1, "val/n": 93, "held_out/top1": held_out, "held_out/n": data.held_out_count}
    state = SimpleNamespace(fn="fit")
    return SimpleNamespace(
        state=state, sanity_checking=False, datamodule=data, current_epoch=epoch - 1, callback_metrics=values
    )


def trained(*steps: ShardDataModule) -> EpochScores:
    """An epoch on each of the data in turn, all but the first going on from a checkpoint; the first epoch is best."""
    kept = EpochScores()
    for epoch, data in enumerate(steps, start=1):
        state, kept = kept.state_dict(), EpochScores()
        if epoch > 1:
            kept.load_state_dict(state)
        trainer = validated(data, epoch, 0.9 / epoch, 0.8 / epoch)
        kept.on_train_start(trainer, SimpleNamespace())  # type: ignore[arg-type]
        kept.on_validation_end(trainer, SimpleNamespace())  # type: ignore[arg-type]
    return kept


def epochs(kept: EpochScores) -> tuple[int | None, ...]:
    """The epochs of the last, best and selected accuracies."""
    found = kept.accuracies(len(kept.by_epoch))
    return tuple(entry["epoch"] if entry else None for entry in (found[name] for name in ("last", "best", "selected")))


def test_the_same_data_keep_all_and_former_checkpoints_do_not_say(shards):
    data = opened(shards, held_out=0.2)
    kept = trained(data, data)
    assert epochs(kept) == (2, 1, 1)
    former = EpochScores()
    former.load_state_dict({"by_epoch": kept.state_dict()["by_epoch"]})
    former.on_train_start(validated(data, 3, 0.1, 0.1), SimpleNamespace())  # type: ignore[arg-type]
    assert epochs(former) == (2, 1, 1)


@pytest.mark.parametrize("other", [{"val": "b/val"}, {"val": "b/val", "held_out": 0.1}])
def test_epochs_on_another_validation_set_are_no_rivals(shards, other):
    kept = trained(opened(shards, held_out=0.2), opened(shards, **{"held_out": 0.2, **other}))
    assert epochs(kept) == (2, 2, 2)


@pytest.mark.parametrize(
    "other", [{"held_out": 0.1}, {"noise": SymmetricNoise(0.4)}, {"train": "b/train"}], ids=["share", "noise", "split"]
)
def test_another_held_out_part_or_other_labels_select_among_their_own_epochs(shards, other):
    kept = trained(opened(shards, held_out=0.2), opened(shards, **{"held_out": 0.2, **other}))
    assert epochs(kept) == (2, 1, 2)


def test_samples_that_have_trained_select_nothing_however_often_it_goes_on(shards, capsys):
    none, tenth, fifth = opened(shards), opened(shards, held_out=0.1), opened(shards, held_out=0.2)
    for steps in ([none, fifth], [tenth, fifth], [fifth, none, fifth, fifth], [fifth, tenth, fifth]):
        kept = trained(*steps)
        assert kept.trained_before and epochs(kept)[2] is None and epochs(kept)[1] == 1
        assert "held out, but epochs before held out" in capsys.readouterr().out
    assert epochs(trained(fifth, tenth, tenth)) == (3, 1, 2)
    assert not capsys.readouterr().out
    assert epochs(trained(tenth, fifth, tenth)) == (3, 1, 3), "what 0.1 holds out never trained"


def test_without_a_held_out_part_its_numbers_of_before_are_neither_kept_nor_printed(shards, capsys):
    data = opened(shards)
    assert epochs(trained(data)) == (1, 1, None)
    trainer: Trainer = validated(data, 2, 0.5, 0.5)
    ConsoleLines(steps=False).on_validation_end(trainer, SimpleNamespace())  # type: ignore[arg-type]
    assert "held out" not in capsys.readouterr().out


def test_a_command_that_begins_to_hold_out_says_that_nothing_is_selected_and_names_the_noise(shards, tmp_path, capsys):
    noise = ("--data.noise", SYMMETRIC)
    assert main(fit_arguments(shards, tmp_path / "run", *noise)) == 0
    more = ("--trainer.max_epochs", 2, "--data.held_out", 0.2, "--data.on_change", "next_epoch")
    checkpoint = ("--ckpt_path", tmp_path / "run" / "checkpoints" / "last.ckpt")
    capsys.readouterr()
    assert main(fit_arguments(shards, tmp_path / "run", *noise, *checkpoint, "--trainer.max_epochs", 2)) == 1
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "finished" in line]
    assert f"choose another --trainer.default_root_dir, where --ckpt_path {checkpoint[1]} trains on" in told
    assert main(fit_arguments(shards, tmp_path / "more", *noise, *checkpoint, *more)) == 0
    out = capsys.readouterr().out
    assert "a share of 0.2 of a/train is held out, but epochs before held out 0.0" in out
    assert "selected on held-out labels: none (samples of the held-out part have trained before)" in out
    assert "epoch 2  held out of a/train (labels given + symmetric 0.4 (seed 0))  top1" in out
    assert "epoch 2  memory a/train (labels given + symmetric 0.4 (seed 0))  wrong" in out
    fit = json.loads((tmp_path / "more" / "fit.json").read_text())
    assert fit["accuracies"]["selected"] is None and fit["accuracies"]["last"]["epoch"] == 2
    assert fit["held_out"]["trained_before"] is True

"""Samples that cannot be decoded and are skipped: out of losses and scores, counted, and listed once."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer
from torch import Tensor

from en_bench.data.dataset import Batch
from en_bench.data.manifest import load_manifest
from en_bench.data.module import ShardDataModule
from en_bench.data.transforms import CenterCrop
from en_bench.errors import InputError
from en_bench.tasks.classification import ClassificationTask
from en_bench.telemetry.console import ConsoleLines
from en_bench.telemetry.unreadable import NAME, Sample, Unreadable, _read, _write
from tests.data.opened import open_dataset
from tests.images import make_split


def spoil(folder: Path, rows: list[int]) -> list[tuple[str, str]]:
    """Overwrites the images of some rows by other bytes; returns their shards and keys."""
    manifest = load_manifest(folder)
    index = manifest.load_index()
    for row in rows:
        shard = manifest.shards[int(index.shard[row])].name
        with (folder / shard).open("r+b") as file:
            file.seek(int(index.offset[row, 0]))
            file.write(b"x" * int(index.size[row, 0]))
    return [(manifest.shards[int(index.shard[row])].name, index.key(row)) for row in rows]


@pytest.fixture
def root(tmp_path) -> Path:
    """`a/{train,val}`, and the same images as `whole/{train,val}`, which stay as they are."""
    for name in ("a", "whole"):
        make_split(tmp_path / name / "train", 40, seed=1, shards=3)
        make_split(tmp_path / name / "val", 23, seed=2, shards=4)
    return tmp_path


def data(root: Path, **options: Any) -> ShardDataModule:
    # Without augmentation, so that a batch can be made by hand.
    chosen = {"batch_size": 8, "val_batch_size": 5, "seed": 0, "on_error": "skip", **options}
    return ShardDataModule("a/train", "a/val", CenterCrop(32), CenterCrop(32), root=str(root), **chosen)


def trainer(root: Path, *callbacks: Any, **options: Any) -> Trainer:
    chosen = {"max_epochs": 1, "num_sanity_val_steps": 0, "enable_checkpointing": False, **options}
    return Trainer(
        default_root_dir=root / "run",
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks],
        **chosen,
    )


def listed(root: Path) -> list[dict[str, str]]:
    with (root / "run" / NAME).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def images(module: ShardDataModule, folder: Path, rows: list[int]) -> tuple[Tensor, Tensor]:
    """Normalised images and labels of rows of the undamaged set."""
    whole = open_dataset(folder, CenterCrop(32))
    batch = module.on_after_batch_transfer(whole[(0, np.array(rows))], 0)
    return batch.image, batch.target


class Watched(ClassificationTask):
    """Keeps the rows and the loss of each training step, and the running moments before and after the first."""

    def __init__(self, **options: Any) -> None:
        super().__init__(backbone="cifar/resnet8", **options)
        self.steps: list[tuple[list[int], float]] = []
        self.states: list[dict[str, Tensor]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        self.states.append({name: value.clone() for name, value in self.network.state_dict().items()})
        outputs = super().training_step(batch, batch_idx)
        self.steps.append((batch.row.tolist(), float(outputs["loss"].detach())))
        return outputs

    def on_after_backward(self) -> None:
        assert all(p.grad is not None and p.grad.isfinite().all() for p in self.parameters())


@pytest.mark.parametrize("share", [3, 16])
def test_losses_gradients_and_moments_are_those_of_the_samples_that_can_be_decoded(root, share):
    bad = list(range(0, 40, 40 // share))[:share]
    spoil(root / "a" / "train", bad)
    task, module = Watched(lr=0.05), data(root)
    run = trainer(root, limit_val_batches=0)
    run.fit(task, module)
    assert run.global_step == len(task.steps) == 40 // 8
    assert sorted(row for rows, _ in task.steps for row in rows) == list(range(40)), "skipped ones keep their place"

    reference = ClassificationTask(backbone="cifar/resnet8", num_classes=3)
    reference.configure_model()
    network = reference.network
    assert network is not None
    for (rows, loss), before, after in zip(task.steps, task.states, [*task.states[1:], None], strict=True):
        network.load_state_dict(before)
        network.train()
        kept = [row for row in rows if row not in bad]
        image, target = images(module, root / "whole" / "train", kept)
        expected = F.cross_entropy(network(image), target)
        assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
        for name, buffer in network.named_buffers() if after is not None else ():
            torch.testing.assert_close(buffer, after[name], rtol=1e-5, atol=1e-6)


def test_a_batch_without_any_sample_steps_with_a_loss_of_zero(root):
    spoil(root / "a" / "train", [row for row in range(40) if row not in (3, 17, 30)])
    task = Watched(lr=0.05)
    run = trainer(root, limit_val_batches=0)
    run.fit(task, data(root, batch_size=4))
    assert run.global_step == 10
    empty = [loss for rows, loss in task.steps if not {3, 17, 30} & set(rows)]
    assert len(empty) >= 7 and set(empty) == {0.0}, "on_after_backward has seen gradients for every parameter"
    assert all(loss > 0 for rows, loss in task.steps if {3, 17, 30} & set(rows))
    assert float(run.callback_metrics["train/loss"]) > 0, "no loss is told where there is none"


@pytest.mark.parametrize("bad", [[], [4], [0, 5, 6, 7, 8, 9, 22]], ids=str)
def test_scores_are_those_of_the_samples_that_can_be_decoded(root, bad, capsys):
    spoil(root / "a" / "val", bad)
    task, module = ClassificationTask(backbone="cifar/resnet8"), data(root)
    run = trainer(root, ConsoleLines(steps=False), Unreadable(root / "run"))
    scores = run.validate(task, module, verbose=False)[0]
    assert (scores["val/n"], scores["val/unreadable"]) == (23 - len(bad), len(bad))
    assert task.network is not None
    image, target = images(module, root / "whole" / "val", [row for row in range(23) if row not in bad])
    with torch.no_grad():
        logits = task.network.eval()(image)
    assert scores["val/top1"] == pytest.approx(float((logits.argmax(1) == target).double().mean()), abs=1e-7)
    assert scores["val/nll"] == pytest.approx(float(F.cross_entropy(logits.double(), target)), rel=1e-5)
    out = capsys.readouterr().out
    told = f" ({len(bad)} unreadable, skipped)" if bad else ""
    assert f"  n {23 - len(bad)} of 23{told}\n" in out
    assert (root / "run" / NAME).exists() == bool(bad)


def test_a_part_with_unreadable_samples_is_told_as_both(root, capsys):
    spoil(root / "a" / "val", [1])
    run = trainer(root, ConsoleLines(steps=False), limit_val_batches=2)
    run.validate(ClassificationTask(backbone="cifar/resnet8"), data(root), verbose=False)
    assert "n 9 of 23 (1 unreadable, skipped)  (a part only: limit_val_batches)" in capsys.readouterr().out


def test_skipped_samples_do_not_hide_that_others_are_missing(root):
    class Short(ShardDataModule):
        def val_dataloader(self) -> Any:
            loader = super().val_dataloader()
            loader.sampler.count = 20
            return loader

    spoil(root / "a" / "val", [1, 2])
    module = Short("a/train", "a/val", CenterCrop(32), CenterCrop(32), root=str(root), on_error="skip", seed=0)
    with pytest.raises(InputError, match="validated 18 samples and skipped 2 of a/val, which has 23"):
        trainer(root).validate(ClassificationTask(backbone="cifar/resnet8"), module, verbose=False)


def test_a_set_of_which_nothing_can_be_decoded_has_no_score(root):
    spoil(root / "a" / "val", list(range(23)))
    run = trainer(root, Unreadable(root / "run"))
    with pytest.raises(InputError, match="none of the 23 samples of a/val can be decoded: prepare it again"):
        run.validate(ClassificationTask(backbone="cifar/resnet8"), data(root), verbose=False)
    assert len(listed(root)) == 23


def test_the_list_names_each_sample_once_with_its_reason(root, capsys):
    train, val = spoil(root / "a" / "train", [30, 2, 11]), spoil(root / "a" / "val", [9])
    watch = Unreadable(root / "run")
    trainer(root, watch, max_epochs=3, num_sanity_val_steps=2).fit(Watched(), data(root))
    rows = listed(root)
    assert {(row["set"], row["split"], row["shard"], row["key"]) for row in rows} == {
        *(("a/train", "train", *where) for where in train),
        *(("a/val", "val", *where) for where in val),
    }
    assert len(rows) == 4 and rows == sorted(rows, key=lambda row: tuple(row.values()))
    assert {row["reason"] for row in rows} == {"not a JPEG, PNG or WebP"}
    assert (watch.count("a/train", "train"), watch.count("a/val", "val"), watch.count("b/val", "val")) == (3, 1, 0)
    lines = [line for line in capsys.readouterr().out.splitlines() if "cannot be decoded" in line]
    path = root / "run" / NAME
    assert lines == [
        f"epoch 1  val a/val  1 cannot be decoded and is skipped: {path}",
        f"epoch 1  train a/train  3 cannot be decoded and are skipped: {path}",
    ]


def test_the_list_goes_on_with_the_training_and_begins_anew_with_another(root, capsys):
    first = spoil(root / "a" / "train", [5])
    run = trainer(root, Unreadable(root / "run"), limit_val_batches=0)
    run.fit(Watched(), data(root))
    run.save_checkpoint(root / "last.ckpt")
    second = spoil(root / "a" / "train", [6, 7])
    capsys.readouterr()
    resumed = trainer(root, Unreadable(root / "run"), limit_val_batches=0, max_epochs=2)
    resumed.fit(Watched(), data(root), ckpt_path=root / "last.ckpt", weights_only=True)
    assert [(row["shard"], row["key"]) for row in listed(root)] == sorted(first + second)
    assert "epoch 2  train a/train  2 more, 3 in all, cannot be decoded" in capsys.readouterr().out

    spoil(root / "a" / "val", [0])
    task = ClassificationTask(backbone="cifar/resnet8")
    trainer(root, Unreadable(root / "run")).validate(task, data(root), verbose=False)
    assert len(listed(root)) == 4, "a validation adds to the list of its run"

    trainer(root, Unreadable(root / "run"), limit_val_batches=0).fit(Watched(), data(root))
    assert [(row["shard"], row["key"]) for row in listed(root)] == sorted(first + second)


def test_what_is_noticed_before_a_checkpoint_is_in_the_list_when_it_is_written(root):
    """A training killed after it, and resumed from it, never sees those samples again in this epoch."""
    spoil(root / "a" / "train", list(range(0, 40, 2)))

    class SavesAfterTwoSteps(Watched):
        noticed = -1

        def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
            if batch_idx == 1:
                self.trainer.save_checkpoint(root / "mid.ckpt")
                self.noticed = len(listed(root))

    task = SavesAfterTwoSteps()
    trainer(root, Unreadable(root / "run"), limit_val_batches=0).fit(task, data(root))
    seen = [row for rows, _ in task.steps[:2] for row in rows]
    assert task.noticed == sum(row % 2 == 0 for row in seen) > 0
    assert len(listed(root)) == 20


@pytest.mark.parametrize("content", ["no,list\n", "set,split,shard,key,reason\na,b\n", 'set,split,shard,key,reason\n"'])
def test_a_file_that_is_no_such_list_is_refused_and_kept(root, content):
    spoil(root / "a" / "val", [0])
    path = root / "run" / NAME
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(InputError, match=r"unreadable.csv: not .*: move it away"):
        trainer(root, Unreadable(root / "run")).validate(
            ClassificationTask(backbone="cifar/resnet8"), data(root), verbose=False
        )
    assert path.read_text() == content


def test_names_and_reasons_with_commas_quotes_and_line_breaks_survive(tmp_path):
    listed_samples = {
        Sample('a,"b"', "val", "s-000.tar", "ключ/ä\n1"): 'why, "so"',
        Sample("a", "train", "s-001.tar", "=1+1"): "",
    }
    _write(tmp_path / "list.csv", listed_samples)
    assert _read(tmp_path / "list.csv") == listed_samples
    assert _read(tmp_path / "none.csv") == {}


def test_without_the_option_the_run_ends_with_the_sample_and_no_list(root):
    spoil(root / "a" / "train", [5])
    with pytest.raises(InputError, match="cannot be decoded"):
        trainer(root, Unreadable(root / "run"), limit_val_batches=0).fit(Watched(), data(root, on_error="raise"))
    assert not (root / "run" / NAME).exists()


def test_nothing_unreadable_changes_nothing(root):
    """Not a bit: skipping must not cost those whose sets are whole."""
    weights = []
    for on_error in ("raise", "skip"):
        torch.manual_seed(0)
        task = Watched()
        trainer(root, Unreadable(root / "run")).fit(task, data(root, on_error=on_error))
        weights.append(task.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not (root / "run" / NAME).exists()

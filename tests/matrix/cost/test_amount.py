from pathlib import Path
from typing import Any

import pytest

from en_bench.matrix.cost.amount import Amount, Unknown, amount_of, set_sizes
from en_bench.matrix.overlays import Overlay, merge
from en_bench.matrix.plan import Cell, plan_cells
from en_bench.matrix.spec import load_spec
from tests.matrix.test_plan import record_of

SIZES = {
    "digits/handwritten/train": 1000,
    "digits/handwritten/val": 300,
    "digits/typeset/train": 500,
    "digits/typeset/val": 200,
}


def counted(spec_file: Path, more: dict[str, Any], ranks: int = 1, sizes: dict[str, int] = SIZES) -> Amount | Unknown:
    spec = load_spec(spec_file)
    cell = plan_cells(spec)[0]  # BatchNorm/handwritten/0: 2 epochs
    config = merge([cell.config, {"data": {"batch_size": 64}}, more])
    changed = Cell(cell.id, cell.norm, cell.train, cell.seed, (Overlay(config),), config)
    return amount_of(changed, spec, ranks, sizes.get)


@pytest.mark.parametrize(
    ("more", "ranks", "epoch", "steps", "watched"),
    [
        ({}, 1, 15, 30, 600),  # 1000 // 64 batches
        ({}, 2, 7, 14, 600),
        ({"data": {"batch_size": 100}}, 1, 10, 20, 600),
        ({"data": {"held_out": 0.2}}, 1, 12, 24, 1000),  # 800 train; 300 and the 200 that are held out, twice
        ({"trainer": {"accumulate_grad_batches": 4}}, 1, 15, 30, 600),  # of as many batches fewer updates are made
        ({"trainer": {"max_steps": 4, "accumulate_grad_batches": 4}}, 1, 15, 16, 300),
        ({"trainer": {"max_epochs": -1, "max_steps": 45}}, 1, 15, 45, 900),
        ({"trainer": {"limit_train_batches": 6}}, 1, 6, 12, 600),
        ({"trainer": {"limit_train_batches": 0.5}}, 1, 7, 14, 600),
        ({"trainer": {"limit_val_batches": 2}}, 1, 15, 30, 256),
        ({"trainer": {"max_epochs": 6, "check_val_every_n_epoch": 2}}, 1, 15, 90, 900),
        ({"trainer": {"val_check_interval": 0.25}}, 1, 15, 30, 2400),
        ({"trainer": {"val_check_interval": 10}}, 1, 15, 30, 900),
    ],
)
def test_hand_counts(spec_file: Path, more: dict[str, Any], ranks: int, epoch: int, steps: int, watched: int) -> None:
    found = counted(spec_file, more, ranks)
    assert isinstance(found, Amount)
    assert (found.epoch, found.steps, found.watched) == (epoch, steps, watched)


def test_each_validation_that_follows_counts_its_whole_set(spec_file: Path) -> None:
    found = counted(spec_file, {})
    assert isinstance(found, Amount) and found.after == {"handwritten": 300, "typeset": 200}


def test_adapting_reads_the_unlabelled_images_and_validates_again(spec_file: Path) -> None:
    with spec_file.open("a") as stream:
        stream.write("adapted: [typeset]\n")
    found = counted(spec_file, {})
    assert isinstance(found, Amount) and found.adapted == {"typeset": 500 + 200}


def test_a_label_for_each_trainings_own_set(spec_file: Path) -> None:
    with spec_file.open("a") as stream:
        stream.write("validate: own\n")
    found = counted(spec_file, {})
    assert isinstance(found, Amount) and list(found.after.values()) == [300]


@pytest.mark.parametrize(
    ("more", "missing", "reason"),
    [
        ({}, "digits/handwritten/train", "samples of digits/handwritten/train unknown"),
        ({}, "digits/typeset/val", "samples of digits/typeset/val unknown"),
        ({"data": {"batch_size": 1001}}, None, "1000 training samples make no batch of 1001"),
        ({"trainer": {"max_epochs": None}}, None, "no end of the training"),
    ],
)
def test_what_cannot_be_counted_says_why(
    spec_file: Path, more: dict[str, Any], missing: str | None, reason: str
) -> None:
    found = counted(spec_file, more, sizes={name: n for name, n in SIZES.items() if name != missing})
    assert isinstance(found, Unknown) and found.reason.startswith(reason)


def test_sizes_come_from_manifests_and_else_from_records(spec_file: Path, shards: Path) -> None:
    spec = load_spec(spec_file)
    record = record_of(spec, plan_cells(spec)[0])
    fit = {
        "train": {"set": "gone/train", "n": 80, "unreadable": 3},
        "held_out": {"n": 7},
        "val": {"set": "a/val", "n": 5},
    }
    part = {"set": "part/val", "n": 2, "whole_set": False, "metrics": {}}
    record = type(record)(**{**vars(record), "fit": fit, "validate": {**record.validate, "part": part}})
    sizes = set_sizes(shards, [record])
    assert sizes("a/train") == 200 and sizes("a/val") == 93  # as conftest wrote them; the record is of other data
    assert sizes("gone/train") == 80 + 3 + 7
    assert sizes("digits/typeset/val") == 3
    assert sizes("part/val") is None and sizes("nowhere") is None

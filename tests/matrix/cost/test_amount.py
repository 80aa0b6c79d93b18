from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from en_bench.data.manifest import load_manifest, save_manifest
from en_bench.matrix.cost.amount import Amount, Sizes, Unknown, amount_of, set_sizes
from en_bench.matrix.overlays import Overlay, merge
from en_bench.matrix.plan import Cell, plan_cells
from en_bench.matrix.records import Record
from en_bench.matrix.spec import load_spec
from tests.matrix.test_plan import MANIFEST, record_of

SIZES = {
    "digits/handwritten/train": 1000,
    "digits/handwritten/val": 300,
    "digits/typeset/train": 500,
    "digits/typeset/val": 200,
}


def save_manifests() -> dict[str, str]:
    """Manifests, and nothing else, of the sizes in SIZES; their digests by name."""
    digests = {}
    for name, n in SIZES.items():
        folder = Path("data") / name
        folder.mkdir(parents=True, exist_ok=True)
        shard = replace(MANIFEST.shards[0], samples=n)
        digests[name] = save_manifest(replace(MANIFEST, folder=folder, count=n, shards=(shard,))).digest
    return digests


def counted(spec_file: Path, more: dict[str, Any], ranks: int = 1, sizes: dict[str, int] = SIZES) -> Amount | Unknown:
    spec = load_spec(spec_file)
    cell = plan_cells(spec)[0]  # BatchNorm/handwritten/0: 2 epochs
    config = merge([cell.config, {"data": {"batch_size": 64}}, more])
    changed = Cell(cell.id, cell.norm, cell.train, cell.seed, (Overlay(config),), config)
    return amount_of(changed, spec, ranks, Sizes(sizes.get))


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
        # 128 of 300 and 128 of the 200 that are held out: Lightning limits each of the two loaders
        ({"data": {"held_out": 0.2}, "trainer": {"limit_val_batches": 2}}, 1, 12, 24, 512),
        ({"trainer": {"max_epochs": 6, "check_val_every_n_epoch": 2}}, 1, 15, 90, 900),
        ({"trainer": {"val_check_interval": 0.25}}, 1, 15, 30, 3000),  # every 3 batches
        ({"trainer": {"val_check_interval": 10}}, 1, 15, 30, 600),  # after batch 10 of each epoch
    ],
)
def test_hand_counts(spec_file: Path, more: dict[str, Any], ranks: int, epoch: int, steps: int, watched: int) -> None:
    found = counted(spec_file, more, ranks)
    assert isinstance(found, Amount)
    assert (found.epoch, found.steps, found.watched) == (epoch, steps, watched)


@pytest.mark.parametrize(
    "settings",
    [
        {"val_check_interval": 10},
        {"val_check_interval": 0.6},
        {"val_check_interval": 0.4},
        {"val_check_interval": 4, "check_val_every_n_epoch": 2},
        {"val_check_interval": 10, "check_val_every_n_epoch": None},
        {"val_check_interval": 5, "max_steps": 25},
        {"val_check_interval": 5, "max_steps": 40, "max_epochs": 6, "check_val_every_n_epoch": 2},
        {"max_steps": 40},
    ],
)
@pytest.mark.filterwarnings("ignore")  # of a trainer without any of our settings
def test_lightning_validates_as_often(spec_file: Path, settings: dict[str, Any]) -> None:
    import lightning
    import torch
    from lightning.pytorch.demos.boring_classes import BoringModel

    class Counting(BoringModel):
        validations = 0

        def train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(torch.zeros(15, 32))  # type: ignore[arg-type]

        def on_validation_epoch_end(self) -> None:
            self.validations += not self.trainer.sanity_checking

    model, quiet = Counting(), ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    options = {"max_epochs": 2, "accelerator": "cpu", "limit_val_batches": 1, **dict.fromkeys(quiet, False), **settings}
    trainer = lightning.Trainer(**options)
    trainer.fit(model)
    found = counted(spec_file, {"trainer": settings})  # 300 images each time
    assert isinstance(found, Amount)
    assert (found.steps, found.watched) == (trainer.global_step, 300 * model.validations)


def test_each_validation_that_follows_counts_its_whole_set(spec_file: Path) -> None:
    found = counted(spec_file, {})
    assert isinstance(found, Amount) and found.after == {"handwritten": 300, "typeset": 200}


def test_adapting_reads_the_unlabelled_images_and_validates_again(spec_file: Path) -> None:
    with spec_file.open("a") as stream:
        stream.write("adapted: [typeset]\n")
    found = counted(spec_file, {})
    assert isinstance(found, Amount) and found.adapted == {"typeset": 500} and found.after["typeset"] == 200


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
        ({"trainer": {"max_epochs": None}}, None, "no end of the training: its overlays set no trainer.max_epochs"),
        ({"trainer": {"max_epochs": -1}}, None, "no end of the training: trainer.max_epochs is -1"),
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
    samples = sizes.samples
    assert samples("a/train") == 200 and samples("a/val") == 93  # as conftest wrote them; the record is of other data
    assert samples("gone/train") == 80 + 3 + 7
    assert samples("digits/typeset/val") == 3
    assert samples("part/val") is None and samples("nowhere") is None
    assert sizes.classes("a/train") == len(load_manifest(shards / "a/train").classes)
    assert sizes.classes("gone/train") is None


def test_samples_without_a_label_do_not_train(spec_file: Path, shards: Path) -> None:
    """Of set `gone` 50 samples have a label `noisy`, of `a/train`, which is here, 40; all of both have one `given`."""
    spec = load_spec(spec_file)
    cell, record = plan_cells(spec)[0], record_of(spec, plan_cells(spec)[0])
    here = load_manifest(shards / "a/train").digest

    def trained(name: str, labels: str, n: int, digest: str, finished: str, held_out: int = 0) -> Record:
        train = {"set": name, "labels": labels, "n": n, "digest": digest}
        fit = {**record.fit, "train": train, "finished": finished, "held_out": {"n": held_out} if held_out else None}
        return replace(record, fit=fit, validate={})

    records = [
        trained("gone", "noisy", 40, "d", "2026-02", held_out=10),
        trained("gone", "given", 1000, "d", "2026-01"),
        trained("gone", "noisy", 30, "former", "2025-01"),
        trained("a/train", "noisy", 40, here, "2025-01"),
        trained("a/train", "noisy", 170, "former", "2026-01"),
    ]
    for order in (records, records[::-1]):
        sizes = set_sizes(shards, order)
        assert (sizes.samples("gone"), sizes.labelled("gone", "noisy"), sizes.labelled("gone", "given")) == (
            1000,
            50,
            1000,
        )
        assert sizes.labelled("a/train", "noisy") == 40 and sizes.labelled("a/train", "given") is None

    def steps(**data: Any) -> int:
        both = Sizes(lambda name: SIZES.get(name) or sizes.samples(name), sizes.labelled)
        config = merge([cell.config, {"data": {"batch_size": 8, **data}}])
        found = amount_of(replace(cell, config=config), spec, 1, both)
        assert isinstance(found, Amount)
        return found.epoch

    assert steps(train="gone", labels="noisy") == 6
    assert steps(train="gone", labels="noisy", held_out=0.2) == 5
    assert steps(train="gone") == steps(train="gone", labels="given") == 125
    assert steps(train="a/train", labels="noisy") == 5
    assert steps(train="a/train") == 25  # nothing has counted them: the manifest

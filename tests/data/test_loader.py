"""Loaders over real shards, in a trainer and out of one, and the data module. What is exact: test_stream_exact.py."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer

from en_bench.data.dataset import Batch, StreamDataset
from en_bench.data.loader import make_loader
from en_bench.data.manifest import load_manifest
from en_bench.data.module import ShardDataModule
from en_bench.data.samplers import TrainSampler
from en_bench.data.shuffle import Shuffle, shuffle_of
from en_bench.data.transforms import CenterCrop, PadCropFlip
from en_bench.errors import InputError
from tests.data.opened import open_dataset
from tests.images import make_split


def dataset(folder: Path, seed: int = 0, labels: str = "given") -> StreamDataset:
    return open_dataset(folder, PadCropFlip(32), seed, labels)


def batches(
    data: StreamDataset, epoch: int = 0, batch: int = 16, rank: int = 0, ranks: int = 1, workers: int = 0
) -> list[Batch]:
    shuffle = shuffle_of(data.shard_counts, 0, permuted=True)
    sampler = TrainSampler(shuffle, batch, rank, ranks, epoch)
    return list(make_loader(data, sampler, workers, pin_memory=False))


def test_epochs_and_seeds_change_order_and_augmentation(shards):
    data = dataset(shards / "a" / "train")
    first, second = batches(data, epoch=0), batches(data, epoch=1)
    assert not torch.equal(first[0].row, second[0].row)
    row = first[0].row[0]
    where = next(b for b in second if row in b.row)
    assert not torch.equal(first[0].image[0], where.image[where.row == row][0])
    reseeded = dataset(shards / "a" / "train", seed=1)[(0, first[0].row.numpy())]
    assert torch.equal(reseeded.target, first[0].target)
    assert not torch.equal(reseeded.image, first[0].image)


def test_what_a_sample_looks_like_does_not_depend_on_its_batch(shards):
    data = dataset(shards / "a" / "train")
    alone = data[(3, np.array([17]))]
    among = data[(3, np.array([5, 17, 80]))]
    assert torch.equal(alone.image[0], among.image[1])


def test_images_and_labels_are_those_that_were_written(shards):
    data = open_dataset(shards / "a" / "val", CenterCrop(32))
    batch = data[(0, np.arange(93))]
    # conftest: brightness 60 * label plus noise below 60, label = number in the key mod 3
    level = batch.image.float().mean((1, 2, 3)) // 60
    assert torch.equal(level.long(), batch.target)
    assert [int(bytes(k).decode()[-4:]) % 3 for k in data.keys] == batch.target.tolist()


def test_too_few_samples_names_the_cure(shards):
    with pytest.raises(InputError, match=r"200 training samples cannot fill 2 ranks x batch 128.*100 or less"):
        TrainSampler(Shuffle((200,), 0, 1), 128, 0, 2)


def test_an_unknown_label_column_names_those_there_are(shards):
    with pytest.raises(InputError, match=r"no label column 'clean'.*given"):
        dataset(shards / "a" / "train", labels="clean")


class Idle(LightningModule):
    """Takes the batches and learns nothing."""

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        assert batch.valid.all()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        assert batch.valid.any()

    def configure_optimizers(self) -> None:
        return None


def idle_trainer(folder: Path) -> Trainer:
    return Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )


def spoil_last_image(folder: Path) -> str:
    """Overwrites one payload with other bytes; returns where it lies."""
    manifest = load_manifest(folder)
    index = manifest.load_index()
    last = len(index) - 1
    shard = folder / manifest.shards[-1].name
    with shard.open("r+b") as file:
        file.seek(int(index.offset[last, 0]))
        file.write(b"x" * int(index.size[last, 0]))
    return f"{shard}, sample {index.key(last)!r}"


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_worker_is_one_line(tmp_path, workers):
    make_split(tmp_path / "a" / "train", 40)
    make_split(tmp_path / "a" / "val", 40)
    expected = (
        f"{spoil_last_image(tmp_path / 'a' / 'train')} cannot be decoded: not a JPEG, PNG or WebP; "
        "prepare or index the set again, or go on without it (--data.on_error skip)"
    )
    with pytest.raises(InputError) as error:
        batches(dataset(tmp_path / "a" / "train"), batch=8, workers=workers)
    assert str(error.value) == expected
    with pytest.raises(InputError) as error:
        idle_trainer(tmp_path).fit(Idle(), module(tmp_path, batch_size=8, workers=workers))
    assert str(error.value) == expected
    with pytest.raises(InputError) as error:
        idle_trainer(tmp_path).validate(Idle(), module(tmp_path, val="a/train", workers=workers), verbose=False)
    assert str(error.value) == expected


def test_a_trainer_keeps_length_and_sampler_of_the_loader(shards, tmp_path):
    data = module(shards, batch_size=16, workers=1)
    trainer = idle_trainer(tmp_path)
    trainer.fit(Idle(), data)
    assert trainer.global_step == 2 * (200 // 16)
    assert trainer.num_training_batches == 200 // 16
    assert isinstance(trainer.train_dataloader.sampler, TrainSampler)
    assert trainer.train_dataloader.sampler.epoch == 1
    assert len(trainer.train_dataloader) == 200 // 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "--data.batch_size 0 is too small: use 1 or more"),
        ({"batch_size": -3}, "--data.batch_size -3 is too small: use 1 or more"),
        ({"val_batch_size": 0}, "--data.val_batch_size 0 is too small: use 1 or more"),
        ({"workers": -1}, "--data.workers -1 is too small: use 0 or more"),
        ({"seed": -1}, "--data.seed -1 is too small: use 0 or more"),
    ],
)
def test_sizes_that_are_none_are_refused_at_once(options, message):
    with pytest.raises(InputError) as error:
        module(Path("nowhere"), **options)
    assert str(error.value) == message


def module(root: Path, train: str = "a/train", val: str = "a/val", **options) -> ShardDataModule:
    return ShardDataModule(train, val, PadCropFlip(32), CenterCrop(32), root=str(root), **options)


def test_module_opens_checks_and_normalises(shards):
    data = module(shards, batch_size=16)
    data.open("fit")
    data.setup("fit")
    assert data.classes == ("dark", "grey", "bright")
    assert data.val_column == "given"
    batch = next(iter(data.train_dataloader()))
    normal = data.on_after_batch_transfer(batch, 0)
    expected = (batch.image.double() / 255 - data.mean.view(1, 3, 1, 1)) / data.std.view(1, 3, 1, 1)
    torch.testing.assert_close(normal.image.double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(normal.target, batch.target)


def test_module_validates_without_training_data(shards):
    data = module(shards, train="nowhere/train", val="b/val")
    data.open("validate")
    data.setup("validate")
    assert sum(int(b.valid.sum()) for b in data.validation_loader()) == 61


def test_module_refuses_before_any_process_group(shards, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        module(shards, train="nowhere/train").open("fit")
    with pytest.raises(
        InputError, match=r"200 training samples cannot fill 4 ranks x batch 64: use --data.batch_size 50 or less"
    ):
        module(shards, batch_size=64).open("fit", ranks=4)
    make_split(tmp_path / "c" / "val", 10, classes=("dark", "gray", "bright"))
    with pytest.raises(InputError, match="differ in 1 of 3 classes"):
        module(Path("/"), train=str(shards / "a" / "train"), val=str(tmp_path / "c" / "val")).open("fit")


def test_the_root_comes_from_the_environment(shards, monkeypatch):
    monkeypatch.setenv("EN_BENCH_SHARDS", str(shards))
    data = ShardDataModule("a/train", "a/val", PadCropFlip(32), CenterCrop(32))
    data.open("fit")
    assert data.train_manifest is not None and data.train_manifest.count == 200

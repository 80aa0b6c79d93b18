"""A training split and a validation split as one LightningDataModule."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from en_bench.data import order
from en_bench.data.index import Index
from en_bench.data.loader import Batch, EvalSampler, StreamDataset, TrainSampler, labelled_rows, make_loader
from en_bench.data.manifest import Manifest, load_manifest, require_same_classes
from en_bench.data.transforms import Transform, normalise
from en_bench.errors import InputError


def shards_root(root: str | None) -> Path:
    """Where sets lie: `root` if given, else the environment's EN_BENCH_SHARDS, else `data`."""
    return Path(root or os.environ.get("EN_BENCH_SHARDS") or "data")


def _require(flag: str, value: int | None, at_least: int) -> None:
    if value is not None and value < at_least:
        raise InputError(f"--data.{flag} {value} is too small: use {at_least} or more")


class ShardDataModule(LightningDataModule):
    """Streams two prepared splits.

    Args:
        train: folder of the training split, relative to `root`, e.g. `digits/handwritten/train`.
        val: folder of the validation split. Its classes must be those of `train`, in the same order.
        train_transform: from a decoded image to the network's input, with augmentation.
        val_transform: the same for validation.
        root: the folder that all sets lie in (default: EN_BENCH_SHARDS, else `data`).
        labels: label column that trains. Samples whose label in it is unknown take no part.
        val_labels: label column that validation scores against (default: `clean` where the set has it, else `given`).
        batch_size: training samples per rank and step.
        val_batch_size: validation samples per rank and step (default: `batch_size`). Scores do not depend on it.
        workers: loading processes per rank. Batches do not depend on it.
        seed: of order and augmentation (default: the run's `seed_everything`).
        mean: per channel, of images scaled to 0..1, subtracted on the device.
        std: per channel, divided by on the device.

    Raises InputError for sizes below 1, and for negative workers or seeds.
    """

    def __init__(
        self,
        train: str,
        val: str,
        train_transform: Transform,
        val_transform: Transform,
        root: str | None = None,
        labels: str = "given",
        val_labels: str | None = None,
        batch_size: int = 128,
        val_batch_size: int | None = None,
        workers: int = 0,
        seed: int | None = None,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__()
        _require("batch_size", batch_size, at_least=1)
        _require("val_batch_size", val_batch_size, at_least=1)
        _require("workers", workers, at_least=0)
        _require("seed", seed, at_least=0)
        self.root = shards_root(root)
        self.train, self.val = train, val
        self.train_transform, self.val_transform = train_transform, val_transform
        self.labels, self.val_labels = labels, val_labels
        self.batch_size, self.val_batch_size = batch_size, val_batch_size if val_batch_size is not None else batch_size
        self.workers = workers
        self.seed = seed
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)
        self.train_manifest: Manifest | None = None
        self.val_manifest: Manifest | None = None
        self.train_count: int | None = None  # samples that train, those with a label, once `open` has counted them
        self._train_index: Index | None = None
        self._train_set: StreamDataset | None = None
        self._val_set: StreamDataset | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the opened splits, in label order."""
        manifest = self.train_manifest or self.val_manifest
        if manifest is None:
            raise RuntimeError("ShardDataModule knows its classes after setup() only")
        return manifest.classes

    @property
    def val_column(self) -> str:
        """The label column that validation scores against."""
        if self.val_labels is not None:
            return self.val_labels
        return "clean" if self.val_manifest is not None and "clean" in self.val_manifest.columns else "given"

    def open(self, stage: str, ranks: int = 1) -> None:
        """Opens and checks what `stage` ("fit" or "validate") needs, without any process group.

        Raises InputError for a missing or damaged set, for classes of the two splits that differ, for a label column
        that cannot train, and for fewer training samples with a label than `ranks` x `batch_size`.
        """
        if self.val_manifest is None:
            self.val_manifest = load_manifest(self.root / self.val)
            self.val_manifest.check_shards()
        if stage == "fit" and self.train_manifest is None:
            self.train_manifest = load_manifest(self.root / self.train)
            self.train_manifest.check_shards()
            require_same_classes(self.train_manifest.classes, self.val_manifest.classes, self.train, self.val)
            self._train_index = self.train_manifest.load_index()
            self.train_count = len(labelled_rows(self.train_manifest, self._train_index, self.labels))
        if self.train_count is not None:
            order.check_trainable(self.train_count, self.batch_size, ranks)

    def setup(self, stage: str) -> None:
        self.open(stage, ranks=self._ranks())
        seed = self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED", "0"))
        if self.train_manifest is not None and self._train_index is not None and self._train_set is None:
            self._train_set = StreamDataset(
                self.train_manifest, self._train_index, self.labels, self.train_transform, seed, skip_unknown=True
            )
        if self.val_manifest is not None and self._val_set is None:
            index = self.val_manifest.load_index()
            self._val_set = StreamDataset(self.val_manifest, index, self.val_column, self.val_transform, seed)
        self._order_seed = seed

    def train_dataloader(self) -> DataLoader[Batch]:
        assert self._train_set is not None
        rank, ranks = self._rank(), self._ranks()
        sampler = TrainSampler(len(self._train_set), self.batch_size, rank, ranks, self._order_seed)
        return make_loader(self._train_set, sampler, self.workers, torch.cuda.is_available())

    def val_dataloader(self) -> DataLoader[Batch]:
        assert self._val_set is not None
        sampler = EvalSampler(len(self._val_set), self.val_batch_size, self._rank(), self._ranks())
        return make_loader(self._val_set, sampler, self.workers, torch.cuda.is_available())

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        device = batch.image.device
        return batch._replace(image=normalise(batch.image, self.mean.to(device), self.std.to(device)))

    def teardown(self, stage: str) -> None:
        for dataset in (self._train_set, self._val_set):
            if dataset is not None:
                dataset.reader.close()

    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer is not None else 0

    def _ranks(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1

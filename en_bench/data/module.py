"""A training split and a validation split as one LightningDataModule."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from en_bench.data import order
from en_bench.data.changes import Changes, OnChange
from en_bench.data.dataset import Batch, StreamDataset
from en_bench.data.held_out import Parts, check_share, cut
from en_bench.data.index import Index
from en_bench.data.loader import make_loader
from en_bench.data.manifest import Manifest, load_manifest, require_same_classes
from en_bench.data.opening import cache_folder, check_shards_here, close, described, shard_files
from en_bench.data.places import Place, place
from en_bench.data.position import Position
from en_bench.data.reading_order import NaturalOrder
from en_bench.data.samplers import EvalSampler, EvenSampler, TrainSampler
from en_bench.data.shard_cache import ShardCache
from en_bench.data.shuffle import Shuffle, shuffle_of
from en_bench.data.stream_state import StreamState
from en_bench.data.targets import Targets, no_labels, scored_targets
from en_bench.data.transforms import Transform, normalise
from en_bench.errors import InputError
from en_bench.noise.kinds import Noise
from en_bench.noise.training_labels import TrainingLabels, load_training_labels


def shards_root(root: str | None) -> Place:
    """Where sets lie, a folder or a URL: `root` if given, else the environment's EN_BENCH_SHARDS, else `data`."""
    return place(root or os.environ.get("EN_BENCH_SHARDS") or "data")


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
        noise: made label noise, added to `labels` in training.
        val_labels: label column that validation scores against (default: `clean` where the set has it, else `given`).
        held_out: share of the training split that never trains, cut by the samples' keys. Each validation of a training
            scores it too, on the labels that train.
        batch_size: training samples per rank and step.
        val_batch_size: validation samples per rank and step (default: `batch_size`). Scores do not depend on it.
        workers: loading processes per rank. Batches do not depend on it.
        seed: of order and augmentation (default: the run's `seed_everything`).
        mean: per channel, of images scaled to 0..1, subtracted on the device.
        std: per channel, divided by on the device.
        on_error: what becomes of a sample that cannot be decoded: `raise` ends the run with its name, `skip` goes on
            without it, counts it and lists it.
        decoded_cache_mb: megabytes of memory per rank for decoded images: small images are decoded once.
        cache: folder for shards that lie behind a URL (default: EN_BENCH_CACHE, else ~/.cache/en_bench/shards), on a
            local disk. The processes of a node share it.
        cache_gb: gigabytes that it may hold.
        span: shards whose samples are shuffled together (default: 16 of those that were permuted as a whole when they
            were written, as all of ours are; else all). Fewer need less of a cache, more mix better.
        on_change: what becomes of a checkpoint whose steps held other samples than they would now (another split, seed
            or global batch): `refuse` it, or go on with the `next_epoch`.

    Raises InputError for sizes below 1, for negative workers or seeds, and for a share outside 0 .. 0.9.
    """

    def __init__(
        self,
        train: str,
        val: str,
        train_transform: Transform,
        val_transform: Transform,
        root: str | None = None,
        labels: str = "given",
        noise: Noise | None = None,
        val_labels: str | None = None,
        held_out: float = 0.0,
        batch_size: int = 128,
        val_batch_size: int | None = None,
        workers: int = 0,
        seed: int | None = None,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
        on_error: Literal["raise", "skip"] = "raise",
        decoded_cache_mb: int = 1024,
        cache: str | None = None,
        cache_gb: float = 50.0,
        span: int | None = None,
        on_change: OnChange = "refuse",
    ) -> None:
        super().__init__()
        _require("batch_size", batch_size, at_least=1)
        _require("val_batch_size", val_batch_size, at_least=1)
        _require("workers", workers, at_least=0)
        _require("seed", seed, at_least=0)
        _require("decoded_cache_mb", decoded_cache_mb, at_least=0)
        _require("span", span, at_least=1)
        check_share(held_out)
        if not cache_gb > 0:
            raise InputError(f"--data.cache_gb {cache_gb} holds no shard: use more than 0")
        self.root = shards_root(root)
        self.train, self.val = train, val
        self.train_transform, self.val_transform = train_transform, val_transform
        self.labels, self.noise, self.val_labels, self.held_out = labels, noise, val_labels, held_out
        self.batch_size, self.val_batch_size = batch_size, val_batch_size if val_batch_size is not None else batch_size
        self.workers = workers
        self.seed = seed
        self.on_error: Literal["raise", "skip"] = on_error
        self.decoded_cache_mb = decoded_cache_mb
        self.cache = ShardCache(cache_folder(cache), round(cache_gb * 1e9))
        self.span = span
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)
        self.train_manifest: Manifest | None = None
        self.val_manifest: Manifest | None = None
        self.train_count: int | None = None  # samples that train, those with a label, once `open` has counted them
        self.held_out_count = 0  # of the same split, once `open` has counted them
        self._train_index: Index | None = None
        self.training_labels: TrainingLabels | None = None  # once `open` has read them, for what measures
        self._parts: Parts | None = None
        self._shuffle: Shuffle | None = None
        self._train_set: StreamDataset | None = None
        self._val_set: StreamDataset | None = None
        self._held_out_set: StreamDataset | None = None
        self._train_sampler: TrainSampler | None = None
        self.changes = Changes(on_change)

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
        that cannot train, for a held-out part without samples, and for fewer training samples with a label than `ranks`
        x `batch_size`.
        """
        if self.val_manifest is None:
            self.val_manifest = load_manifest(self.root / self.val)
            check_shards_here(self.val_manifest)
        if stage == "fit" and self.train_manifest is None:
            self.train_manifest = load_manifest(self.root / self.train)
            check_shards_here(self.train_manifest)
            require_same_classes(self.train_manifest.classes, self.val_manifest.classes, self.train, self.val)
            self._train_index = self.train_manifest.load_index()
            self.training_labels = load_training_labels(
                self.train_manifest, self._train_index, self.labels, self.noise, self.cache, self.held_out
            )
            self._parts = cut(self.training_labels.targets, self._train_index.keys, self.held_out, self.train)
            self.train_count, self.held_out_count = self._parts.train_count, self._parts.held_out_count
        if self.train_count is not None:
            order.check_trainable(self.train_count, self.batch_size, ranks)

    def setup(self, stage: str) -> None:
        self.open(stage, ranks=self._ranks())
        if self.train_manifest is not None and self._train_set is None:
            assert self._train_index is not None and self._parts is not None
            manifest, index = self.train_manifest, self._train_index
            train_set = self._train_set = self._stream(manifest, index, self._parts.trained, self.train_transform)
            self._shuffle = shuffle_of(train_set.shard_counts, train_set.seed, manifest.seed is not None, self.span)
            train_set.reader.files = shard_files(manifest, self.cache, self._shuffle)
            if self.held_out_count:
                self._held_out_set = self._scored(manifest, index, self._parts.held_out)
        if self.val_manifest is not None and self._val_set is None:
            index = self.val_manifest.load_index()
            targets = scored_targets(self.val_manifest, index, self.val_column)
            self._val_set = self._scored(self.val_manifest, index, targets)

    def _stream(self, manifest: Manifest, index: Index, targets: Targets, transform: Transform) -> StreamDataset:
        seed = self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED", "0"))
        options: dict[str, Any] = {"on_error": self.on_error, "decoded_cache_mb": self.decoded_cache_mb}
        # What trains reaches no label but its targets.
        return StreamDataset(manifest, replace(index, labels={}), targets, transform, seed, **options)

    def _scored(self, manifest: Manifest, index: Index, targets: Targets) -> StreamDataset:
        dataset = self._stream(manifest, index, targets, self.val_transform)
        dataset.reader.files = shard_files(manifest, self.cache, NaturalOrder(dataset.shard_counts))
        return dataset

    @property
    def shuffle(self) -> Shuffle:
        """The order of the training epochs."""
        if self._shuffle is None:
            raise RuntimeError("ShardDataModule knows the order of its epochs after setup() only")
        return self._shuffle

    @property
    def trained_labels(self) -> Targets:
        """The class (N,) of each row of the training split as it trains; negative: it takes no part."""
        assert self._train_set is not None
        return self._train_set.targets

    @property
    def held_out_labels(self) -> Targets:
        """The class (N,) of each row of the training split that is held out; negative: it is not."""
        assert self._parts is not None
        return self._parts.held_out

    def as_validated(self, targets: Targets) -> StreamDataset:
        """Samples of the training split as validation sees images, those whose target (N,) is not negative."""
        assert self.train_manifest is not None and self._train_index is not None
        return self._scored(self.train_manifest, self._train_index, targets)

    def unreadable_reason(self, training: bool, row: int) -> str:
        """Why a sample of the training (held out or not) or the validation split, by its row, cannot be decoded."""
        dataset = self._train_set if training else self._val_set
        assert dataset is not None
        return dataset.why_unreadable(row)

    def describe_cache(self) -> list[str]:
        """A line on what this rank opened since the last call, for each split behind a URL that it opened shards of."""
        held_out = f"{self.train}, held out"
        sets = [(self.train, self._train_set), (held_out, self._held_out_set), (self.val, self._val_set)]
        return [line for name, dataset in sets if dataset is not None for line in described(name, dataset)]

    def stream_state(self) -> StreamState:
        """What the order of the training depends on."""
        assert self.train_manifest is not None
        digest, noise = self.train_manifest.digest, None if self.noise is None else self.noise.compared()
        labels = (self.labels, noise, self.held_out)
        return StreamState.of(digest, *labels, self.shuffle, self.batch_size, self._ranks())

    def state_dict(self) -> dict[str, Any]:
        return self.stream_state().to_fields() if self._train_set is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compares the data of a checkpoint with these. Raises InputError, with all that differs, to refuse it."""
        if self._train_set is not None and state_dict:
            self.changes.compare(self.stream_state(), state_dict)

    def start_at(self, position: Position) -> None:
        """Lets the training loader, which has not begun to read, begin at `position`."""
        assert self._train_sampler is not None
        self._train_sampler.start_at(position.epoch, position.step)

    def train_dataloader(self) -> DataLoader[Batch]:
        assert self._train_set is not None
        rank, ranks = self._rank(), self._ranks()
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        self._train_sampler = TrainSampler(self.shuffle, self.batch_size, rank, ranks, epoch)
        return make_loader(self._train_set, self._train_sampler, self.workers, torch.cuda.is_available())

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Of the validation split, and in a training with a held-out part a second one, of that."""
        loader = self.validation_loader()
        return loader if self._held_out_set is None else [loader, self._scoring_loader(self._held_out_set)]

    def validation_loader(self) -> DataLoader[Batch]:
        """Of the validation split alone."""
        assert self._val_set is not None
        return self._scoring_loader(self._val_set)

    def unlabelled_loader(self) -> DataLoader[Batch]:
        """Of the images of the validation split, each once, shared out evenly; their targets say nothing."""
        manifest = self.val_manifest
        assert manifest is not None and self._val_set is None
        found = self._val_set = self._scored(manifest, manifest.load_index(), no_labels(manifest.count))
        return make_loader(found, EvenSampler(len(found), self.val_batch_size), self.workers, torch.cuda.is_available())

    def _scoring_loader(self, dataset: StreamDataset) -> DataLoader[Batch]:
        sampler = EvalSampler(len(dataset), self.val_batch_size, self._rank(), self._ranks())
        return make_loader(dataset, sampler, self.workers, torch.cuda.is_available())

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        device = batch.image.device
        return batch._replace(image=normalise(batch.image, self.mean.to(device), self.std.to(device)))

    def teardown(self, stage: str) -> None:
        for dataset in (self._train_set, self._val_set, self._held_out_set):
            if dataset is not None:
                close(dataset)

    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer is not None else 0

    def _ranks(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1

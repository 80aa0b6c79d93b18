"""`en-bench norms recalibrate`: the running moments of a checkpoint made anew, and written as another checkpoint."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningModule
from torch import Tensor

from en_bench.data import order
from en_bench.data.dataset import Batch
from en_bench.data.manifest import Manifest
from en_bench.data.module import ShardDataModule
from en_bench.errors import InputError
from en_bench.files import write_bytes
from en_bench.lease_guard import LEASE
from en_bench.norms.recalibrate import Recalibration, recalibrate, with_running_moments
from en_bench.one_process import OneProcessCLI, restored
from en_bench.tasks.classification import ClassificationTask
from en_bench.telemetry.pass_progress import PassProgress
from en_bench.trainer import EnBenchTrainer
from en_bench.training_verbs import run_training_verb

Split = Literal["train", "val"]

_MOMENTS = ("running_mean", "running_var", "num_batches_tracked")
_TOLD_EVERY = 100  # batches


class RecalibratingTrainer(EnBenchTrainer):
    """The trainer of a run, with the verb for what is no training: its device, precision and options apply."""

    def recalibrate(
        self,
        model: LightningModule,
        datamodule: ShardDataModule,
        ckpt_path: str | None = None,
        out: str | None = None,
        split: Split = "train",
        batches: int | None = None,
        if_none: Literal["fail", "skip"] = "fail",
        weights_only: bool | None = None,
    ) -> None:
        """Makes the running moments of a checkpoint anew from images, without labels, and writes another checkpoint.

        Args:
            model: the task.
            datamodule: where the images come from.
            ckpt_path: the checkpoint to start from, e.g. checkpoints/last.ckpt of a run's folder. It is left as it is.
            out: the checkpoint to write, which must not exist yet. `en-bench validate --ckpt_path` takes it.
            split: `train` takes the images of data.train as training sees them, `val` those of data.val as validation
                does, each once, whatever is known of their labels, in batches of one size or of two that differ by 1.
            batches: how many batches of them (default: all).
            if_none: what becomes of a network without running moments: `fail`, or `skip` it, writing no checkpoint.
            weights_only: of no effect; configurations of runs hold it.
        """
        assert isinstance(model, ClassificationTask) and ckpt_path is not None and out is not None
        saved = torch.load(ckpt_path, map_location="cpu", weights_only=True)
        task = restored(self, model, datamodule, saved)
        if if_none == "skip" and not with_running_moments(task):
            self.recalibration = Recalibration(layers=0, batches=0, samples=0, unreached=())
            print(f"{task.backbone} has no normaliser with running moments: nothing to recalibrate", flush=True)
            return
        try:
            with self.precision_plugin.forward_context():
                done = recalibrate(task, self._images(datamodule, split, batches))
        except ValueError as error:
            raise InputError(f"{ckpt_path} cannot be recalibrated: {error}") from None
        finally:
            datamodule.teardown("")
        self.recalibration = done
        for key, value in task.state_dict().items():
            if key.rpartition(".")[2] in _MOMENTS:  # the weights stay what they were, to the bit and in their dtype
                saved["state_dict"][key] = value.to("cpu", saved["state_dict"][key].dtype)
        name, manifest = _images_of(datamodule, split)
        saved.setdefault("en_bench", {})["recalibrated"] = {
            "set": name,
            "digest": manifest.digest,
            "normalisers": done.layers,
            "batches": done.batches,
            "samples": done.samples,
        }
        _write_new(Path(out), saved)
        print(f"{done.layers} normalisers, {done.samples} images of {name} in {done.batches} batches")
        print(f"wrote {out}", flush=True)

    def _images(self, data: ShardDataModule, split: Split, batches: int | None) -> Iterator[Tensor]:
        if split == "train":
            data.setup("fit")
            loader = data.train_dataloader()
        else:
            data.open("validate")
            loader = data.unlabelled_loader()
        steps = len(loader) if batches is None else batches
        # Outside a matrix a training may be under way in that folder, and tell how far it is.
        folder = Path(self.default_root_dir) if LEASE in os.environ else None
        with PassProgress(folder, "recalibrate", steps) as progress:
            for step, batch in enumerate(islice(loader, steps), start=1):
                if batch.valid.any():
                    here = Batch(*(tensor.to(self.strategy.root_device) for tensor in batch))
                    image: Tensor = data.on_after_batch_transfer(here, 0).image[here.valid]
                    yield self.precision_plugin.convert_input(image)
                progress.count(len(batch.valid))
                if step % _TOLD_EVERY == 0:
                    print(f"batch {step}/{steps}", flush=True)


class RecalibrateCLI(OneProcessCLI):
    """The configuration of a run, with flags, to its checkpoint with other running moments."""

    PROG = "en-bench norms"
    TRAINER = RecalibratingTrainer

    trainer: RecalibratingTrainer

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {"recalibrate": {"model", "datamodule"}}

    def before_recalibrate(self) -> None:
        given = self.config_init.recalibrate
        if given.ckpt_path is None:
            raise InputError("recalibrate needs --ckpt_path, e.g. the checkpoints/last.ckpt of a run's folder")
        if given.out is None:
            raise InputError("recalibrate needs --out, the checkpoint to write")
        _check_new(Path(given.out))
        if given.batches is not None and given.batches < 1:
            raise InputError(f"--batches {given.batches} is too small: use 1 or more")
        data = self.datamodule
        data.open("fit" if given.split == "train" else "validate")
        name, manifest = _images_of(data, given.split)
        if given.split == "train":
            there = order.train_steps(data.train_count or 0, data.batch_size, ranks=1)
        else:
            there = order.even_steps(manifest.count, data.val_batch_size)
        if given.batches is not None and given.batches > there:
            raise InputError(f"{name} makes {there} batches: use --batches {there} or less, or leave it out")

    def after_recalibrate(self) -> None:
        given, done = self.config_init.recalibrate, self.trainer.recalibration
        name, manifest = _images_of(self.datamodule, given.split)
        self._write_result([], {**_facts(done), "set": name, "digest": manifest.digest, "checkpoint": given.ckpt_path})


def _facts(done: Recalibration) -> dict[str, Any]:
    return {"normalisers": done.layers, "batches": done.batches, "samples": done.samples, "unreached": done.unreached}


def _images_of(data: ShardDataModule, split: Split) -> tuple[str, Manifest]:
    name, manifest = (data.train, data.train_manifest) if split == "train" else (data.val, data.val_manifest)
    assert manifest is not None
    return name, manifest


def _check_new(path: Path) -> None:
    if path.exists():
        raise InputError(f"{path} exists: give another --out (a checkpoint is never overwritten)")


def _write_new(path: Path, checkpoint: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    _check_new(path)
    write_bytes(path, buffer.getvalue())


def run(argv: list[str]) -> None:
    """Runs `en-bench norms recalibrate ARGV`. Raises as `run_training_verb` does."""
    run_training_verb(["recalibrate", *argv], RecalibrateCLI)

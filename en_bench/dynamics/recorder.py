"""The callback behind `--dynamics`: every sample of every recorded epoch goes to Parquet files as the training goes."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from en_bench.aside import number_for_aside
from en_bench.data.dataset import Batch
from en_bench.data.module import ShardDataModule
from en_bench.dynamics.files import (
    FOLDER,
    file_name,
    holds,
    remove_others,
    require_pyarrow,
    set_aside,
    write_rows,
)
from en_bench.dynamics.measures import samples_of
from en_bench.dynamics.recording import Recording, layers_with_ratios
from en_bench.errors import InputError
from en_bench.resume.ranks import of_all_ranks
from en_bench.tasks.classification import ClassificationTask

_STATE = "en_bench_dynamics"
_RECORD_OF = ("manifest", "labels", "noise", "held_out")  # of a StreamState: with another one rows mean other samples


class DynamicsRecorder(Callback):
    """Records loss, margin, prediction and ratios of every training sample, in `<run>/dynamics/`; see files.py.

    Each rank writes what it has recorded at each checkpoint, before that, and at the end of each epoch. A checkpoint
    names the files that it counts on. A training that goes on from it removes the others and records again what came
    after, so that the record is, row by row, that of a training that was never stopped. Where another split, labels,
    noise or held-out share trains from then on, the record until then is set aside.

    Args:
        every_n_epochs: epochs N, 2N, 3N, ... are recorded, counted from 1; None records nothing.
        ratios: record the ratios of layers that mix anew for every sample (ExemplarNorm), too.

    Raises InputError for a number below 1.
    """

    def __init__(self, every_n_epochs: int | None = None, ratios: bool = True) -> None:
        if every_n_epochs is not None and every_n_epochs < 1:
            raise InputError(f"--dynamics.every_n_epochs {every_n_epochs} is too small: use 1 or more, or leave it out")
        self.every_n_epochs = every_n_epochs
        self.ratios = ratios
        self._recording: Recording | None = None
        self._step = ExitStack()  # what is open during a step
        self._files: dict[str, int] = {}  # of all ranks, with their bytes
        self._own: dict[str, int] = {}  # of this rank, not yet in `_files`
        self._resumes = False
        self._saved_data: dict[str, Any] = {}  # of the checkpoint
        self._number = 1  # of what is set aside

    def check(self) -> None:
        """Raises InputError where it is to record and there is no pyarrow."""
        if self.every_n_epochs is not None:
            require_pyarrow()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.check()
            # Before a checkpoint of elsewhere sets the metrics aside, with this number.
            self._number = number_for_aside(Path(trainer.default_root_dir))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._resumes:
            self._go_on(trainer)
        if self.every_n_epochs is not None and isinstance(pl_module, ClassificationTask):
            assert pl_module.network is not None
            self._recording = Recording(layers_with_ratios(pl_module.network) if self.ratios else {})

    def _go_on(self, trainer: Trainer) -> None:
        """Leaves of the record what the checkpoint counts on, before any rank writes."""
        run, changed = Path(trainer.default_root_dir), self._data_changed(trainer)
        if trainer.is_global_zero and self._files and not changed and holds(run, self._files):
            remove_others(run, self._files)
        elif trainer.is_global_zero:
            aside = set_aside(run, self._number)
            if aside is not None:
                why = f", as {' and '.join(changed)} changed" if changed else ""
                print(f"{run / FOLDER}: what was there has become {aside.name}{why}", flush=True)
            if self._files and not changed:
                print(f"{run / FOLDER}: the dynamics of the steps before are not here", flush=True)
            self._files = {}
        self._files = trainer.strategy.broadcast(self._files)

    def _data_changed(self, trainer: Trainer) -> list[str]:
        """In what the data that train differ from those of the checkpoint such that one record cannot hold both."""
        data: Any = getattr(trainer, "datamodule", None)
        if not isinstance(data, ShardDataModule) or not self._saved_data:
            return []
        now, saved = data.stream_state().to_fields(), self._saved_data
        return [name for name in _RECORD_OF if name in saved and saved[name] != now[name]]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self._step.close()
        if self._recording is not None and self._records(trainer.current_epoch):
            self._step.enter_context(self._recording.watching())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._step.close()
        if self._recording is None or not self._records(trainer.current_epoch):
            return
        samples = samples_of(outputs)
        if samples is None:
            raise InputError("--dynamics.every_n_epochs: this task hands on no logits of its samples: leave it out")
        self._recording.add(samples, _batches_done(trainer) - 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._write(trainer)
        for of_rank in of_all_ranks(self._own):
            self._files |= of_rank
        self._own = {}
        checkpoint[_STATE] = {"files": dict(self._files)}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._resumes = True
        self._files = dict(checkpoint.get(_STATE, {}).get("files", {}))
        self._saved_data = dict(checkpoint.get(type(getattr(trainer, "datamodule", None)).__qualname__, {}))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._step.close()

    def _records(self, epoch: int) -> bool:
        return self.every_n_epochs is not None and (epoch + 1) % self.every_n_epochs == 0

    def _write(self, trainer: Trainer) -> None:
        """Writes what this rank has recorded since it last wrote, if anything."""
        if self._recording is None or not len(self._recording):
            return
        epoch = trainer.current_epoch
        name = file_name(epoch, trainer.global_rank, _batches_done(trainer))
        path = Path(trainer.default_root_dir) / FOLDER / name
        write_rows(path, self._recording.take(), {"epoch": epoch, **_facts(trainer)})
        self._own[name] = path.stat().st_size


def _batches_done(trainer: Trainer) -> int:
    """Of the whole training, on each rank."""
    return int(vars(trainer.fit_loop.epoch_loop.batch_progress.total)["processed"])


def _facts(trainer: Trainer) -> dict[str, Any]:
    """Of the labels that train, for the metadata of each file."""
    data: Any = getattr(trainer, "datamodule", None)
    if not isinstance(data, ShardDataModule) or data.train_manifest is None:
        return {}
    return {
        "set": data.train,
        "manifest": data.train_manifest.digest,
        "labels": data.labels,
        "noise": None if data.noise is None else data.noise.describe(),
        "held_out": data.held_out,
        "classes": list(data.classes),
        "seed": data.seed,
    }

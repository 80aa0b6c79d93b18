"""Which samples could not be decoded and were skipped: a list in the run's folder, over all ranks and resumptions."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch.distributed
from lightning import Callback, LightningModule, Trainer

from en_bench.data.dataset import Batch
from en_bench.data.module import ShardDataModule
from en_bench.data.samplers import PADDING
from en_bench.errors import InputError
from en_bench.files import write_bytes

NAME = "unreadable.csv"

Split = Literal["train", "val", "held_out"]  # what is held out of the training split is another part of the run


class Sample(NamedTuple):
    """A line of the list: `set` as it was given to the data module, and the `split` of the run that it served as."""

    set: str
    split: str
    shard: str
    key: str


class Unreadable(Callback):
    """Writes `<folder>/unreadable.csv`: set, split, shard, key and reason of each sample that was skipped, once.

    It watches runs with `--data.on_error skip`. All ranks take part at the end of each epoch, of each validation and
    when a checkpoint is saved, so that a training killed later and resumed from there lists the same. A training from
    the beginning begins its list anew.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / NAME
        self._listed: dict[Sample, str] | None = None  # with reasons, on rank 0; None until the run has begun
        self._resumes = False
        self._rows = _nothing()  # of this rank, not yet in the list
        self._known = _nothing()  # what this process has listed, on rank 0
        self._untold: dict[Split, int] = dict.fromkeys(get_args(Split), 0)  # in the list, not yet printed

    def count(self, name: str, split: Split) -> int:
        """Samples of a set, by the name that the data module was given, in the list. Known on rank 0."""
        return sum((sample.set, sample.split) == (name, split) for sample in self._listed or ())

    def state_dict(self) -> dict[str, Any]:
        return {"begun": True}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resumes = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._notice(trainer, batch, "train")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._notice(trainer, batch, "val" if dataloader_idx == 0 else "held_out")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._list(trainer)
        self._tell(trainer, "train")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._list(trainer)
        self._tell(trainer, "val")
        self._tell(trainer, "held_out")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._list(trainer)

    def _begin(self, trainer: Trainer) -> None:
        if self._listed is not None or not trainer.is_global_zero:
            return
        if trainer.state.fn == "fit" and not self._resumes:
            self.path.unlink(missing_ok=True)
        self._listed = _read(self.path)

    def _notice(self, trainer: Trainer, batch: Batch, split: Split) -> None:
        if _skipping(trainer) is not None:
            self._rows[split].update(batch.row[~batch.valid & (batch.row != PADDING)].tolist())

    def _list(self, trainer: Trainer) -> None:
        """Adds what all ranks have noticed. Every rank must call it."""
        data = _skipping(trainer)
        if data is None:
            return
        noticed = _from_all_ranks(self._rows)
        self._rows = _nothing()
        if not trainer.is_global_zero:
            return
        self._begin(trainer)
        for split in get_args(Split):
            rows = set().union(*(of_rank[split] for of_rank in noticed)) - self._known[split]
            if rows:
                self._known[split] |= rows
                self._add(data, split, sorted(rows))

    def _add(self, data: ShardDataModule, split: Split, rows: list[int]) -> None:
        assert self._listed is not None
        manifest = data.val_manifest if split == "val" else data.train_manifest
        assert manifest is not None
        index = manifest.load_index()
        found: dict[Sample, str] = {}
        for row in rows:
            shard = manifest.shards[int(index.shard[row])].name
            sample = Sample(_name(data, split), split, shard, index.key(row))
            if sample not in self._listed:
                found[sample] = " ".join(data.unreadable_reason(split != "val", row).split())
        if found:
            self._listed |= found
            self._untold[split] += len(found)
            _write(self.path, self._listed)

    def _tell(self, trainer: Trainer, split: Split) -> None:
        data, new = _skipping(trainer), self._untold[split]
        if data is None or not new:
            return
        self._untold[split] = 0
        epoch = f"epoch {trainer.current_epoch + 1}  " if trainer.state.fn == "fit" else ""
        name = _name(data, split)
        more = "" if new == (count := self.count(name, split)) else f" more, {count} in all,"
        told = f"{new}{more} cannot be decoded and {'is' if new == 1 else 'are'} skipped: {self.path}"
        print(f"{epoch}{split} {name}  {told}", flush=True)


def _nothing() -> dict[Split, set[int]]:
    return {split: set() for split in get_args(Split)}


def _skipping(trainer: Trainer) -> ShardDataModule | None:
    """The data module, where it skips what cannot be decoded."""
    data = getattr(trainer, "datamodule", None)
    return data if isinstance(data, ShardDataModule) and data.on_error == "skip" else None


def _from_all_ranks(rows: dict[Split, set[int]]) -> list[dict[Split, set[int]]]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [rows]
    noticed = [rows] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(noticed, rows)
    return noticed


def _name(data: ShardDataModule, split: Split) -> str:
    return data.val if split == "val" else data.train


def _write(path: Path, listed: dict[Sample, str]) -> None:
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow([*Sample._fields, "reason"])
    table.writerows([*sample, reason] for sample, reason in sorted(listed.items()))
    write_bytes(path, text.getvalue().encode("utf-8", "backslashreplace"))


def _read(path: Path) -> dict[Sample, str]:
    """The list that a run has begun. Raises InputError for what is none."""
    columns = [*Sample._fields, "reason"]
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, strict=True))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not the list that a run has begun ({error}): move it away") from None
    if rows[:1] != [columns] or any(len(row) != len(columns) for row in rows):
        raise InputError(f"{path}: not a list of {', '.join(columns)}: move it away")
    return {Sample(*row[:4]): row[4] for row in rows[1:]}

"""What a training prints: a line after each validation, and lines instead of a bar where there is no terminal."""

from __future__ import annotations

import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from en_bench.data.module import ShardDataModule
from en_bench.duration import duration
from en_bench.noise.in_words import labels_told
from en_bench.tasks.classification import ClassificationTask
from en_bench.tasks.effective_batch import EffectiveBatch


class ConsoleLines(Callback):
    """Prints scores with the number of samples behind them; with `steps=True` also a line every `log_every_n_steps`."""

    def __init__(self, steps: bool) -> None:
        self.steps = steps
        self._started = 0.0
        self._first = self._told = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started, self._first, self._told = time.monotonic(), trainer.global_step, trainer.global_step
        report = getattr(pl_module, "swap_report", None)
        if report is not None:
            self._print(str(report))
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, ShardDataModule) and isinstance(pl_module, ClassificationTask):
            batch = EffectiveBatch(data.batch_size, trainer.world_size, trainer.accumulate_grad_batches)
            self._print(f"batch {batch}, {pl_module.optimisation.told(pl_module.training_length())}")
        labels = data.training_labels if isinstance(data, ShardDataModule) else None
        if labels is not None and (told := labels.line()):
            self._print(told)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if not self.steps or step == self._told or step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        self._told = step  # several batches make one step where gradients accumulate
        total = int(trainer.estimated_stepping_batches)
        rate = (step - self._first) / max(time.monotonic() - self._started, 1e-9)
        loss = trainer.callback_metrics.get("train/loss")
        told = "" if loss is None else f"  loss {float(loss):.4f}"
        left = duration((total - step) / rate)
        self._print(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  step {step}/{total}{told}"
            f"  {rate:.2f} steps/s  time left {left}"
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, ShardDataModule) or data.val_manifest is None:
            self._print_scores(trainer, "val", "val", None)
            return
        count = data.val_manifest.count
        self._print_scores(trainer, "val", f"val {data.val} (labels {data.val_column})", count)
        if data.held_out_count:
            labels = labels_told(data.labels, None if data.noise is None else data.noise.describe())
            self._print_scores(trainer, "held_out", f"held out of {data.train} (labels {labels})", data.held_out_count)

    def _print_scores(self, trainer: Trainer, prefix: str, where: str, count: int | None) -> None:
        """The line of one validation set, which holds `count` samples; nothing where it was not scored."""
        prefix += "/"
        found = {k.removeprefix(prefix): float(v) for k, v in trainer.callback_metrics.items() if k.startswith(prefix)}
        if "n" not in found:
            return
        n, unreadable = round(found.pop("n")), round(found.pop("unreadable", 0))
        scores = "  ".join(f"{name} {value:.4f}" for name, value in found.items())
        of, part = "", ""
        if count is not None:
            of = f" of {count}" + (f" ({unreadable} unreadable, skipped)" if unreadable else "")
            part = "" if n + unreadable == count else "  (a part only: limit_val_batches)"
        epoch = f"epoch {trainer.current_epoch + 1}  " if trainer.state.fn == "fit" else ""
        self._print(f"{epoch}{where}  {scores}  n {n}{of}{part}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._print_cache(trainer)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit":
            self._print_cache(trainer)

    def _print_cache(self, trainer: Trainer) -> None:
        data = getattr(trainer, "datamodule", None)
        for line in data.describe_cache() if isinstance(data, ShardDataModule) else []:
            self._print(line)

    @rank_zero_only
    def _print(self, line: str) -> None:
        print(line, flush=True)

"""What a training prints: a line after each validation, and lines instead of a bar where there is no terminal."""

from __future__ import annotations

import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from en_bench.data.module import ShardDataModule
from en_bench.duration import duration


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
        metrics = {
            k.removeprefix("val/"): float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")
        }
        if trainer.sanity_checking or "n" not in metrics:
            return
        n, unreadable = round(metrics.pop("n")), round(metrics.pop("unreadable", 0))
        scores = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        data = getattr(trainer, "datamodule", None)
        where, of, part = "", "", ""
        if isinstance(data, ShardDataModule) and data.val_manifest is not None:
            where = f" {data.val} (labels {data.val_column})"
            of = f" of {data.val_manifest.count}" + (f" ({unreadable} unreadable, skipped)" if unreadable else "")
            part = "" if n + unreadable == data.val_manifest.count else "  (a part only: limit_val_batches)"
        epoch = f"epoch {trainer.current_epoch + 1}  " if trainer.state.fn == "fit" else ""
        self._print(f"{epoch}val{where}  {scores}  n {n}{of}{part}")

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

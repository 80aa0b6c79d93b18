"""Lightning's Trainer and its configuration file, as our commands need them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

from en_bench.resume.checkpoint import AtomicCheckpointIO
from en_bench.resume.loops import ResumableFitLoop

CONFIG = "config.yaml"


class SaveFitConfig(SaveConfigCallback):
    """Keeps a training's configuration as config.yaml in its run folder; a validation leaves it alone.

    It is written when training really starts: what fails before, a foreign checkpoint say, leaves the old file.
    """

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Not yet."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / CONFIG
            path.parent.mkdir(parents=True, exist_ok=True)
            # Where this outcome went and what this run began from are no settings of a validation that reads the file.
            config = self.config.clone()
            config.result = config.ckpt_path = None
            self.parser.save(config, path, skip_unset=False, overwrite=True, multifile=False)


class NoSignals(_SignalConnector):
    """In place of Lightning's handlers: on Slurm they requeue the job themselves, or end it as if all were done."""

    def register_signal_handlers(self) -> None:
        self._original_handlers = self._get_current_signal_handlers()  # Lightning ignores SIGINT after the first


class EnBenchTrainer(Trainer):
    """Lightning's Trainer with loops that go on inside an epoch and checkpoints that are whole or not there.

    Its options that mean batches as integers and shares as floats are told apart for sure. Lightning writes them
    `Optional[Union[int, float]]`, which the typing module takes for equal to a union of float and int that some other
    package made earlier, and then `1`, one batch, is read as 1.0, all of them, or not, depending on what happens to be
    installed. Unions written with `|` keep their order.
    """

    fit_loop: ResumableFitLoop

    def __init__(
        self,
        *,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        overfit_batches: int | float = 0.0,
        val_check_interval: int | float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            limit_train_batches=limit_train_batches,
            limit_val_batches=limit_val_batches,
            overfit_batches=overfit_batches,
            val_check_interval=val_check_interval,
            **kwargs,
        )
        self.fit_loop = ResumableFitLoop.of(self)
        self._signal_connector = NoSignals(self)
        if type(self.strategy.checkpoint_io) is TorchCheckpointIO:  # no plugin was given
            self.strategy.checkpoint_io = AtomicCheckpointIO()

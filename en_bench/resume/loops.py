"""Lightning's training loops, made to go on inside an epoch.

Lightning saves counters of what was ready, started, processed and completed, and guesses from their differences where
a training stood. It loses steps, epochs or validations at several places (Lightning#18780, #19549). Here the position
is saved as such, and the counters are set from it: to what they would be had the training never stopped.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.progress import _ReadyCompletedTracker
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from en_bench.data.module import ShardDataModule
from en_bench.data.position import Position
from en_bench.resume.checkpoint import RunCheckpoint
from en_bench.resume.random_state import gathered_random_states, set_random_state, state_for_rank

_POSITION, _RANDOM, _STEPPED = "en_bench_position", "en_bench_random", "en_bench_batches_that_stepped"


class ResumableEpochLoop(_TrainingEpochLoop):
    """One epoch, which may begin in its middle, or with the validation that follows a batch."""

    validation_due = False  # at the position that was restored
    _batch_ended = True  # whether all that follows a batch is done, its validation too

    def advance(self, data_fetcher: Any) -> None:
        self.restarting = False  # the counters are right as they are: nothing is to be guessed from them
        if self.validation_due:
            return  # to on_advance_end, which validates
        self._batch_ended = False
        super().advance(data_fetcher)

    def on_advance_end(self, data_fetcher: Any) -> None:
        validates = self._should_check_val_fx(data_fetcher)
        if validates and not self.validation_due:
            self._save_if_due()
        self.validation_due = False
        if validates:
            broadcast_buffers(self.trainer)
        super().on_advance_end(data_fetcher)
        self._batch_ended = True
        if not self._num_ready_batches_reached():
            self._save_if_due()

    def position_in_epoch(self) -> tuple[int, bool]:
        """Batches trained on in this epoch, and whether a validation is due after them."""
        due = not self._batch_ended and self.trainer.training and self._should_check_val_fx(None)  # type: ignore[arg-type]
        return _processed(self.batch_progress.current), due

    def batches_that_stepped(self, validation_due: bool) -> int:
        """Lightning's step of loggers, as it is once all that follows the last batch is done."""
        counted = self._batch_ended or validation_due or self._should_accumulate()
        return self._batches_that_stepped + (0 if counted else 1)

    def _save_if_due(self) -> None:
        # Between two optimiser steps there are gradients, which no checkpoint holds.
        if not self._should_accumulate():
            for callback in _run_checkpoints(self.trainer):
                callback.save_if_due(self.trainer)


class ResumableFitLoop(_FitLoop):
    """All epochs, from any position on."""

    epoch_loop: ResumableEpochLoop
    _random_states: list[dict[str, Any]] | None = None

    @classmethod
    def of(cls, trainer: Trainer) -> ResumableFitLoop:
        """A loop with the limits of the one that `trainer` has."""
        theirs = trainer.fit_loop
        loop = cls(trainer, min_epochs=theirs.min_epochs, max_epochs=theirs.max_epochs)
        loop.epoch_loop = ResumableEpochLoop(
            trainer, min_steps=theirs.epoch_loop.min_steps, max_steps=theirs.epoch_loop.max_steps
        )
        return loop

    def position(self) -> Position:
        """Where the training stands. Within a batch: as if it had ended."""
        done = _processed(self.epoch_progress.current)
        if done == vars(self.epoch_progress.current)["started"]:
            return Position(done)
        step, due = self.epoch_loop.position_in_epoch()
        if step and not due and self.epoch_loop._num_ready_batches_reached():
            return Position(done + 1)
        return Position(done, step, due)

    def on_save_checkpoint(self) -> dict[str, Any]:
        position = self.position()
        return {
            **super().on_save_checkpoint(),
            _POSITION: position.to_fields(),
            _STEPPED: self.epoch_loop.batches_that_stepped(position.validation_due),
            _RANDOM: gathered_random_states(),
        }

    def load_state_dict(self, state_dict: dict[str, Any], prefix: str = "") -> None:
        super().load_state_dict(state_dict, prefix)
        own = state_dict[prefix + "state_dict"]
        if _POSITION not in own:
            return  # of another program: Lightning's own way
        position = Position(**own[_POSITION])
        self._random_states = own[_RANDOM]
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, ShardDataModule):
            position, same = data.position_on_these_data(position)
            self._random_states = self._random_states if same else None
            # Lightning may have made the loader and its iterator already, to count the steps of the schedule.
            self.setup_data()
            data.start_at(position)
        self._go_to(position, own[_STEPPED])

    def _go_to(self, position: Position, stepped: int) -> None:
        """Sets all counters to what they are at `position` in a training that was never stopped."""
        loop = self.epoch_loop
        inside = position.step > 0
        for epochs in (self.epoch_progress.total, self.epoch_progress.current):
            _set_all(epochs, position.epoch)
            vars(epochs).update(ready=position.epoch + inside, started=position.epoch + inside)
        _set_all(loop.batch_progress.total, _processed(loop.batch_progress.total))
        _set_all(loop.batch_progress.current, position.step)
        loop._batches_that_stepped = stepped
        loop.batch_progress.is_last_batch = loop.batch_progress.is_last_batch and position.validation_due
        loop.validation_due = position.validation_due
        # Inside an epoch the hooks of its start have been called already.
        self.restarting = inside

    def on_advance_start(self) -> None:
        if self._random_states is not None:
            own = state_for_rank(self._random_states, self.trainer.global_rank, self.trainer.world_size)
            self._random_states = None
            if own is not None:
                set_random_state(own)
        super().on_advance_start()

    def on_advance_end(self) -> None:
        super().on_advance_end()
        for callback in _run_checkpoints(self.trainer):
            callback.save(self.trainer)


def broadcast_buffers(trainer: Trainer) -> None:
    """Gives all ranks the buffers of rank 0: the network that is validated is the one that is saved.

    In training DDP does so before each forward; after the last one the running moments of the ranks differ.
    """
    if trainer.world_size > 1:
        for buffer in trainer.lightning_module.buffers():
            torch.distributed.broadcast(buffer, src=0)


def _run_checkpoints(trainer: Trainer) -> list[RunCheckpoint]:
    return [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, RunCheckpoint)]


def _processed(tracker: _ReadyCompletedTracker) -> int:
    return int(vars(tracker)["processed"])


def _set_all(tracker: _ReadyCompletedTracker, value: int) -> None:
    vars(tracker).update(dict.fromkeys(vars(tracker), value))

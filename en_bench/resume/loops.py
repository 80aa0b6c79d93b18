"""Lightning's training loops, made to go on inside an epoch.

Lightning saves counters of what was ready, started, processed and completed, and guesses from their differences where
a training stood. It loses steps, epochs or validations at several places (Lightning#18780, #19549). Here the position
is saved as such, and the counters are set from it: to what they would be had the training never stopped.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.progress import _ReadyCompletedTracker
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.strategies import DDPStrategy

from en_bench.data.module import ShardDataModule
from en_bench.data.position import Position
from en_bench.resume.agreement import StopAgreement, end_together
from en_bench.resume.checkpoint import RunCheckpoint
from en_bench.resume.epoch_means import restore_running_values, running_values
from en_bench.resume.interrupt import Interrupt
from en_bench.resume.random_state import random_state, set_random_state
from en_bench.resume.ranks import of_all_ranks, own_of

_PLACE, _RANKS = "en_bench_place", "en_bench_ranks"


class ResumableEpochLoop(_TrainingEpochLoop):
    """One epoch, which may begin in its middle, or with the validation that follows a batch."""

    validation_due = False  # at the position that was restored
    _batch_ended = True  # whether all that follows a batch is done, its validation too

    @property
    def done(self) -> bool:
        return not self.validation_due and bool(super().done)

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
        processed = _processed(self.batch_progress.current)
        between = self._batch_ended or self.batch_progress.current.ready != processed
        due = not between and self.trainer.training and self._should_check_val_fx(None)  # type: ignore[arg-type]
        return processed, due

    def epoch_is_whole(self) -> bool:
        """Whether all batches of the epoch have been trained on."""
        ready = self.batch_progress.current.ready
        return ready == _processed(self.batch_progress.current) and self._num_ready_batches_reached()

    def batches_that_stepped(self, validation_due: bool) -> int:
        """Lightning's step of loggers, as it is once all that follows the last batch is done."""
        half = self.batch_progress.current.ready != _processed(self.batch_progress.current)
        counted = self._batch_ended or half or validation_due or self._should_accumulate()
        return self._batches_that_stepped + (0 if counted else 1)

    def _broadcast_sigterm_tensor(self) -> None:
        """Not as Lightning does, which waits for the device in each step: a stop is agreed on in `StopAgreement`."""

    def _save_if_due(self) -> None:
        # Between two optimiser steps there are gradients, which no checkpoint holds.
        if self._should_accumulate():
            return
        stop = self.trainer.fit_loop.stop_reached()
        for callback in _run_checkpoints(self.trainer):
            callback.save_if_due(self.trainer, now=stop is not None)
        self.trainer.fit_loop.obey(stop)


class ResumableFitLoop(_FitLoop):
    """All epochs, from any position on."""

    epoch_loop: ResumableEpochLoop
    interrupt: Interrupt
    agreement: StopAgreement
    restored: Position | None = None  # where the training was continued
    _own: dict[str, Any] | None = None  # what this rank saved

    @classmethod
    def of(cls, trainer: Trainer) -> ResumableFitLoop:
        """A loop with the limits of the one that `trainer` has."""
        theirs = trainer.fit_loop
        loop = cls(trainer, min_epochs=theirs.min_epochs, max_epochs=theirs.max_epochs)
        loop.interrupt, loop.agreement = Interrupt(), StopAgreement()
        loop.epoch_loop = ResumableEpochLoop(
            trainer, min_steps=theirs.epoch_loop.min_steps, max_steps=theirs.epoch_loop.max_steps
        )
        return loop

    @property
    def done(self) -> bool:
        return not self.epoch_loop.validation_due and bool(super().done)

    def position(self) -> Position:
        """Where the training stands. Within a batch: as if it had ended."""
        loop, done = self.epoch_loop, _processed(self.epoch_progress.current)
        step, due = loop.position_in_epoch()
        if done == vars(self.epoch_progress.current)["started"]:
            # Lightning counts an epoch that max_steps or max_time cut short like a whole one.
            return Position(done) if step == 0 or loop.epoch_is_whole() else Position(done - 1, step)
        if step and not due and loop.epoch_is_whole():
            return Position(done + 1)
        return Position(done, step, due)

    def on_save_checkpoint(self) -> dict[str, Any]:
        position = self.position()
        own = {"random": random_state(), "running": running_values(self.epoch_loop._results) if position.step else []}
        return {
            **super().on_save_checkpoint(),
            _PLACE: {
                **position.to_fields(),
                "stepped": self.epoch_loop.batches_that_stepped(position.validation_due),
                **self._pace(),
            },
            _RANKS: of_all_ranks(own),
        }

    def load_state_dict(self, state_dict: dict[str, Any], prefix: str = "") -> None:
        super().load_state_dict(state_dict, prefix)
        # Lightning may have made the loader already, to count the steps of the schedule.
        self.setup_data()
        saved = state_dict[prefix + "state_dict"]
        place = saved.get(_PLACE)
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, ShardDataModule):
            if place is not None:
                self._go_to(Position(place["epoch"], place["step"], place["validation_due"]), place["stepped"])
            return
        if place is None:
            data.changes.note("a checkpoint that another program, or a former version, has written", "train anew")
            epochs = self.epoch_progress.current
            position = Position(max(_processed(epochs), vars(epochs)["started"]))
        else:
            for name, value in self._pace().items():
                if place[name] != value:
                    data.changes.note(_PACES[name].format(value, place[name]), "give the same options")
            position = Position(place["epoch"], place["step"], place["validation_due"])
        data.changes.refuse()
        position, same = data.changes.position(position, tells=self.trainer.is_global_zero)
        data.start_at(position)
        if same and place is not None:
            self._own = own_of(saved[_RANKS], self.trainer.global_rank, self.trainer.world_size)
            self._go_to(position, place["stepped"])
        else:
            self._count_epochs(position)

    def _pace(self) -> dict[str, Any]:
        """What makes batches into epochs and steps."""
        return {"batches": self.max_batches, "accumulate": self.trainer.accumulate_grad_batches}

    def _count_epochs(self, position: Position) -> None:
        """Goes to the beginning of an epoch and counts as many steps as epochs of the present length have."""
        steps = position.epoch * math.ceil(self.max_batches / self.trainer.accumulate_grad_batches)
        self._go_to(position, steps)
        step = self.epoch_loop.automatic_optimization.optim_progress.optimizer.step
        _set_all(step.total, steps)

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
        self.restored = position
        # Inside an epoch the hooks of its start have been called already.
        self.restarting = inside

    def run(self) -> None:
        for callback in _run_checkpoints(self.trainer):
            callback.go_on(self.trainer)
        if self.restored is not None and self.trainer.is_global_zero:
            print(f"going on from {self.restored}", flush=True)
        if any(callback.wait_count >= callback.patience for callback in self.trainer.early_stopping_callbacks):
            self.trainer.should_stop = True  # it was killed between that decision and its end
        with self.interrupt:
            super().run()
            if self.trainer.world_size > 1:
                self.interrupt.by = None  # what reached some of the ranks too late for an agreement

    def on_advance_start(self) -> None:
        own, self._own = self._own, None
        if own is not None:
            set_random_state(own["random"])
            restore_running_values(self.trainer, self.epoch_loop._results, own["running"])
        super().on_advance_start()

    def on_advance_end(self) -> None:
        super().on_advance_end()
        for callback in _run_checkpoints(self.trainer):
            callback.save(self.trainer)
        self.obey(self.stop_reached(now=True))

    def stop_reached(self, now: bool = False) -> int | None:
        """The signal by which the training stops here, see `StopAgreement`."""
        return self.agreement.reached(self.trainer, self.interrupt, now)

    def obey(self, signal: int | None) -> None:
        """Stops where `stop_reached` says so."""
        if signal is not None:
            end_together(self.trainer)
            self.interrupt.obey(signal)


_PACES = {
    "batches": "epochs of {} batches instead of {}",
    "accumulate": "--trainer.accumulate_grad_batches {} instead of {}",
}


def broadcast_buffers(trainer: Trainer) -> None:
    """Gives all ranks the buffers of rank 0: the network that is validated is the one that is saved.

    In training DDP does so before each forward; after the last one the running moments of the ranks differ.
    """
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy) and strategy._ddp_kwargs.get("broadcast_buffers", True):
        for buffer in trainer.lightning_module.buffers():
            whole = buffer.contiguous()
            torch.distributed.broadcast(whole, src=0)
            buffer.copy_(whole)


def _run_checkpoints(trainer: Trainer) -> list[RunCheckpoint]:
    return [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, RunCheckpoint)]


def _processed(tracker: _ReadyCompletedTracker) -> int:
    return int(vars(tracker)["processed"])


def _set_all(tracker: _ReadyCompletedTracker, value: int) -> None:
    vars(tracker).update(dict.fromkeys(vars(tracker), value))

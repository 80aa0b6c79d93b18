"""How many samples make one optimiser step, and whether the learning rate was meant for as many."""

from __future__ import annotations

from dataclasses import dataclass

from en_bench.errors import InputError


@dataclass(frozen=True)
class EffectiveBatch:
    """Samples `per_rank` and forward pass, on so many `ranks`, over so many `accumulated` backward passes."""

    per_rank: int
    ranks: int
    accumulated: int

    @property
    def total(self) -> int:
        """Samples of an optimiser step."""
        return self.per_rank * self.ranks * self.accumulated

    def __str__(self) -> str:
        ranks = f"{self.ranks} rank{'s' * (self.ranks > 1)}"
        accumulated = f" x {self.accumulated} accumulated" if self.accumulated > 1 else ""
        return f"{self.total} = {ranks} x {self.per_rank}{accumulated}"

    def facts(self) -> dict[str, int]:
        """For the record of a training."""
        return {
            "effective": self.total,
            "per_rank": self.per_rank,
            "ranks": self.ranks,
            "accumulated": self.accumulated,
        }

    def check(self, lr: float, meant: int | None) -> None:
        """Raises InputError unless an optimiser step has as many samples as `lr` is `meant` for; None says nothing.

        The learning rate is never scaled in silence: the message says how it would be, in proportion to the batch
        (Goyal et al., "Accurate, Large Minibatch SGD", 2017, section 2.1).
        """
        if meant in (None, self.total):
            return
        assert meant is not None
        cures = []
        if meant % (self.per_rank * self.ranks) == 0:
            cures.append(f"--trainer.accumulate_grad_batches {meant // (self.per_rank * self.ranks)}")
        if meant % (self.ranks * self.accumulated) == 0:
            cures.append(f"--data.batch_size {meant // (self.ranks * self.accumulated)}")
        scaled = f"--model.lr {lr * self.total / meant:.6g} --model.lr_batch {self.total} (scaled in proportion)"
        raise InputError(
            f"the learning rate {lr:g} is for a batch of {meant}, and a step of this run has {self}: "
            f"give {', or '.join([*cures, scaled])}"
        )

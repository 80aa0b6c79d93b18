"""Several ranks stop after the same step, whichever of them was asked to."""

from __future__ import annotations

import atexit
import subprocess
import time

from lightning import Trainer

from en_bench.resume.interrupt import Interrupt
from en_bench.resume.ranks import of_all_ranks

_SECONDS_BETWEEN = 2.0  # an exchange costs a millisecond or so
_SECONDS_TO_END = 30.0


class StopAgreement:
    """Asks all ranks, from time to time, whether a signal has reached one of them."""

    def __init__(self) -> None:
        self._asked: tuple[int, float] | None = None  # the step of the last exchange, and when that was
        self._ask_at = 0  # the step from which to ask again, the same on all ranks

    def reached(self, trainer: Trainer, interrupt: Interrupt, now: bool = False) -> int | None:
        """The signal that stops the training here, or None. Every rank must call it after the same steps.

        Of one rank: its own. Of several, one that they all know of, which they exchange `now` or once in two seconds.
        """
        if trainer.world_size == 1:
            return interrupt.by
        step = trainer.global_step
        if step < self._ask_at and not now:
            return None
        found = of_all_ranks((interrupt.by, self._seconds_per_step(step)))
        self._asked = step, time.monotonic()
        _, pace = found[0]
        self._ask_at = step + (1 if pace is None else max(1, int(_SECONDS_BETWEEN / max(pace, 1e-6))))
        return next((by for by, _ in found if by is not None), None)

    def _seconds_per_step(self, step: int) -> float | None:
        """Since the last exchange; None where nothing was trained since, or this training has made none yet.

        A training that goes on begins at any step, and its first one takes all the time of its start.
        """
        if self._asked is None or step <= self._asked[0]:
            return None
        before, then = self._asked
        return (time.monotonic() - then) / (step - before)


def end_together(trainer: Trainer) -> None:
    """Lets the ranks that Lightning has started end by themselves, and waits for them when this process ends.

    Lightning would kill them, and may kill this process too once it notices that one has ended with an error.
    """
    processes: list[subprocess.Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
    if processes:
        atexit.register(_wait, list(processes))
        processes.clear()


def _wait(processes: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + _SECONDS_TO_END
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()

"""How soon ranks that train together hear of a signal that has reached one of them."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from en_bench.resume.agreement import StopAgreement
from en_bench.resume.interrupt import Interrupt


class Training:
    """One of two ranks, whose steps take as long as a test says, by a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: int, start: float) -> None:
        self.seconds, self.step, self.asked = 1000.0, step, list[int]()
        monkeypatch.setattr("en_bench.resume.agreement.time.monotonic", lambda: self.seconds)
        monkeypatch.setattr("en_bench.resume.agreement.of_all_ranks", self._exchange)
        self._agreement, self._interrupt = StopAgreement(), Interrupt()
        self.seconds += start

    def _exchange(self, own: Any) -> list[Any]:
        self.asked.append(self.step)
        return [own, own]

    def train(self, steps: int, seconds: float) -> None:
        for _ in range(steps):
            self.step, self.seconds = self.step + 1, self.seconds + seconds
            self.ask(now=False)

    def ask(self, now: bool) -> None:
        trainer: Any = SimpleNamespace(world_size=2, global_step=self.step)
        self._agreement.reached(trainer, self._interrupt, now)


@pytest.mark.parametrize("step", [0, 5_000, 400_000])
@pytest.mark.parametrize("start", [0.0, 20.0, 600.0])
def test_one_that_goes_on_asks_every_two_seconds_whatever_its_start_has_taken(
    monkeypatch: pytest.MonkeyPatch, step: int, start: float
) -> None:
    training = Training(monkeypatch, step, start)
    training.train(30, seconds=0.5)
    assert training.asked[:2] == [step + 1, step + 2]
    later = training.asked[1:]
    assert {after - before for before, after in itertools.pairwise(later)} == {4}


def test_two_questions_at_the_same_step_put_off_no_third(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last batch of an epoch, and after a validation that took no time."""
    training = Training(monkeypatch, 0, 0.0)
    training.train(10, seconds=2.5)
    training.ask(now=True)
    training.seconds += 0.02
    training.ask(now=True)
    training.asked.clear()
    training.train(3, seconds=2.5)
    assert training.asked == [11, 12, 13]

"""What the order of a training depends on, as its checkpoint remembers it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from en_bench.data.shuffle import Shuffle


@dataclass(frozen=True)
class StreamState:
    """Which samples the steps of a training hold, and in which order, follows from this alone.

    Attributes:
        manifest: digest of the training split.
        labels: column that trains.
        samples: that take part in an epoch.
        seed: of order and augmentation.
        span, block, window: of the order, see Shuffle.
        batch_size: samples per rank and step.
        ranks: processes.
    """

    manifest: str
    labels: str
    samples: int
    seed: int
    span: int
    block: int
    window: int
    batch_size: int
    ranks: int

    @classmethod
    def of(cls, manifest: str, labels: str, shuffle: Shuffle, batch_size: int, ranks: int) -> StreamState:
        return cls(manifest, labels, shuffle.count, **shuffle.facts(), batch_size=batch_size, ranks=ranks)

    def to_fields(self) -> dict[str, Any]:
        return asdict(self)

    def differences(self, saved: dict[str, Any]) -> list[str]:
        """What tells this state from a `saved` one such that the steps hold other samples, in words.

        Batch size and ranks may change if their product does not: a step takes the same samples then.
        """
        told = {
            "manifest": "the training split has another manifest",
            "labels": "labels '{}' instead of '{}'",
            "samples": "{} training samples instead of {}",
            "seed": "seed {} instead of {}",
            "span": "span {} instead of {}",
            "block": "blocks of {} samples instead of {}",
            "window": "windows of {} blocks instead of {}",
        }
        found = [
            told[field.name].format(getattr(self, field.name), saved.get(field.name))
            for field in fields(self)
            if field.name in told and getattr(self, field.name) != saved.get(field.name)
        ]
        batch, ranks = saved.get("batch_size", 0), saved.get("ranks", 0)
        if self.batch_size * self.ranks != batch * ranks:
            found.append(f"{self.ranks} x batch {self.batch_size} instead of {ranks} x batch {batch}")
        return found

    def cure(self, saved: dict[str, Any]) -> str:
        """How to make the steps hold the same samples again."""
        cures = []
        total = saved.get("batch_size", 0) * saved.get("ranks", 0)
        if self.batch_size * self.ranks != total:
            if total % self.ranks == 0:
                cures.append(f"use --data.batch_size {total // self.ranks}")
            else:
                cures.append(f"use a number of devices that divides {total}")
        if self.seed != saved.get("seed"):
            cures.append(f"use --data.seed {saved.get('seed')}")
        if self.span != saved.get("span"):
            cures.append(f"use --data.span {saved.get('span')}")
        if self.labels != saved.get("labels"):
            cures.append(f"use --data.labels {saved.get('labels')}")
        if self.manifest != saved.get("manifest"):
            cures.append("give the split it was trained on")
        return ", ".join(cures) or "use the version of en_bench that wrote it"

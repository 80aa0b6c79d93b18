"""What the order of a training depends on, as its checkpoint remembers it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from en_bench.data.shuffle import Shuffle
from en_bench.noise.in_words import told_json


@dataclass(frozen=True)
class StreamState:
    """Which samples the steps of a training hold, and in which order, follows from this alone.

    Attributes:
        manifest: digest of the training split.
        labels: column that trains.
        noise: what was added to it, as JSON; None without.
        held_out: share of the split that takes no part.
        samples: that take part in an epoch.
        seed: of order and augmentation.
        span, block, window: of the order, see Shuffle.
        batch_size: samples per rank and step.
        ranks: processes.
    """

    manifest: str
    labels: str
    noise: str | None
    held_out: float
    samples: int
    seed: int
    span: int
    block: int
    window: int
    batch_size: int
    ranks: int

    @classmethod
    def of(
        cls,
        manifest: str,
        labels: str,
        noise: Mapping[str, Any] | None,
        held_out: float,
        shuffle: Shuffle,
        batch_size: int,
        ranks: int,
    ) -> StreamState:
        made = None if noise is None else json.dumps(noise, sort_keys=True)
        facts = shuffle.facts()
        return cls(manifest, labels, made, held_out, shuffle.count, **facts, batch_size=batch_size, ranks=ranks)

    def to_fields(self) -> dict[str, Any]:
        return asdict(self)

    def other_samples(self, saved: dict[str, Any]) -> bool:
        """Whether rows of the index mean other samples than in a `saved` state."""
        return self.manifest != saved.get("manifest")

    def differences(self, saved: dict[str, Any]) -> list[tuple[str, str]]:
        """What tells this state from a `saved` one such that the steps hold other samples, each with its cure.

        Batch size and ranks may change if their product does not: a step takes the same samples then.
        """
        without = saved.get("noise") is None
        told = {
            "manifest": ("the training split has another manifest", "give the split it was trained on"),
            "labels": ("labels '{}' instead of '{}'", "use --data.labels {1}"),
            "noise": (
                "{} instead of {}",
                "use --data.noise null" if without else "give the --data.noise it was trained with",
            ),
            "held_out": ("a share of {} held out instead of {}", "use --data.held_out {1}"),
            "samples": ("{} training samples instead of {}", "give the split it was trained on"),
            "seed": ("seed {} instead of {}", "use --data.seed {1}"),
            "span": ("span {} instead of {}", "use --data.span {1}"),
            "block": ("blocks of {} samples instead of {}", "use the version of en_bench that wrote it"),
            "window": ("windows of {} blocks instead of {}", "use the version of en_bench that wrote it"),
        }
        own, saved = self.to_fields(), {"held_out": 0.0, **saved}  # which older checkpoints do not name
        if own["held_out"] != saved["held_out"]:
            del told["samples"]  # follows from it
        values = {name: (own[name], saved.get(name)) for name in told}
        shown = {**values, "noise": tuple(map(told_json, values["noise"]))}
        found = [
            (difference.format(*shown[name]), cure.format(*shown[name]))
            for name, (difference, cure) in told.items()
            if values[name][0] != values[name][1]
        ]
        batch, ranks = saved.get("batch_size", 0), saved.get("ranks", 0)
        total = batch * ranks
        if self.batch_size * self.ranks != total:
            fits = total % self.ranks == 0
            cure = f"use --data.batch_size {total // self.ranks}" if fits else f"use devices that divide {total}"
            found.append((f"{self.ranks} x batch {self.batch_size} instead of {ranks} x batch {batch}", cure))
        return found

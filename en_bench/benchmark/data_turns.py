"""Contenders, and readings of them that take turns, each in a process of its own."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from en_bench.benchmark.data_material import Split
from en_bench.benchmark.data_process import ask
from en_bench.benchmark.data_settings import Settings
from en_bench.benchmark.timing import Reading, summarised

NOT_INSTALLED = "not installed"
_LONGEST_S = 600.0  # of a reading, which should take some ten


@dataclass(frozen=True)
class Contender:
    """Something that is timed.

    Attributes:
        name: for the tables; of contenders of one section no two may have the same.
        work: what `data_reading` does.
        images: "shards" or "original".
        stage: "train" or "eval".
        workers: loading processes beside its own.
        format: of the files: "ours", or the name of a peer.
        epochs: "each": the first epoch and later ones apart; "later": only later ones; "first": one epoch is enough,
            since the next one is the same.
    """

    name: str
    work: str
    images: Literal["shards", "original"] = "shards"
    stage: Literal["train", "eval"] = "train"
    workers: int = 0
    format: str = "ours"
    epochs: Literal["each", "later", "first"] = "later"

    def folder(self, split: Split) -> Path | None:
        """Of its files; None where the peer is not installed."""
        return split.ours if self.format == "ours" else split.folders.get(self.format)


def first_epoch(name: str) -> str:
    """Name of the timing of a contender's first epoch, where it has one of its own."""
    return f"{name}, first epoch"


def take_turns(
    settings: Settings,
    contenders: Sequence[Contender],
    splits: dict[str, Split],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """For each contender median and quartiles of the seconds per image, or `NOT_INSTALLED`.

    All are read once before any is read again, in an order drawn anew each time.
    """
    readings: dict[str, list[Reading]] = {}
    draw, order = random.Random(0), list(contenders)
    for turn in range(settings.repeats):
        draw.shuffle(order)
        for contender in order:
            folder = contender.folder(splits[contender.images])
            if folder is None:
                continue
            tell(f"round {turn + 1} of {settings.repeats}: {contender.name}")
            found = ask(
                "read",
                limit=_LONGEST_S,
                work=contender.work,
                folder=str(folder),
                size=settings.recipe.size,
                padded=settings.recipe.padded,
                stage=contender.stage,
                batch=settings.batch,
                workers=contender.workers,
                seconds=0.0 if contender.epochs == "first" else settings.seconds,
            )
            readings.setdefault(contender.name, []).append(Reading(found["later"], None))
            if contender.epochs == "each":
                readings.setdefault(first_epoch(contender.name), []).append(Reading(found["first"], None))
    names = [
        name
        for contender in contenders
        for name in ([first_epoch(contender.name)] if contender.epochs == "each" else []) + [contender.name]
    ]
    return {name: summarised(readings[name]) if name in readings else NOT_INSTALLED for name in names}


def warm(splits: Sequence[Split]) -> None:
    """Reads every file once, so that no contender is the one that waits for the disk."""
    for split in splits:
        for folder in {split.ours, *split.folders.values()}:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    path.read_bytes()

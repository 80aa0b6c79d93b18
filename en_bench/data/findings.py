"""What a check of prepared data found."""

from __future__ import annotations

from dataclasses import dataclass, field

LISTED = 20  # problems that are told, the others are counted


@dataclass
class Findings:
    """What was checked and what is wrong: the first `LISTED` problems, a line each, and the number of all."""

    listed: list[str] = field(default_factory=list)
    count: int = 0
    samples: int = 0
    shards: int = 0

    def add(self, problem: str) -> None:
        self.count += 1
        if len(self.listed) < LISTED:
            self.listed.append(problem)

    def merge(self, other: Findings) -> None:
        self.listed += other.listed[: LISTED - len(self.listed)]
        self.count += other.count
        self.samples += other.samples
        self.shards += other.shards

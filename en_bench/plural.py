"""Counts for people."""


def counted(count: int, noun: str) -> str:
    """`1 cell`, `1,280 cells`: nouns whose plural takes an s."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"

"""The columns of the live table where the terminal is narrow: which stay, and what is shortened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

COLUMNS = ("cell", "on", "epoch", "images/s", "score", "time left", "runs for")
GAP = 2  # between two columns


@dataclass(frozen=True)
class _Layout:
    """The columns that are left out, and those that may be shortened, to how many characters at least."""

    without: frozenset[str] = frozenset()
    least: dict[str, int] = field(default_factory=dict)


_LAYOUTS = (  # what matters less goes first
    _Layout(),
    _Layout(frozenset({"runs for"})),
    _Layout(frozenset({"runs for", "images/s"}), {"on": 8, "cell": 16}),
    _Layout(frozenset({"runs for", "images/s", "time left"}), {"on": 8, "cell": 16}),
    _Layout(frozenset({"runs for", "images/s", "time left", "on"}), {"cell": 6}),
)


def fitted(rows: Sequence[Sequence[str]], metric: str, room: int) -> tuple[list[str], list[list[str]]]:
    """The names of the columns that fit `room` characters, and the rows with these alone.

    `rows` have all COLUMNS, of which the score is headed by the `metric`. No head is cut and no field but those of
    `cell` and `on`, which lose their middle. A terminal too narrow for cell, epoch and score gets them all the same.
    """
    heads = {name: metric if name == "score" else name for name in COLUMNS}
    natural = {
        name: max(len(heads[name]), *(len(row[place]) for row in rows)) if rows else len(heads[name])
        for place, name in enumerate(COLUMNS)
    }
    for layout in _LAYOUTS:
        widths = {name: width for name, width in natural.items() if name not in layout.without}
        for name, least in layout.least.items():
            too_wide = sum(widths.values()) + GAP * (len(widths) - 1) - room
            if name in widths and too_wide > 0:
                widths[name] = min(widths[name], max(least, widths[name] - too_wide))
        if sum(widths.values()) + GAP * (len(widths) - 1) <= room:
            break
    kept = [(place, name) for place, name in enumerate(COLUMNS) if name in widths]
    return list(widths), [[shortened(row[place], widths[name]) for place, name in kept] for row in rows]


def shortened(text: str, width: int) -> str:
    """`Exemplar…itten/0`: without its middle, so that what follows the last slash stays (a cell's seed)."""
    if len(text) <= width:
        return text
    seed = len(text) - text.rfind("/") if "/" in text else 1
    end = max(width - 1 - width // 2, min(seed, width - 1))
    return f"{text[: width - 1 - end]}…{text[len(text) - end :]}"

"""Made label noise in words, from what records hold of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def told(description: Mapping[str, Any]) -> str:
    """What `describe` gave, in a few words: `symmetric 0.4 (seed 0)`."""
    kind, seed = description["kind"], description["seed"]
    alone = ("rate", kind)  # whose names would tell nothing
    arguments = {name: _plain(value) for name, value in description.items() if name not in ("kind", "seed")}
    words = [value if name in alone else f"{name} {value}" for name, value in arguments.items()]
    return f"{' '.join([kind, *words])} (seed {seed})"


def told_json(text: str | None) -> str:
    """What a checkpoint says of the noise of its labels, in the words of `told`; None is that it had none."""
    return "no label noise" if text is None else f"label noise {told(json.loads(text))}"


def labels_told(column: str, description: Mapping[str, Any] | None) -> str:
    """Which labels train: the column, and what `describe` gave of noise that was added to it, if any."""
    return column if description is None else f"{column} + {told(description)}"


def _plain(value: Any) -> str:
    if isinstance(value, dict) and "file" in value:
        return str(value["file"])
    if isinstance(value, dict) and value.keys() == {"sha256"}:  # as `compared` has it
        return f"of sha256 {value['sha256'][:12]}"
    return value if isinstance(value, str) else json.dumps(value)

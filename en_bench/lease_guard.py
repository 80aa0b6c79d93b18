"""Whoever works under a lease writes nothing once somebody else has taken it over."""

from __future__ import annotations

import json
import os
from pathlib import Path

LEASE = "EN_BENCH_LEASE"
"""The variable that names the lease under which this process, and those it starts, work: `<token>:<path of its file>`.
"""


class LeaseLost(Exception):  # noqa: N818 - it is a state more than an error
    """Somebody else works on this cell by now."""


def numbers(folder: Path) -> list[int]:
    """The numbers of the leases in a cell's folder, `3.json`, in no order; none where there is no folder."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return [
        int(stem) for stem, dot, rest in (name.partition(".") for name in names) if rest == "json" and stem.isdecimal()
    ]


def require(lease: Path, token: str) -> None:
    """Raises LeaseLost unless `lease` is the last one of its cell and still the one with this token."""
    if max(numbers(lease.parent), default=0) != int(lease.stem) or _token(lease) != token:
        raise LeaseLost(f"the lease {lease} was taken over: nothing more is written")


def require_lease() -> None:
    """`require` of the lease under which this process works, if it works under one."""
    lease = os.environ.get(LEASE)
    if lease is not None:
        token, _, path = lease.partition(":")
        require(Path(path), token)


def works_under_lease() -> bool:
    """Whether this process, or one that started it, holds a lease."""
    return LEASE in os.environ


def _token(lease: Path) -> object:
    # The client of a shared folder may list it from memory, but to open a file it asks the server: a lease that was
    # taken over is gone.
    try:
        raw = json.loads(lease.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return raw.get("token") if isinstance(raw, dict) else None

"""Python's collector of cycles, held off where many records are read."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Leave cycles alone for a while; also a decorator.

    Parsed JSON has no cycles, but each of its mappings counts towards the next search for some: with 10,000 records the
    searches take twice the time of the parsing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()

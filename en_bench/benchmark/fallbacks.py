"""Layers that fall back to a slower way work as well, and must not pass for the fast ones."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from en_bench.errors import EnBenchWarning


@contextmanager
def noted() -> Iterator[list[str]]:
    """Within it, what the package warns of is listed instead of shown, each text once."""
    found: list[str] = []
    show = warnings.showwarning

    def note(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if not issubclass(category, EnBenchWarning):
            show(message, category, *rest, **more)
        elif str(message) not in found:
            found.append(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always", EnBenchWarning)
        warnings.showwarning = note
        yield found

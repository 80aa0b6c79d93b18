"""A look at the ratios of a training forward while it runs, without a second look at the feature maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from en_bench.norms.base import Norm

Watcher = Callable[["Norm", Tensor], None]

_watcher: ContextVar[Watcher | None] = ContextVar("watcher of ratios", default=None)


@contextmanager
def watching_ratios(watcher: Watcher) -> Iterator[None]:
    """A context in which `watcher(layer, ratios)` is called in each forward of a layer with ratios of each sample.

    `ratios` (N, K) are those that the forward mixes by, in the order of `layer.ratio_names`, float32 or wider, detached
    and the watcher's to keep. They come of the moments that forward has anyway, those of the batch included, over all
    ranks with `sync`; nothing of the layer or its output changes. A layer that runs inside an outer compiler, a trace
    or a functional transform is not seen.
    """
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def watcher_of(norm: Norm) -> Watcher | None:
    """Who is to be told the ratios of a forward of `norm`, if anybody."""
    watcher = _watcher.get()
    return watcher if watcher is not None and norm.ratio_names else None

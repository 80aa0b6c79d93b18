"""Activations that a network keeps from its forward pass for its backward pass."""

from collections.abc import Callable
from typing import Any

from en_bench.benchmark.contenders import BATCH_NORM, contenders
from en_bench.benchmark.networks import autocast, memory_task, network
from en_bench.benchmark.settings import NORMS, Settings
from en_bench.norms.cost import bytes_kept


def measure(settings: Settings, tell: Callable[[str], None]) -> dict[str, Any]:
    """In `cases` the bytes of each normaliser for each dtype."""
    task = memory_task(settings)
    about = {"network": task.network, "batch": task.batch, "size": task.size}
    names = [BATCH_NORM, *contenders(settings.norms or NORMS, settings.obvious)]
    cases = []
    for dtype in settings.dtypes:
        tell(f"memory: {task.network} {dtype}")
        found = {}
        for name in names:
            model, images = network(task, name, settings.device), task.images(settings.device)
            found[name] = bytes_kept(model, images, lambda dtype=dtype: autocast(settings.device, dtype))  # type: ignore[misc]
        cases.append({**about, "dtype": dtype, "bytes": found})
    return {"cases": cases}

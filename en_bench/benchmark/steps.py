"""Whole training steps: forward, loss, backward, SGD."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from en_bench.benchmark.contenders import BATCH_NORM, CONTROL, contenders
from en_bench.benchmark.networks import CLASSES, Task, autocast, network, step_tasks
from en_bench.benchmark.settings import Settings
from en_bench.benchmark.timing import Call, WallClock, interleaved

NORMS = ("BatchNorm", "SwitchNorm", "ExemplarNorm")


def measure(settings: Settings, tell: Callable[[str], None]) -> dict[str, Any]:
    """In `cases` the times of a step for each network, dtype, and way to run it."""
    names = [BATCH_NORM, CONTROL, *contenders(settings.norms or NORMS, settings.obvious)]
    clock = WallClock(settings.device, 0.0 if settings.quick else 0.02)
    cases = []
    for task in step_tasks(settings):
        for dtype in settings.dtypes:
            for compiled in (False, True) if settings.compiled else (False,):
                tell(f"steps: {task.network} {dtype}{' compiled' if compiled else ''}")
                timings = _timings(task, names, dtype, compiled, settings, clock)
                about = {"network": task.network, "batch": task.batch, "size": task.size, "dtype": dtype}
                cases.append({**about, "compiled": compiled, "timings": timings})
    return {"cases": cases}


def _timings(
    task: Task, names: list[str], dtype: str, compiled: bool, settings: Settings, clock: WallClock
) -> dict[str, dict[str, Any] | None]:
    import torch._dynamo

    torch._dynamo.reset()
    calls = {
        name: _step(task, network(task, name, settings.device), dtype, compiled, settings.device) for name in names
    }
    # Networks share the code of their forward: the usual limit of versions would leave the last ones uncompiled.
    with torch._dynamo.config.patch(recompile_limit=64, fail_on_recompile_limit_hit=True):
        return interleaved(calls, clock, settings.repeats)


def _step(task: Task, model: nn.Module, dtype: str, compiled: bool, device: torch.device) -> Call:
    images, target = task.images(device), torch.arange(task.batch, device=device) % CLASSES
    # So small a rate that no network diverges: NaN and denormal numbers have other speeds.
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
    if compiled:
        model.compile()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, dtype):
            loss = F.cross_entropy(model(images), target)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step

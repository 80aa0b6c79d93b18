"""What the first use of a normaliser costs a process: with nothing in any cache, and after another process filled it.

`python -m en_bench.benchmark.first_use` is such a process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from en_bench.benchmark.fallbacks import noted
from en_bench.benchmark.networks import Task, memory_task, network
from en_bench.benchmark.settings import NORMS, Settings
from en_bench.errors import EnBenchWarning, InputError
from en_bench.norms import Norm
from en_bench.norms.cost import input_shapes
from en_bench.norms.tables import compiled_graphs

_NORMS = ("ExemplarNorm", "SwitchNorm")
_TIME_LIMIT_S = 900
_BATCH = 2


def measure(settings: Settings, tell: Callable[[str], None]) -> dict[str, Any]:
    """In `cases` what the first and the second process with a cache of its own report for each normaliser."""
    task = memory_task(settings)
    norms = settings.norms or (_NORMS[:1] if settings.quick else _NORMS)
    cases = []
    for norm in norms:
        with tempfile.TemporaryDirectory(prefix="en_bench_first_use_") as folder:
            found = {}
            for which in ("first", "second"):
                tell(f"first use: {norm}, {which} process")
                found[which] = _process(norm, task, settings.device, Path(folder))
        cases.append({"network": task.network, "size": task.size, "norm": norm, **found})
    return {"cases": cases}


def _process(norm: str, task: Task, device: torch.device, cache: Path) -> dict[str, Any]:
    options = ("--norm", norm, "--network", task.network, "--size", str(task.size), "--device", str(device))
    caches = {name: str(cache / name) for name in ("EN_BENCH_CACHE", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")}
    environment = {**os.environ, **caches, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-m", "en_bench.benchmark.first_use", *options]
    start = time.perf_counter()
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TIME_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise InputError(f"the first use of {norm} took more than {_TIME_LIMIT_S} s: the machine is too busy") from None
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no word"]
        raise InputError(f"the process that uses {norm} for the first time failed: {last[0]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    for text in told["fallbacks"]:
        warnings.warn(text, EnBenchWarning, stacklevel=2)
    return {**told, "process": time.perf_counter() - start}


def first_use(norm: Callable[[int], Norm], shapes: list[tuple[int, ...]], device: torch.device) -> dict[str, Any]:
    """Seconds of the first pass over all shapes, those of the next one, and what the first had on top of it."""
    first, again = (_pass(norm, shapes, device) for _ in range(2))
    return {
        "compiling": first - again,
        "first": first,
        "again": again,
        "shapes": len(shapes),
        "graphs": sum(compiled_graphs()),
    }


def _pass(norm: Callable[[int], Norm], shapes: list[tuple[int, ...]], device: torch.device) -> float:
    """A training step and an evaluation for each shape."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    start = time.perf_counter()
    for shape in shapes:
        module = norm(shape[1]).to(device)
        x = torch.randn(shape, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
        module(x.requires_grad_()).sum().backward()
        with torch.no_grad():
            module.eval()(x)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def map_shapes(task: Task, norm: str) -> list[tuple[int, ...]]:
    """The shapes of the maps that the normalisers of a network get, each once."""
    model = network(task, norm, torch.device("cpu")).to("meta")
    names = [name for name, module in model.named_modules() if isinstance(module, Norm)]
    calls = input_shapes(model, names, task.images(torch.device("meta")))
    return list(dict.fromkeys(tuple(shape) for shapes in calls.values() for shape in shapes))


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("norm", "network", "device"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--size", type=int, required=True)
    args = parser.parse_args()
    shapes = map_shapes(Task(args.network, _BATCH, args.size), args.norm)
    with noted() as fallbacks:
        found = first_use(NORMS[args.norm], shapes, torch.device(args.device))
    print(json.dumps({**found, "fallbacks": fallbacks}))


if __name__ == "__main__":
    main()

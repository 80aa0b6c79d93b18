"""How long a training waits for its data: the same steps with a loader, and with one batch that stays on the device."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from en_bench.benchmark.data_material import Material
from en_bench.benchmark.data_process import ask
from en_bench.benchmark.data_reading import open_stream, training_order
from en_bench.benchmark.data_recipe import MEAN, STD, Recipe
from en_bench.benchmark.data_settings import Settings
from en_bench.benchmark.timing import Reading, summarised
from en_bench.data.dataset import Batch
from en_bench.data.loader import make_loader
from en_bench.data.samplers import Request, StreamSampler, TrainSampler
from en_bench.data.shuffle import Shuffle
from en_bench.data.transforms import normalise
from en_bench.norms import swap_norms
from en_bench.norms_table import chosen

OWN_NORM = "bn"  # leaves a network with the layers that it has
_WARM_UPS = 10  # steps, in which kernels are compiled and chosen
_STEPS = 100  # of a reading
_QUICK_STEPS = 3


def measure_training(settings: Settings, material: Material, tell: Callable[[str], None]) -> dict[str, Any]:
    """In `cases`, per number of workers, seconds per step with the loader and without, and those spent waiting."""
    cases = []
    for workers in settings.training_workers:
        told: dict[str, list[Reading]] = {"loader": [], "resident": [], "blocked": []}
        device = ""
        for turn in range(settings.repeats):
            tell(f"training: {settings.model}, {workers} workers, round {turn + 1} of {settings.repeats}")
            found = ask(
                "train",
                folder=str(material.shards.ours),
                size=settings.recipe.size,
                padded=settings.recipe.padded,
                batch=settings.batch,
                workers=workers,
                model=settings.model,
                norm=settings.norm,
                steps=_QUICK_STEPS if settings.quick else _STEPS,
            )
            device = found["device"]
            for name, readings in told.items():
                readings.append(Reading(found[name], None))
        timings = {name: summarised(readings) for name, readings in told.items()}
        cases.append({"workers": workers, "device": device, "timings": timings})
    return {"model": settings.model, "norm": settings.norm, "batch": settings.batch, "cases": cases}


def train(
    folder: str, size: int, padded: bool, batch: int, workers: int, model: str, norm: str, steps: int
) -> dict[str, Any]:
    """Seconds per step of a network in bfloat16 autocast and channels_last, on the GPU if there is one.

    Returns:
        loader: with batches from the stream.
        blocked: of these, seconds in which the process that trains waited for a batch. A GPU may still have had work.
        resident: with one batch that is on the device already.
        device: "cuda" or "cpu".
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset = open_stream(Path(folder), Recipe(size, padded), "train")
    classes = len(dataset.reader.manifest.classes)
    step = _Step(_network(model, norm, classes), device)
    sampler = _Endless(training_order(dataset), batch, _WARM_UPS + steps)
    loader = make_loader(dataset, sampler, workers, pin_memory=device.type == "cuda")
    batches = iter(loader)
    first = next(batches)
    for _ in range(_WARM_UPS - 1):
        step(next(batches))
    step.wait()
    blocked, begin = 0.0, time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        loaded = next(batches)
        blocked += time.perf_counter() - asked
        step(loaded)
    step.wait()
    with_loader = time.perf_counter() - begin
    image, target = step.moved(first)
    step.wait()
    begin = time.perf_counter()
    for _ in range(steps):
        step.learn(image, target)
    step.wait()
    resident = time.perf_counter() - begin
    return {
        "loader": with_loader / steps,
        "blocked": blocked / steps,
        "resident": resident / steps,
        "device": device.type,
    }


class _Endless(StreamSampler):
    """Epochs one after the other without a break, so many steps in all."""

    def __init__(self, shuffle: Shuffle, batch_size: int, steps: int) -> None:
        super().__init__(batch_size, rank=0, ranks=1)
        self.mixing, self.steps = shuffle, steps  # a DistributedSampler's `shuffle` is something else

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Request]:
        epochs = (TrainSampler(self.mixing, self.batch_size, 0, 1, epoch) for epoch in itertools.count())
        return itertools.islice(itertools.chain.from_iterable(epochs), self.steps)


class _Step:
    """One step of a training."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.device = device
        self.network = network.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.01, momentum=0.9)
        self.mean, self.std = torch.tensor(MEAN, device=device), torch.tensor(STD, device=device)

    def __call__(self, batch: Batch) -> None:
        self.learn(*self.moved(batch))

    def moved(self, batch: Batch) -> tuple[Tensor, Tensor]:
        image, target = (part.to(self.device, non_blocking=True) for part in (batch.image, batch.target))
        return image, target

    def learn(self, image: Tensor, target: Tensor) -> None:
        real = normalise(image, self.mean, self.std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            loss: Tensor = nn.functional.cross_entropy(self.network(real), target)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _network(model: str, norm: str, classes: int) -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = timm.create_model(model, num_classes=classes)
    if norm != OWN_NORM:
        (layer,) = chosen(norm)
        swap_norms(network, layer)
    return network

"""The networks that are measured as a whole."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from en_bench.backbones import build
from en_bench.benchmark.contenders import put_into
from en_bench.benchmark.settings import Settings

CLASSES = 10


@dataclass(frozen=True)
class Task:
    """A network and its input: `batch` images of `size` x `size`."""

    network: str
    batch: int
    size: int

    def images(self, device: torch.device) -> Tensor:
        torch.manual_seed(0)
        images = torch.randn(self.batch, 3, self.size, self.size, device=device)
        return images.contiguous(memory_format=torch.channels_last)


RESNET50 = Task("timm/resnet50", 16, 224)
_QUICK = Task("cifar/resnet8", 4, 16)


def step_tasks(settings: Settings) -> tuple[Task, ...]:
    if settings.quick:
        return (_QUICK,)
    if settings.device.type == "cuda":
        return (Task("timm/resnet50", 256, 224),)
    return RESNET50, Task("cifar/resnet20", 128, 32)


def memory_task(settings: Settings) -> Task:
    return _QUICK if settings.quick else RESNET50


def network(task: Task, normaliser: str, device: torch.device) -> nn.Module:
    """In channels_last, in training; the weights are the same whatever the normaliser."""
    torch.manual_seed(0)
    built = put_into(build(task.network, CLASSES), normaliser)
    return built.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload,no-any-return]


def autocast(device: torch.device, dtype: str) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16")

"""Single layers, forward and backward, over maps of ResNets."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from en_bench.benchmark.contenders import TORCH_LAYERS, comparisons, layer
from en_bench.benchmark.settings import DTYPES, FORMATS, NORMS, Settings, Shape
from en_bench.benchmark.timing import Call, DeviceEvents, WallClock, Watch, interleaved


def measure(settings: Settings, tell: Callable[[str], None]) -> dict[str, Any]:
    """`pairs` of who is compared with whom, and in `cases` the times of each for a shape, memory format and dtype."""
    pairs = comparisons(settings.norms or NORMS, settings.obvious)
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    cuda = settings.device.type == "cuda"
    quick_clock = WallClock(settings.device, 0.0)
    watch: Watch = (
        DeviceEvents(settings.device) if cuda else quick_clock if settings.quick else WallClock(settings.device)
    )
    cases = []
    chosen = list(itertools.product(settings.dtypes, settings.formats, settings.shapes))
    for number, (dtype, form, shape) in enumerate(chosen, start=1):
        tell(f"layers {number}/{len(chosen)}: {'x'.join(map(str, shape))} {dtype} {form}")
        calls = _calls(names, shape, DTYPES[dtype], FORMATS[form], settings.device)
        timings = interleaved(calls, watch, settings.repeats)
        cases.append({"shape": list(shape), "format": form, "dtype": dtype, "timings": timings})
    return {"pairs": [list(pair) for pair in pairs], "cases": cases}


def _calls(
    names: list[str], shape: Shape, dtype: torch.dtype, form: torch.memory_format, device: torch.device
) -> dict[str, Call]:
    torch.manual_seed(0)
    x, dy = (torch.randn(shape, device=device).to(dtype).contiguous(memory_format=form) for _ in range(2))
    x.requires_grad_()
    return {name: _forward_and_backward(_ready(name, x), x, dy) for name in names}


def _ready(name: str, x: Tensor) -> nn.Module:
    """The layer with parameters in fp32, as autocast leaves them; in the dtype of `x` where torch's own asks for it."""
    module = layer(name, *x.shape[1:]).to(x.device)
    if name in TORCH_LAYERS and x.dtype != torch.float32:
        try:
            copy.deepcopy(module)(x)
        except torch.OutOfMemoryError:  # told when it is timed
            pass
        except RuntimeError:
            module.to(x.dtype)
    return module


def _forward_and_backward(module: nn.Module, x: Tensor, dy: Tensor) -> Call:
    inputs = (x, *module.parameters())
    return lambda: torch.autograd.grad(module(x), inputs, dy)

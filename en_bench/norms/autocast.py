"""Arithmetic that autocast leaves alone."""

from contextlib import AbstractContextManager, nullcontext

import torch


def out_of_reach(dtype: torch.dtype, device_type: str) -> torch.dtype:
    """The dtype for arithmetic whose derivatives autocast must not reach either: float64 where it is on, else `dtype`.

    It leaves float64 alone. To switch it off in the forward pass is not enough: a backward pass that runs inside the
    block, or that torch.compile traces there, meets it again.
    """
    return torch.float64 if _is_on(device_type) and device_type != "mps" else dtype  # MPS has no float64


def without_autocast(device_type: str) -> AbstractContextManager[object]:
    """A context in which autocast is off, whatever it is outside."""
    return torch.autocast(device_type, enabled=False) if _is_on(device_type) else nullcontext()


def _is_on(device_type: str) -> bool:
    # Some device types, meta among them, know no autocast and refuse the question.
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)

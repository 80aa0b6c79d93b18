"""Arithmetic that autocast leaves alone."""

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device_type: str) -> AbstractContextManager[object]:
    """A context in which autocast is off, whatever it is outside."""
    # Some device types, meta among them, know no autocast and refuse the question.
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()

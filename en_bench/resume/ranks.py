"""What each rank has of its own, in a checkpoint that one rank writes."""

from __future__ import annotations

from typing import Any

import torch.distributed


def of_all_ranks(own: Any) -> list[Any]:
    """What every rank gives, in their order. Every rank must call it."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [own]
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, own)
    return found


def own_of(saved: list[Any], rank: int, ranks: int) -> Any:
    """What `rank` of `ranks` goes on with; None where the ranks are not those that were saved.

    More or fewer ranks than before share out the batch anew, so that nothing that was saved is anybody's own.
    """
    return saved[rank] if len(saved) == ranks else None

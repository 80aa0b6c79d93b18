"""What a training remembers of each of its samples, such as running targets of a loss."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_CHUNK = 2**22  # numbers exchanged at a time


class SampleTable:
    """A value per row of the training split, which the ranks of a training fill together.

    Not a buffer: DDP would overwrite those of all ranks with rank 0's in each step. Each rank writes the rows of its
    own batches; `merge` gives all ranks what was written last, wherever that was. As a sample is in one batch per
    epoch, merging between epochs is enough for every read to find the newest value; checkpoints merge too.

    Args:
        samples: N, rows of the index of the training split.
        shape: of one value.
        fill: what a row holds that was never written.
        device: where the table lies.
    """

    def __init__(
        self, samples: int, shape: tuple[int, ...] = (), fill: float = 0.0, device: torch.device | str = "cpu"
    ) -> None:
        self.values = torch.full((samples, *shape), fill, dtype=torch.float32, device=device)
        self.written = torch.full((samples,), -1, dtype=torch.int64, device=device)  # step of the last write
        self._merged = -1  # the last step whose writes all ranks have

    def read(self, rows: Tensor) -> Tensor:
        """Values (B, *shape) of the rows (B,) of a batch."""
        return self.values[rows.to(self.values.device)]

    def write(self, rows: Tensor, values: Tensor, step: int) -> None:
        """Sets the values (B, *shape) of `rows` (B,); `step` counts batches over the training and rises with each."""
        rows = rows.to(self.values.device)
        self.values[rows] = values.detach().to(self.values)
        self.written[rows] = step

    def merge(self) -> None:
        """Gives all ranks the newest value of each row. Every rank must call it."""
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            size = max(1, _CHUNK // max(1, self.values[0].numel())) if len(self.values) else 1
            for first in range(0, len(self.values), size):
                self._merge_rows(slice(first, first + size))
        self._merged = int(self.written.max()) if len(self.written) else -1

    def _merge_rows(self, rows: slice) -> None:
        device = _exchange_device()
        written, values = self.written[rows].to(device), self.values[rows].to(device)
        newest = written.clone()
        dist.all_reduce(newest, dist.ReduceOp.MAX)
        # One rank at most has written a row since the last merge: the sum over ranks is its value.
        shape = (-1, *[1] * (self.values.dim() - 1))
        fresh = torch.where((written > self._merged).view(shape), values, 0)
        dist.all_reduce(fresh, dist.ReduceOp.SUM)
        self.values[rows] = torch.where((newest > self._merged).view(shape), fresh, values).to(self.values.device)
        self.written[rows] = newest.to(self.written.device)

    def forget_times(self) -> None:
        """Counts all that was written as written before the next step, however steps are counted from now on."""
        self.written.clamp_(max=-1)
        self._merged = -1

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint, after `merge`."""
        return {"values": self.values, "written": self.written}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError for a table of another size."""
        if state["values"].shape != self.values.shape:
            raise ValueError(f"a table of {tuple(state['values'].shape)}, not of {tuple(self.values.shape)}")
        self.values.copy_(state["values"])
        self.written.copy_(state["written"])
        self._merged = int(self.written.max()) if len(self.written) else -1


class SampleTables(dict[str, SampleTable]):
    """What is remembered of each training sample, by name."""

    _kept: dict[str, Any] | None = None

    def merge(self) -> None:
        """Gives all ranks what was written last. Every rank must call it."""
        for table in self.values():
            table.merge()

    def merged_state(self) -> dict[str, Any]:
        """For a checkpoint. Every rank must call it."""
        self.merge()
        return {name: table.state_dict() for name, table in self.items()}

    def keep(self, saved: dict[str, Any]) -> None:
        """Keeps a checkpoint's state until it is known whether the rows are still the same samples."""
        self._kept = saved

    def restore(self, other_samples: bool) -> None:
        """Puts what was kept into the tables, unless their rows are other samples now."""
        kept, self._kept = self._kept or {}, None
        for name in () if other_samples else kept.keys() & self.keys():
            self[name].load_state_dict(kept[name])

    def forget_times(self) -> None:
        """Counts all that was written as written before the next step, however steps are counted from now on."""
        for table in self.values():
            table.forget_times()


def _exchange_device() -> torch.device:
    """Where the ranks can exchange tensors: NCCL knows those on a GPU only."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")

"""Samples of training steps, kept on their device until they are written."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from en_bench.dynamics.files import ratio_column
from en_bench.dynamics.measures import Samples, losses, margins, predictions
from en_bench.norms import Norm, watching_ratios

_BATCHES_ON_DEVICE = 256  # after which they move to the host's memory: to move each would wait for each

Columns = dict[str, NDArray[Any]]
Tables = tuple[Tensor, Tensor]
"""Of samples (B, ...): row, step, target and prediction, int32; loss, margin and all ratios, float32."""


class Recording:
    """What one rank has recorded since it was last written.

    Args:
        layers: whose ratios are recorded, by qualified name.

    Attributes:
        ratios: of each layer those of the forward under way (N, K).
    """

    def __init__(self, layers: Mapping[str, Norm]) -> None:
        self._layers = dict(layers)
        self._names = {layer: name for name, layer in self._layers.items()}
        self.ratios: dict[str, Tensor] = {}
        self._batches: list[Tables] = []  # on the device
        self._moved: list[Tables] = []  # in the host's memory

    def __len__(self) -> int:
        """Samples."""
        return sum(len(batch[0]) for batch in (*self._batches, *self._moved))

    def watching(self) -> AbstractContextManager[None]:
        """A context for a step: the ratios of its forward are kept for `add`. Of several forwards the last counts."""
        self.ratios = {}
        return watching_ratios(self._keep)

    def _keep(self, layer: Norm, ratios: Tensor) -> None:
        if (name := self._names.get(layer)) is not None:
            self.ratios[name] = ratios

    def add(self, samples: Samples, step: int) -> None:
        """Records the samples of a step. Nothing waits for the device, but once in a great many steps."""
        if len(samples.row):
            self.keep(self.tables_of(samples, step))
        self.ratios = {}

    def tables_of(self, samples: Samples, step: int) -> Tables:
        """What is recorded of the samples of a step, and not yet kept."""
        row, target, logits = samples
        whole = torch.stack([row, torch.full_like(row, step), target, predictions(logits)]).int()
        ratios = [self._ratios_of(name, layer, logits) for name, layer in self._layers.items()]
        real = torch.stack([losses(logits, target), margins(logits, target)])
        return whole.T, torch.cat([real.T, *ratios], 1)

    def keep(self, tables: Tables) -> None:
        """Keeps what `tables_of` made of a step, on the device until there are many."""
        self._batches.append(tables)
        if len(self._batches) >= _BATCHES_ON_DEVICE:
            self._move()

    def _ratios_of(self, name: str, layer: Norm, logits: Tensor) -> Tensor:
        """Of each sample (B, K); NaN where the forward left the layer out, or it saw something else than samples."""
        ratios = self.ratios.get(name)
        if ratios is None or len(ratios) != len(logits):
            return logits.new_full((len(logits), len(layer.ratio_names)), torch.nan)
        return ratios.to(logits.dtype)

    def _move(self) -> None:
        if self._batches:
            tables = zip(*self._batches, strict=True)
            whole, real = (torch.cat(parts).cpu() for parts in tables)
            self._moved.append((whole, real))
            self._batches = []

    def take(self) -> Columns:
        """The columns of all that was recorded, which is forgotten."""
        self._move()
        moved, self._moved = self._moved, []
        whole, real = (torch.cat(parts).T.contiguous().numpy() for parts in zip(*moved, strict=True))
        ratios = [ratio_column(name, kind) for name, layer in self._layers.items() for kind in layer.ratio_names]
        return {
            **dict(zip(("row", "step", "target", "predicted"), whole, strict=True)),
            **dict(zip(("loss", "margin", *ratios), real, strict=True)),
        }


def layers_with_ratios(network: nn.Module) -> dict[str, Norm]:
    """The normalisers of a network whose ratios depend on the sample, by qualified name."""
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, Norm) and layer.ratio_names}

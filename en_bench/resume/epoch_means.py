"""Lightning's running values of an epoch (`log(..., on_epoch=True)`), which its checkpoints leave out."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Trainer
from torch import Tensor

_REDUCTIONS = {"mean": torch.mean, "sum": torch.sum, "max": torch.max, "min": torch.min}


def running_values(results: Any) -> list[dict[str, Any]]:
    """What was logged of an epoch on this rank so far: how, and the sum and weight (of a mean) or the value."""
    return [_saved(result) for result in results.values() if result.is_tensor and result.meta.on_epoch]


def restore_running_values(trainer: Trainer, results: Any, saved: list[dict[str, Any]]) -> None:
    """Logs the values again, as they stood."""
    if saved:
        trainer._logger_connector._first_loop_iter = False  # at the first batch of an epoch values begin anew
    device = trainer.strategy.root_device
    for entry in saved:
        value, *weight = (tensor.to(device) for tensor in entry["state"])
        results.log(
            entry["fx"],
            entry["name"],
            value,
            prog_bar=entry["prog_bar"],
            logger=entry["logger"],
            on_step=entry["on_step"],
            on_epoch=True,
            reduce_fx=_REDUCTIONS[entry["reduction"]],
            sync_dist=entry["sync_dist"],
            sync_dist_fn=trainer.strategy.reduce,
            rank_zero_only=entry["rank_zero_only"],
            batch_size=1,
        )
        result = results[f"{entry['fx']}.{entry['name']}"]
        result.value = value
        if weight:
            (result.cumulated_batch_size,) = weight


def _saved(result: Any) -> dict[str, Any]:
    meta = result.meta
    weight = [result.cumulated_batch_size] if meta.is_mean_reduction else []
    state: list[Tensor] = [tensor.detach().cpu().clone() for tensor in (result.value, *weight)]
    return {
        "fx": meta.fx,
        "name": meta.name,
        "prog_bar": meta.prog_bar,
        "logger": meta.logger,
        "on_step": meta.on_step,
        "reduction": next(name for name in _REDUCTIONS if getattr(meta, f"is_{name}_reduction")),
        "sync_dist": meta.sync.should,
        "rank_zero_only": meta.sync.rank_zero_only,
        "state": state,
    }

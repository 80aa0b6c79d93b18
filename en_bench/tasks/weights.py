"""Whether the weights of a checkpoint are those of a network."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from en_bench.errors import InputError


def require_same_weights(own: Mapping[str, Tensor], saved: Mapping[str, Tensor], backbone: str | None) -> None:
    """Raises InputError, in one line instead of a thousand, unless both have the same names and shapes.

    `backbone` is what the checkpoint says it was made with.
    """
    missing, foreign = [k for k in own if k not in saved], [k for k in saved if k not in own]
    reshaped = [k for k in own if k in saved and own[k].shape != saved[k].shape]
    differing = missing + foreign + reshaped
    if not differing:
        return
    of = f" (it was made with {backbone})" if backbone is not None else ""
    raise InputError(
        f"the checkpoint belongs to another model{of}: {len(missing)} weights are missing, {len(foreign)} unknown, "
        f"{len(reshaped)} of another shape, first {differing[0]}: use the config.yaml of its run"
    )

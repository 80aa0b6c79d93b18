"""What all normalisers share: checks, dtypes, autocast, running moments, and the way from moments to output."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from en_bench.norms.affine import apply_affine
from en_bench.norms.moments import Moments, pool_batch, sample_moments


class Norm(nn.Module, ABC):
    """A normaliser of (N, C, *spatial) feature maps, with up to three spatial dimensions or none.

    The output has the shape, dtype and memory format of the input, under autocast too; tables of shape (N, C) are
    float32 or wider. A subclass has parameters and one pure function of them, `coefficients`.

    With `running`, batch moments are used in training and running moments in evaluation, both kept as
    `torch.nn.BatchNorm2d` keeps them: the buffer holds the unbiased variance, and `momentum=None` means the cumulative
    average.

    `drop` and `act`, where set, are applied to the output. They hold what came fused with a layer that this one
    replaces, so that the other keys of its state dict stay as they were.

    Forward raises ValueError for another number of channels, another rank, or, with `running`, training on a single
    value per channel.
    """

    _version = 2  # as torch's BatchNorm: checkpoints below it hold no num_batches_tracked

    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    drop: nn.Module | None
    act: nn.Module | None

    def __init__(
        self,
        num_features: int,
        *,
        eps: float,
        rows: int | None = None,
        running: bool = False,
        momentum: float | None = None,
    ) -> None:
        """`rows`: leading dimension of weight and bias, (rows, C); None for (C,)."""
        super().__init__()
        if num_features < 1:
            raise ValueError(f"{type(self).__name__}: num_features is {num_features}, expected at least 1")
        shape = (num_features,) if rows is None else (rows, num_features)
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))
        self.register_buffer("running_mean", torch.zeros(num_features) if running else None)
        self.register_buffer("running_var", torch.ones(num_features) if running else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if running else None)
        self.drop = None
        self.act = None

    @abstractmethod
    def coefficients(self, sample: Moments, batch: Moments | None, *params: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift (N, C) of `scale * (x - sample.mean) + shift`.

        A pure function of tensors: from `self` it reads constants only. `sample` holds moments (N, C); `batch` moments
        (C,), those of the batch in training and the running ones in evaluation, None without `running`; `params` what
        `parameter_tensors` returns.
        """

    def parameter_tensors(self) -> tuple[Tensor, ...]:
        """The parameters that `coefficients` takes, in its order."""
        return self.weight, self.bias

    @property
    def tracks_running_moments(self) -> bool:
        return self.running_mean is not None

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        with without_autocast(x.device.type):
            sample = sample_moments(x)
            batch = self.batch_moments(sample)
            if batch is not None and self.training:
                self._track(batch, count=x.numel() // self.num_features)
            scale_NC, shift_NC = self.coefficients(sample, batch, *self.params_as(sample.mean.dtype))
            y: Tensor = apply_affine(x, sample.mean, scale_NC, shift_NC)
        if self.drop is not None:
            y = self.drop(y)
        if self.act is not None:
            y = self.act(y)
        return y

    def batch_moments(self, sample: Moments) -> Moments | None:
        """The `batch` that `coefficients` takes: pooled from `sample` in training, the running moments in evaluation.

        Changes no buffer.
        """
        if self.running_mean is None or self.running_var is None:
            return None
        if self.training:
            return pool_batch(sample)
        dtype = sample.mean.dtype
        return Moments(self.running_mean.to(dtype), self.running_var.to(dtype))

    def params_as(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """`parameter_tensors` in the dtype of the tables."""
        return tuple(tensor.to(dtype) for tensor in self.parameter_tensors())

    def _check(self, x: Tensor) -> None:
        name = type(self).__name__
        if not 2 <= x.ndim <= 5 or x.shape[1] != self.num_features:
            raise ValueError(
                f"{name}: expected input (N, {self.num_features}, *spatial) with 0 to 3 spatial dimensions, "
                f"got {tuple(x.shape)}"
            )
        if self.training and self.tracks_running_moments and x.numel() <= self.num_features:
            raise ValueError(
                f"{name}: training needs more than one value per channel, got {tuple(x.shape)}: "
                "use a larger batch (drop a short last one) or eval()"
            )

    @torch.no_grad()
    def _track(self, batch: Moments, count: int) -> None:
        """Moves the running moments towards those of a batch of `count` values per channel."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        unbiased = batch.var * (count / (count - 1))
        for running, new in ((self.running_mean, batch.mean), (self.running_var, unbiased)):
            # The cumulative average's rate stays a tensor: reading it would wait for the device.
            rate = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked.to(running.dtype)
            running.add_((new.to(running.dtype) - running) * rate)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        key = prefix + "num_batches_tracked"
        if self.num_batches_tracked is not None and (local_metadata.get("version") or 0) < 2 and key not in state_dict:
            state_dict[key] = self.num_batches_tracked
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def extra_repr(self) -> str:
        momentum = f", momentum={self.momentum}" if self.tracks_running_moments else ""
        return f"{self.num_features}, eps={self.eps}{momentum}"


def without_autocast(device_type: str) -> AbstractContextManager[object]:
    """A context in which autocast is off, whatever it is outside."""
    # Some device types, meta among them, know no autocast and refuse the question.
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()

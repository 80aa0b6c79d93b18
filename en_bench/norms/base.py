"""What all normalisers share: checks, dtypes, autocast, running moments, and the way from moments to output."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from en_bench.norms import fused, programs
from en_bench.norms.affine import apply_affine
from en_bench.norms.autocast import out_of_reach, without_autocast
from en_bench.norms.moments import Moments, pool_batch, sample_moments, table_dtype
from en_bench.norms.sync import PoolOverRanks, Ranks


class Norm(nn.Module, ABC):
    """A normaliser of (N, C, *spatial) feature maps, with up to three spatial dimensions or none.

    The output has the shape, dtype and memory format of the input, under autocast too; tables of shape (N, C) are
    float32 or wider. A subclass has parameters and one pure function of them, `coefficients`.

    With `running`, batch moments are used in training and running moments in evaluation, both kept as
    `torch.nn.BatchNorm2d` keeps them: the buffer holds the unbiased variance, and `momentum=None` means the cumulative
    average. With `sync`, the batch is that of all ranks there are, each with as many samples and positions as it has.

    `drop` and `act`, where set, are applied to the output. They hold what came fused with a layer that this one
    replaces, so that the other keys of its state dict stay as they were.

    Forward raises ValueError for another number of channels, another rank, or, with `running`, training on a single
    value per channel.
    """

    _version = 2  # as torch's BatchNorm: checkpoints below it hold no num_batches_tracked

    sample_correction = 0  # the variance of a sample is divided by the number of positions less this
    reads_samples = True  # False where the output depends on moments of samples through those of the batch alone

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
        sync: bool = False,
    ) -> None:
        """`rows`: leading dimension of weight and bias, (rows, C); None for (C,)."""
        super().__init__()
        if num_features < 1:
            raise ValueError(f"{type(self).__name__}: num_features is {num_features}, expected at least 1")
        shape = (num_features,) if rows is None else (rows, num_features)
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.sync = sync
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

        A pure function of tensors, of any N and C, that is compiled once for all layers of a kind: from `self` it reads
        constants only, hashable attributes. `sample` holds moments (N, C); `batch` moments (C,), those of the batch in
        training and the running ones in evaluation, None without `running`; `params` what `parameter_tensors` returns.
        """

    @property
    def ratio_names(self) -> tuple[str, ...]:
        """What each sample's ratios mix, K names; none where the mixture is the same for all samples."""
        return ()

    def sample_ratios(self, sample: Moments, batch: Moments | None, *params: Tensor) -> Tensor:
        """The ratios (N, K) by which `coefficients` mixes `ratio_names`, a pure function of the same tensors."""
        raise NotImplementedError(f"{type(self).__name__} has no ratios of each sample")

    def parameter_tensors(self) -> tuple[Tensor, ...]:
        """The parameters that `coefficients` takes, in its order."""
        return self.weight, self.bias

    def width_dims(self) -> tuple[tuple[int, ...], ...]:
        """The dimensions of each of `parameter_tensors` whose size depends on the number of channels.

        Code is compiled once for any size of these, and anew for another size of the others. Here those of size C.
        """
        return tuple(
            tuple(i for i, size in enumerate(tensor.shape) if size == self.num_features)
            for tensor in self.parameter_tensors()
        )

    def program(self) -> programs.Program | None:
        """What `coefficients` computes as a program of the C++ library, for normalisers that have one."""
        return None

    @property
    def tracks_running_moments(self) -> bool:
        return self.running_mean is not None

    def forward(self, x: Tensor) -> Tensor:
        given: Any = x
        if isinstance(given, torch.fx.Proxy):  # a leaf of symbolic traces, as the layers of torch.nn are
            tracer: Any = given.tracer
            leaf: Tensor = tracer.create_proxy("call_module", tracer.path_of_module(self), (given,), {})
            return leaf
        self._check(x)
        pooling = self.training and self.tracks_running_moments
        batch = None if pooling else self.running_moments(torch.promote_types(x.dtype, torch.float32))
        pooled: tuple[Moments, Tensor | None] | None = None
        if fused.serves(x):
            ranks = Ranks.there_are() if pooling and self.sync else None
            program = programs.program_for(self, x) if ranks is None else None
            if program is not None:
                y = fused.run(self, program, x, batch)
            else:
                y, pooled = fused.normalise(self, x, batch, ranks)
        else:
            y, pooled = self.plain(x, batch, self.parameter_tensors())
        if pooled is not None:
            moments, count = pooled
            self.track(moments, x.numel() // self.num_features if count is None else count)
        if self.drop is not None:
            y = self.drop(y)
        if self.act is not None:
            y = self.act(y)
        return y

    def plain(
        self, x: Tensor, batch: Moments | None, params: Sequence[Tensor]
    ) -> tuple[Tensor, tuple[Moments, Tensor | None] | None]:
        """What `fused.normalise` returns, in differentiable PyTorch that compilers, exporters and transforms read.

        With running moments and no `batch`, it is pooled from `x`.
        """
        dtype = out_of_reach(table_dtype(x), x.device.type)
        with without_autocast(x.device.type):
            mean, var = sample_moments(x)
            positions = math.prod(x.shape[2:])
            sample, count, pooled = Moments(mean, self.corrected(var, positions)), None, None
            if self.tracks_running_moments and batch is None:
                ranks = Ranks.there_are() if self.sync else None
                if ranks is None:
                    batch = pool_batch(sample)
                else:
                    *moments, count = PoolOverRanks.apply(ranks, *sample, positions)
                    batch = Moments(*moments)
                pooled = batch, count
            given = None if batch is None else batch.to(dtype)
            scale_NC, shift_NC = self.coefficients(sample.to(dtype), given, *(tensor.to(dtype) for tensor in params))
            return apply_affine(x, mean, scale_NC.to(mean.dtype), shift_NC.to(mean.dtype)), pooled

    def running_moments(self, dtype: torch.dtype) -> Moments | None:
        """The running mean and variance (C,) in `dtype`; None where none are kept."""
        if self.running_mean is None or self.running_var is None:
            return None
        copy = torch.is_grad_enabled()  # backward must not meet buffers that training has moved meanwhile
        return Moments(self.running_mean.to(dtype, copy=copy), self.running_var.to(dtype, copy=copy))

    def batch_moments(self, sample: Moments) -> Moments | None:
        """The `batch` that `coefficients` takes: pooled from `sample` in training, the running moments in evaluation.

        Changes no buffer, and knows this process's samples alone.
        """
        if self.training and self.tracks_running_moments:
            return pool_batch(sample)
        return self.running_moments(sample.mean.dtype)

    def params_as(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """`parameter_tensors` in the dtype of the tables."""
        return tuple(tensor.to(dtype) for tensor in self.parameter_tensors())

    def corrected(self, var: Tensor, positions: int) -> Tensor:
        """The variance of each sample that `coefficients` and pooling see, from the population variance."""
        if self.sample_correction == 0:
            return var
        return var * (positions / (positions - self.sample_correction))

    def _check(self, x: Tensor) -> None:
        name = type(self).__name__
        if not 2 <= x.ndim <= 5 or x.shape[1] != self.num_features:
            raise ValueError(
                f"{name}: expected input (N, {self.num_features}, *spatial) with 0 to 3 spatial dimensions, "
                f"got {tuple(x.shape)}"
            )
        positions = math.prod(x.shape[2:])
        if self.sample_correction and positions <= self.sample_correction:
            raise ValueError(f"{name}: {positions} position per channel has no unbiased variance, got {tuple(x.shape)}")
        if not (self.training and self.tracks_running_moments) or x.shape[0] * positions > 1:
            return
        if positions == 0 or not self.sync or Ranks.there_are() is None:
            raise ValueError(
                f"{name}: training needs more than one value per channel, got {tuple(x.shape)}: "
                "use a larger batch (drop a short last one) or eval()"
            )

    @torch.no_grad()
    def track(self, batch: Moments, count: int | Tensor) -> None:
        """Moves the running moments towards those of a batch of `count` values per channel."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        unbiased = batch.var if self.sample_correction else batch.var * (count / (count - 1))
        for running, new in ((self.running_mean, batch.mean), (self.running_var, unbiased)):
            # The cumulative average's rate stays a tensor: reading it would wait for the device.
            rate = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked.to(running.dtype)
            running.lerp_(new.to(running.dtype), rate)

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

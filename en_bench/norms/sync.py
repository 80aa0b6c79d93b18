"""Batch moments over all ranks of a process group, and the way back.

Shape suffixes: N sample, C channel, R rank.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from en_bench.norms.moments import Moments, pool_batch


@dataclass(frozen=True)
class Ranks:
    """The ranks whose samples make one batch. Each may have its own number of samples and of positions."""

    group: dist.ProcessGroup | None = None

    @staticmethod
    def there_are() -> "Ranks | None":
        """Those of the default process group, or None where this process is alone: its own samples are the batch."""
        together = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        return Ranks() if together else None

    def pool(self, sample: Moments, positions: int) -> tuple[Moments, Tensor]:
        """Moments (C,) over all ranks' samples and positions, and the number of values per channel (1,).

        From the moments of this rank's samples, (N, C) over `positions` each, by the law of total variance.
        """
        values = sample.mean.shape[0] * positions
        # A rank without a sample takes part all the same: the others wait for it.
        mean_C, var_C = pool_batch(sample) if values else sample.mean.new_zeros(2, sample.mean.shape[1])
        own_1 = torch.cat((mean_C, var_C, mean_C.new_full((1,), values))).unsqueeze(0)
        every_R = own_1.new_empty(dist.get_world_size(self.group), own_1.shape[1])
        dist.all_gather_into_tensor(every_R, own_1, group=self.group)
        mean_RC, var_RC = every_R[:, :-1].chunk(2, 1)
        return pool_ranks(mean_RC, var_RC, every_R[:, -1:])

    def derivative(
        self, d_batch: Moments, batch: Moments, sample: Moments, positions: int, count: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Derivatives (N, C) of the sum of all ranks' losses by this rank's means and variances, through `pool`.

        `d_batch` are those of this rank's loss by the pooled moments.
        """
        both = torch.cat(d_batch)
        dist.all_reduce(both, group=self.group)
        d_mean_C, d_var_C = (both * (positions / count)).chunk(2)
        return d_mean_C + 2 * d_var_C * (sample.mean - batch.mean), d_var_C.expand_as(sample.var)


def pool_ranks(mean_RC: Tensor, var_RC: Tensor, count_R1: Tensor) -> tuple[Moments, Tensor]:
    """Moments (C,) over all ranks, each of which weighs as many values as it counts, and their number (1,).

    A rank that counts none may hold anything finite.
    """
    count = count_R1.sum(0)
    share_R1 = count_R1 / count
    # Around one of them, since a sum of large means would round; the largest rank's, as an empty rank's is no mean.
    origin_1C = mean_RC[count_R1.argmax(0)]
    apart_RC = mean_RC - origin_1C
    pooled_C = (share_R1 * apart_RC).sum(0)
    spread_RC = var_RC + (apart_RC - pooled_C).square()
    return Moments(origin_1C[0] + pooled_C, (share_R1 * spread_RC).sum(0)), count


class PoolOverRanks(torch.autograd.Function):
    """`Ranks.pool` for the plain formulation, once differentiable: (ranks, mean, var, positions) -> moments, count."""

    @staticmethod
    def forward(ctx: Any, ranks: Ranks, mean: Tensor, var: Tensor, positions: int) -> tuple[Tensor, Tensor, Tensor]:
        batch, count = ranks.pool(Moments(mean, var), positions)
        ctx.ranks, ctx.positions = ranks, positions
        ctx.save_for_backward(mean, var, *batch, count)
        ctx.mark_non_differentiable(count)
        return (*batch, count)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_mean: Tensor, d_var: Tensor, _: Any) -> tuple[Any, ...]:
        mean, var, batch_mean, batch_var, count = ctx.saved_tensors
        batch, sample = Moments(batch_mean, batch_var), Moments(mean, var)
        found = ctx.ranks.derivative(Moments(d_mean, d_var), batch, sample, ctx.positions, count)
        return (None, *found, None)

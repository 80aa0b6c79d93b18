"""Mixtures of normalisers as one would write them without thinking of their cost: what is otherwise paid.

Each has the parameters, buffers and state-dict keys of our layer and computes the same. They use torch's fused
operators where a user would find one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from en_bench.norms.exemplar import ExemplarNorm, ratios, relations
from en_bench.norms.switchable import SwitchNorm


class ObviousExemplarNorm(nn.Module):
    """`ExemplarNorm` as three normalised maps, each by torch's own operator, that are weighted and added.

    (N, C, H, W) -> (N, C, H, W). Source: arXiv 2003.08761, section 3.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        ours = ExemplarNorm(num_features)
        self.eps, self.momentum = ours.eps, 0.1
        self.weight, self.bias, self.gate = ours.weight, ours.bias, ours.gate
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked.add_(1)
        moments = self.running_mean, self.running_var
        maps_K = (
            F.instance_norm(x, eps=self.eps),
            F.group_norm(x, 1, eps=self.eps),
            F.batch_norm(x, *moments, training=self.training, momentum=self.momentum, eps=self.eps),
        )
        ratio_NK = self._ratios(torch.stack([xhat.mean((2, 3)) for xhat in maps_K], 1))
        terms = []
        for k, xhat in enumerate(maps_K):
            # Parameters in the dtype of the map, or each product would be a map of fp32.
            weight_C11, bias_C11 = (row[k].to(x.dtype)[:, None, None] for row in (self.weight, self.bias))
            terms.append(ratio_NK[:, k, None, None, None] * (weight_C11 * xhat + bias_C11))
        # The first operand decides the memory format, and torch's InstanceNorm gives contiguous maps.
        return terms[2] + terms[1] + terms[0]

    def _ratios(self, xhat_NKC: Tensor) -> Tensor:
        gate = self.gate
        assert gate.reduce is not None
        with torch.autocast(xhat_NKC.device.type, enabled=False):
            related = relations(xhat_NKC.to(gate.fc1.weight.dtype), gate.reduce.weight, gate.reduce.bias)
            layers = (gate.fc1.weight, gate.fc1.bias, gate.fc2.weight, gate.fc2.bias)
            return ratios(related, *layers).to(xhat_NKC.dtype)


class ObviousSwitchNorm(nn.Module):
    """`SwitchNorm(official=True)` in the elementary operators of its released code.

    (N, C, H, W) -> (N, C, H, W). Second moments of the samples are averaged over channels and over the batch; the mixed
    mean is subtracted and the rest divided, over the whole map. Source: Luo et al., ICLR 2019, equations 2 and 3.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        ours = SwitchNorm(num_features, official=True)
        self.eps, self.momentum = ours.eps, 0.1
        self.weight, self.bias = ours.weight, ours.bias
        self.mean_weight, self.var_weight = ours.mean_weight, ours.var_weight
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.zeros(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        instance = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True)
        second = instance[1] + instance[0].square()
        layer = _pooled(instance[0], second, 1)
        batch = _pooled(instance[0], second, 0) if self.training else self._running(x.dtype)
        if self.training:
            self._track(*batch)
        mean = _mixed(self.mean_weight, instance[0], layer[0], batch[0])
        var = _mixed(self.var_weight, instance[1], layer[1], batch[1])
        xhat = (x - mean) / torch.sqrt(var + self.eps)
        return xhat * self.weight.to(x.dtype)[:, None, None] + self.bias.to(x.dtype)[:, None, None]

    def _running(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        mean, var = (buffer.to(dtype)[:, None, None] for buffer in (self.running_mean, self.running_var))
        return mean, var

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor) -> None:
        self.num_batches_tracked.add_(1)
        for running, new in ((self.running_mean, mean), (self.running_var, var)):
            running.lerp_(new.flatten().to(running.dtype), self.momentum)


def _pooled(mean: Tensor, second: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    pooled = mean.mean(dim, keepdim=True)
    return pooled, second.mean(dim, keepdim=True) - pooled.square()


def _mixed(logits_K: Tensor, *values_K: Tensor) -> Tensor:
    share_K = logits_K.softmax(0).to(values_K[0].dtype)
    return share_K[0] * values_K[0] + share_K[1] * values_K[1] + share_K[2] * values_K[2]

"""Exemplar normalisation: the mixture of normalisers is computed anew for every sample.

Shape suffixes: N sample, K normaliser, C channel, F feature, G group of the gate's reduction.
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from en_bench.norms.autocast import without_autocast
from en_bench.norms.base import Norm
from en_bench.norms.moments import Moments, pool_groups, sample_moments
from en_bench.norms.programs import BATCH, GROUP, INSTANCE, Program

Normalizer = Literal["in", "ln", "bn"]
Activation = Literal["tanh", "relu"]
GateKind = Literal["relation", "mlp2", "mlp3"]

_KINDS = {"in": INSTANCE, "ln": GROUP, "bn": BATCH}
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": torch.relu}


class Gate(nn.Module):
    """The parameters of a gate, with the initialisation of torch's own layers; `ratios` does the arithmetic."""

    def __init__(
        self, kind: GateKind, num_features: int, kinds: int, reduction: int, hidden: int, reduce: bool
    ) -> None:
        super().__init__()
        reduced, units = _reduced_channels(num_features, reduction), hidden * kinds
        widths = {
            "relation": (kinds * kinds, units, kinds),
            "mlp2": (num_features, units, kinds),
            "mlp3": (num_features, reduced, units, kinds),
        }[kind]
        self.reduce: nn.Conv1d | None = None
        if kind == "relation" and reduce:
            self.reduce = nn.Conv1d(num_features, reduced, kernel_size=1, groups=reduced)
        self.fc1 = nn.Linear(widths[0], widths[1])
        self.fc2 = nn.Linear(widths[1], widths[2])
        self.fc3 = nn.Linear(widths[2], widths[3]) if kind == "mlp3" else None

    @property
    def layers(self) -> tuple[nn.Linear, ...]:
        """fc1, fc2 and so on; the last one gives the logits."""
        return (self.fc1, self.fc2) if self.fc3 is None else (self.fc1, self.fc2, self.fc3)


def relations(xhat_NKC: Tensor, reduce_weight: Tensor | None = None, reduce_bias: Tensor | None = None) -> Tensor:
    """Inner products (N, K * K) of every pair of normalisers, over channels that are reduced by groups before.

    `xhat_NKC` holds the pooled features as each normaliser standardises them, `reduce_weight` is (G, C / G, 1); without
    it all channels are kept. Source: arXiv 2003.08761, section 3.2.
    """
    z_NKG = xhat_NKC
    if reduce_weight is not None and reduce_bias is not None:
        per_group = reduce_weight.squeeze(2)  # (G, C/G)
        z_NKG = (xhat_NKC.reshape(*xhat_NKC.shape[:2], *per_group.shape) * per_group).sum(3) + reduce_bias
    # Not a matrix product: for K x K values one costs more than it computes, and cannot be fused with its neighbours.
    return (z_NKG.unsqueeze(1) * z_NKG.unsqueeze(2)).sum(3).flatten(1)


def ratios(features_NF: Tensor, *layers: Tensor, activation: Activation = "tanh") -> Tensor:
    """Mixing ratios (N, K), each row summing to 1: linear layers, an activation between them, and a softmax.

    `layers` are weight and bias of each layer in turn. Source: arXiv 2003.08761, section 3.2.
    """
    *inner, last = zip(layers[::2], layers[1::2], strict=True)
    for weight, bias in inner:
        features_NF = _ACTIVATIONS[activation](F.linear(features_NF, weight, bias))
    return F.linear(features_NF, *last).softmax(1)


class ExemplarNorm(Norm):
    """Exemplar normalisation: K normalisers' *outputs*, mixed by ratios that depend on the sample

        y = sum_k ratio_k * (weight_k * (x - mean_k) / sqrt(var_k + eps) + bias_k).

    The ratios come from a gate on the spatial mean of x as each normaliser standardises it. For IN that is 0 by
    construction; it is kept, as the gate's bias still tells it apart. Evaluation uses running moments for BN, in the
    gate as in the mixture. With `sync`, BN's batch is that of all ranks. Source: arXiv 2003.08761 (CVPR 2020), section
    3.

    `reduction` and `hidden` are the paper's r and pi: the gate reduces C channels to G, the largest divisor of C not
    above max(1, C // r), relates all pairs of normalisers by inner products over them, and passes these K * K numbers
    through a layer of hidden * K units. `shared_affine` gives all normalisers one weight and bias, (1, C) instead of
    (K, C). `normalizers`, `activation`, `reduce`, `shared_affine` and `gate` are the paper's ablations.

    `gate="mlp2"` and `"mlp3"` are plain MLPs on the spatial mean of x itself, as conditional batch normalisation has
    one, instead of relations: C -> hidden * K -> K, without a use for `reduction`, and C -> G -> hidden * K -> K.

    Raises ValueError for normalizers that are empty, repeated or unknown, and for reduce=False without relations.
    """

    def __init__(
        self,
        num_features: int,
        normalizers: Sequence[Normalizer] = ("in", "ln", "bn"),
        reduction: int = 32,
        hidden: int = 50,
        activation: Activation = "tanh",
        reduce: bool = True,
        shared_affine: bool = False,
        gate: GateKind = "relation",
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        sync: bool = False,
    ) -> None:
        known = get_args(Normalizer)
        if not normalizers or len(set(normalizers)) < len(normalizers) or not set(normalizers) <= set(known):
            raise ValueError(f"ExemplarNorm: normalizers {tuple(normalizers)}, expected some of {known}, each once")
        if activation not in _ACTIVATIONS:
            raise ValueError(f"ExemplarNorm: activation {activation!r}, expected one of {tuple(_ACTIVATIONS)}")
        if gate not in get_args(GateKind):
            raise ValueError(f"ExemplarNorm: gate {gate!r}, expected one of {get_args(GateKind)}")
        if reduction < 1 or hidden < 1:
            raise ValueError(f"ExemplarNorm: reduction {reduction} and hidden {hidden} must be at least 1")
        if gate != "relation" and not reduce:
            raise ValueError(f"ExemplarNorm: reduce=False says how to relate all channels, gate {gate!r} relates none")
        kinds = len(normalizers)
        super().__init__(
            num_features,
            eps=eps,
            rows=1 if shared_affine else kinds,
            running="bn" in normalizers,
            momentum=momentum,
            sync=sync,
        )
        self.normalizers = tuple(normalizers)
        self.activation: Activation = activation
        self.gate_kind: GateKind = gate
        self.gate = Gate(gate, num_features, kinds, reduction, hidden, reduce)

    def parameter_tensors(self) -> tuple[Tensor, ...]:
        """weight and bias, those of each of the gate's linear layers, and those of its reduction if it has one."""
        layers = [tensor for layer in self.gate.layers for tensor in (layer.weight, layer.bias)]
        if self.gate.reduce is None:
            return self.weight, self.bias, *layers
        assert self.gate.reduce.bias is not None
        return self.weight, self.bias, *layers, self.gate.reduce.weight, self.gate.reduce.bias

    def width_dims(self) -> tuple[tuple[int, ...], ...]:
        affine: tuple[tuple[int, ...], ...] = ((1,), (1,))
        if self.gate_kind == "mlp2":
            return *affine, (1,), (), (), ()
        if self.gate_kind == "mlp3":
            return *affine, (0, 1), (0,), (1,), (), (), ()
        return *affine, (), (), (), (), *(() if self.gate.reduce is None else ((0, 1), (0,)))

    def coefficients(self, sample: Moments, batch: Moments | None, *params: Tensor) -> tuple[Tensor, Tensor]:
        weight_KC, bias_KC, *gate = params
        xhat_NKC, inv_NKC = self._standardised(sample, batch)
        ratio_NK1 = self._ratios(sample.mean, xhat_NKC, gate).unsqueeze(2)
        scale_NC = (ratio_NK1 * weight_KC * inv_NKC).sum(1)
        shift_NC = (ratio_NK1 * (bias_KC + weight_KC * xhat_NKC)).sum(1)
        return scale_NC, shift_NC

    @property
    def ratio_names(self) -> tuple[str, ...]:
        return self.normalizers

    def sample_ratios(self, sample: Moments, batch: Moments | None, *params: Tensor) -> Tensor:
        _, _, *gate = params
        xhat_NKC, _ = self._standardised(sample, batch)
        return self._ratios(sample.mean, xhat_NKC, gate)

    def program(self) -> Program | None:
        if self.gate_kind != "relation":
            return None
        return Program(
            tuple(_KINDS[normalizer] for normalizer in self.normalizers),
            hidden=self.gate.fc1.out_features,
            reduced=0 if self.gate.reduce is None else self.gate.reduce.out_channels,
            relu=self.activation == "relu",
            shared_affine=len(self.weight) < len(self.normalizers),
        )

    @torch.no_grad()
    def ratios(self, x: Tensor) -> Tensor:
        """The ratios (N, K) that forward would use for `x` in the present mode; changes no buffer."""
        with without_autocast(x.device.type):
            sample = sample_moments(x)
            return self.sample_ratios(sample, self.batch_moments(sample), *self.params_as(sample.mean.dtype))

    def _ratios(self, pooled_NC: Tensor, xhat_NKC: Tensor, gate: Sequence[Tensor]) -> Tensor:
        if self.gate_kind != "relation":
            return ratios(pooled_NC, *gate, activation=self.activation)
        layers, reduction = gate[:4], gate[4:]
        return ratios(relations(xhat_NKC, *reduction), *layers, activation=self.activation)

    def _standardised(self, sample: Moments, batch: Moments | None) -> tuple[Tensor, Tensor]:
        """The pooled input as each normaliser standardises it, and 1 / sqrt(var + eps) of each: both (N, K, C)."""
        chosen = [self._moments_of(normalizer, sample, batch) for normalizer in self.normalizers]
        mean_NKC, var_NKC = (
            torch.stack([table.expand_as(sample.mean) for table in t], 1) for t in zip(*chosen, strict=True)
        )
        inv_NKC = torch.rsqrt(var_NKC + self.eps)
        return (sample.mean.unsqueeze(1) - mean_NKC) * inv_NKC, inv_NKC

    @staticmethod
    def _moments_of(normalizer: Normalizer, sample: Moments, batch: Moments | None) -> Moments:
        if normalizer == "in":
            return sample
        if normalizer == "ln":
            return pool_groups(sample, 1)
        assert batch is not None
        return batch

    def extra_repr(self) -> str:
        gate = f"gate={self.gate_kind}"
        if self.gate_kind == "relation":
            gate = f"reduced={'none' if self.gate.reduce is None else self.gate.reduce.out_channels}"
        shared = ", shared_affine" if len(self.weight) < len(self.normalizers) else ""
        return (
            f"{super().extra_repr()}, normalizers={'+'.join(self.normalizers)}, {gate}, "
            f"activation={self.activation}{shared}"
        )


def _reduced_channels(channels: int, reduction: int) -> int:
    """The largest divisor of `channels` that is not above max(1, channels // reduction)."""
    return next(d for d in range(max(1, channels // reduction), 0, -1) if channels % d == 0)

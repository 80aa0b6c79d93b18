"""Every normaliser once more, from its paper's equations, on whole maps (N, C, H, W).

Each function computes from x what a layer does in its present mode; it reads the parameters and buffers of the layer,
and shares no arithmetic with it.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from en_bench.norms import ConditionalBatchNorm, ExemplarNorm, Norm, SparseSwitchNorm, SwitchNorm

DIMS = {"in": (2, 3), "ln": (1, 2, 3), "bn": (0, 2, 3)}


def per_channel(vector: Tensor) -> Tensor:
    return vector[None, :, None, None]


def moments(layer: Norm, kind: str, x: Tensor, correction: int = 0) -> tuple[Tensor, Tensor]:
    if kind == "bn" and not layer.training:
        return per_channel(layer.running_mean), per_channel(layer.running_var)
    return x.mean(DIMS[kind], keepdim=True), x.var(DIMS[kind], correction=correction, keepdim=True)


def standardised(layer: Norm, kind: str, x: Tensor) -> Tensor:
    mean, variance = moments(layer, kind, x)
    return (x - mean) / torch.sqrt(variance + layer.eps)


def single(kind: str) -> Any:
    return lambda layer, x: per_channel(layer.weight) * standardised(layer, kind, x) + per_channel(layer.bias)


def group_norm(layer: Any, x: Tensor) -> Tensor:
    parts = x.chunk(layer.groups, 1)
    return per_channel(layer.weight) * torch.cat([standardised(layer, "ln", p) for p in parts], 1) + per_channel(
        layer.bias
    )


def batch_instance_norm(layer: Any, x: Tensor) -> Tensor:
    """Nam & Kim, section 3, with rho mirrored at 0 and 1."""
    rho = per_channel(1 - (1 - layer.rho.remainder(2)).abs())
    mixed = rho * standardised(layer, "bn", x) + (1 - rho) * standardised(layer, "in", x)
    return per_channel(layer.weight) * mixed + per_channel(layer.bias)


def mixed_statistics(layer: Any, x: Tensor, mean_share: Tensor, var_share: Tensor) -> Tensor:
    """Luo et al., equation 2."""
    pairs = [moments(layer, kind, x) for kind in DIMS]
    mean = sum(share * pair[0] for share, pair in zip(mean_share, pairs, strict=True))
    variance = sum(share * pair[1] for share, pair in zip(var_share, pairs, strict=True))
    return per_channel(layer.weight) * (x - mean) / torch.sqrt(variance + layer.eps) + per_channel(layer.bias)


def exponential_shares(logits: Tensor) -> Tensor:
    return torch.exp(logits) / torch.exp(logits).sum()


def switch_norm(layer: SwitchNorm, x: Tensor) -> Tensor:
    shares = (exponential_shares(logits) for logits in (layer.mean_weight, layer.var_weight))
    return mixed_statistics(layer, x, *shares)


def released_switch_norm(layer: SwitchNorm, x: Tensor) -> Tensor:
    """The released code: second moments of samples, from unbiased variances, averaged over channels and the batch."""
    mean_in = x.mean((2, 3))
    variance_in = ((x - mean_in[:, :, None, None]) ** 2).sum((2, 3)) / (x.shape[2] * x.shape[3] - 1)
    second = variance_in + mean_in**2
    mean_ln = mean_in.mean(1)[:, None]
    variance_ln = second.mean(1)[:, None] - mean_ln**2
    mean_bn, variance_bn = layer.running_mean[None], layer.running_var[None]
    if layer.training:
        mean_bn = mean_in.mean(0)[None]
        variance_bn = second.mean(0)[None] - mean_bn**2
    a, b = exponential_shares(layer.mean_weight), exponential_shares(layer.var_weight)
    mean = a[0] * mean_in + a[1] * mean_ln + a[2] * mean_bn
    variance = b[0] * variance_in + b[1] * variance_ln + b[2] * variance_bn
    xhat = (x - mean[:, :, None, None]) / torch.sqrt(variance + layer.eps)[:, :, None, None]
    return xhat * per_channel(layer.weight) + per_channel(layer.bias)


def sparsemax(logits: Tensor) -> Tensor:
    """Martins & Astudillo 2016, algorithm 1."""
    ordered = sorted(logits, reverse=True)
    support = max(k for k in range(1, len(ordered) + 1) if 1 + k * ordered[k - 1] > sum(ordered[:k]))
    threshold = (sum(ordered[:support]) - 1) / support
    return torch.stack([z - threshold if z > threshold else 0 * z for z in logits])


def sparsestmax(logits: Tensor, radius: float) -> tuple[Tensor, str]:
    """Shao et al., section 3, for a radius in the simplex's own units; and which of the cases it was."""
    centre = torch.full_like(logits, 1 / 3)
    p0 = sparsemax(logits)
    if radius == 0:
        return p0, "sparsemax"
    if torch.dist(p0, centre) >= radius:
        return p0, "outside"
    p1 = centre + radius * (p0 - centre) / torch.dist(p0, centre)
    if p1.min() >= 0:
        return p1, "circle"
    # On the edge that is left: its middle is the centre of a smaller circle.
    p2 = sparsemax(p1)
    on = torch.zeros_like(logits)
    on[p1.topk(2).indices] = 1
    middle = on / 2
    smaller = math.sqrt(radius**2 - float(((middle - centre) ** 2).sum()))
    return middle + smaller * (p2 - middle) / torch.dist(p2, middle), "edge"


def sparse_switch_norm(layer: SparseSwitchNorm, x: Tensor) -> Tensor:
    radius = float(layer.radius) * math.sqrt(2 / 3)
    shares = (sparsestmax(logits, radius)[0] for logits in (layer.mean_weight, layer.var_weight))
    return mixed_statistics(layer, x, *shares)


def mlp(features: Tensor, layers: Sequence[tuple[Tensor, Tensor]], activation: str) -> Tensor:
    for i, (weight, bias) in enumerate(layers):
        features = weight @ features + bias
        if i < len(layers) - 1:
            features = torch.tanh(features) if activation == "tanh" else features.clamp_min(0)
    return features


def exemplar_norm(layer: ExemplarNorm, x: Tensor) -> Tensor:
    return exemplar_norm_and_ratios(layer, x)[0]


def exemplar_norm_and_ratios(layer: ExemplarNorm, x: Tensor) -> tuple[Tensor, Tensor]:
    """Zhang et al., section 3, steps 1 to 6; and the ratios (N, K)."""
    state = dict(layer.named_parameters())
    names = [f"gate.fc{i}" for i in (1, 2, 3) if f"gate.fc{i}.weight" in state]
    layers = [(state[f"{name}.weight"], state[f"{name}.bias"]) for name in names]
    normalised, pooled = [], []
    for kind in layer.normalizers:
        mean, variance = moments(layer, kind, x)
        normalised.append(standardised(layer, kind, x))
        pooled.append(((x.mean((2, 3), keepdim=True) - mean) / torch.sqrt(variance + layer.eps))[:, :, 0, 0])
    outputs, ratios = [], []
    for n in range(len(x)):
        if layer.gate_kind == "relation":
            features = [xhat[n] for xhat in pooled]
            if "gate.reduce.weight" in state:
                weight, bias = state["gate.reduce.weight"], state["gate.reduce.bias"]
                size = weight.shape[1]
                features = [
                    torch.stack(
                        [xhat[g * size : (g + 1) * size] @ weight[g, :, 0] + bias[g] for g in range(len(weight))]
                    )
                    for xhat in features
                ]
            relations = torch.stack([a @ b for a in features for b in features])
        else:
            relations = x[n].mean((1, 2))
        ratio = exponential_shares(mlp(relations, layers, layer.activation))
        ratios.append(ratio)
        rows = [min(k, len(layer.weight) - 1) for k in range(len(ratio))]
        outputs.append(
            sum(
                ratio[k] * (layer.weight[row][:, None, None] * normalised[k][n] + layer.bias[row][:, None, None])
                for k, row in enumerate(rows)
            )
        )
    return torch.stack(outputs), torch.stack(ratios)


def conditional_batch_norm(layer: ConditionalBatchNorm, x: Tensor) -> Tensor:
    """De Vries et al., with the pooled features for the question."""
    heads = [(layer.mlp.fc1, head) for head in (layer.mlp.gamma, layer.mlp.beta)]
    outputs = []
    for xhat, features in zip(standardised(layer, "bn", x), x.mean((2, 3)), strict=True):
        gamma, beta = (mlp(features, [(part.weight, part.bias) for part in head], "relu") for head in heads)
        outputs.append((layer.weight + gamma)[:, None, None] * xhat + (layer.bias + beta)[:, None, None])
    return torch.stack(outputs)

"""Conditional batch normalisation: an affine map that is predicted for every sample."""

import torch.nn.functional as F
from torch import Tensor, nn

from en_bench.norms.affine import standardise
from en_bench.norms.base import Norm
from en_bench.norms.moments import Moments


class AffinePredictor(nn.Module):
    """The parameters of a two-layer MLP with one output layer for weights (gamma) and one for biases (beta)."""

    def __init__(self, num_features: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(num_features, hidden)
        self.gamma = nn.Linear(hidden, num_features)
        self.beta = nn.Linear(hidden, num_features)
        for layer in (self.gamma, self.beta):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


class ConditionalBatchNorm(Norm):
    """Batch normalisation with an affine map of each sample's own

        y = (weight + dw(xbar)) * (x - mean_BN) / sqrt(var_BN + eps) + bias + db(xbar),

    where xbar (N, C) is the spatial mean of x, and dw, db come from one MLP, C -> `hidden` -> ReLU -> C each. Its
    output layers start at 0, so that the layer starts as BatchNorm. This is the baseline that the paper of Exemplar
    Normalization argues against: an MLP has 3 * C * hidden weights here, which overfit; EN's gate has C + 1,800.

    Evaluation uses running moments. Source: de Vries et al., "Modulating early visual processing by language", NIPS
    2017, which predicts the changes from an embedding of a question; here from the features themselves, as
    arXiv 2003.08761 (CVPR 2020), section 1, has it. Raises ValueError for hidden below 1.
    """

    def __init__(
        self,
        num_features: int,
        hidden: int = 64,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        sync: bool = False,
    ) -> None:
        if hidden < 1:
            raise ValueError(f"ConditionalBatchNorm: hidden is {hidden}, expected at least 1")
        super().__init__(num_features, eps=eps, running=True, momentum=momentum, sync=sync)
        self.mlp = AffinePredictor(num_features, hidden)

    def parameter_tensors(self) -> tuple[Tensor, ...]:
        layers = (self.mlp.fc1, self.mlp.gamma, self.mlp.beta)
        return self.weight, self.bias, *(tensor for layer in layers for tensor in (layer.weight, layer.bias))

    def width_dims(self) -> tuple[tuple[int, ...], ...]:
        return (0,), (0,), (1,), (), (0,), (0,), (0,), (0,)

    def coefficients(self, sample: Moments, batch: Moments | None, *params: Tensor) -> tuple[Tensor, Tensor]:
        assert batch is not None
        weight_C, bias_C, *mlp = params
        hidden_NH = F.linear(sample.mean, mlp[0], mlp[1]).relu()
        weight_NC = weight_C + F.linear(hidden_NH, mlp[2], mlp[3])
        bias_NC = bias_C + F.linear(hidden_NH, mlp[4], mlp[5])
        return standardise(sample.mean, batch, weight_NC, bias_NC, self.eps)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, hidden={self.mlp.fc1.out_features}"

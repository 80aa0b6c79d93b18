"""Sparse switchable normalisation: a learned mixture of statistics that ends as one of them.

Shape suffixes: R row of ratios, K normaliser, always the three of (IN, LN, BN).
"""

import math

import torch
from torch import Tensor, nn

from en_bench.norms.affine import standardise
from en_bench.norms.base import Norm
from en_bench.norms.moments import Moments
from en_bench.norms.switchable import mix_statistics

CIRCUMRADIUS = math.sqrt(6) / 3  # of the simplex of three ratios

# Nearer to the centre than this share of the circumradius no direction away from it means anything.
_CENTRE = 1e-6


def sparsestmax(logits_RK: Tensor, radius: Tensor) -> Tensor:
    """In each row three ratios that sum to 1: nearest to the logits (R, 3), but in no circle around (1/3, 1/3, 1/3).

    `radius`, a scalar, is in units of the simplex's circumradius sqrt(6) / 3. The circle is inscribed at 1/2, and at 1
    the corners alone are left. It gets no gradient. With p0 the sparsemax of the logits (their nearest point on the
    simplex) and u its centre, in the cases of the paper:

    - radius 0: p0. That is sparsemax.
    - p0 on or outside the circle: p0.
    - inside, and the circle's point in its direction, p1 = u + radius (p0 - u) / ||p0 - u||, lies on the simplex: p1.
    - inside, and p1 does not: the point where the circle cuts the edge between the two largest, on the larger's side.

    At the centre itself, where there is no direction, p0, so that equal logits get sparsemax's gradient. Of equal
    logits the earlier counts as the larger.
    Source: Shao et al., "SSN: Learning Sparse Switchable Normalization via SparsestMax", CVPR 2019, section 3.
    """
    radius = radius.detach()
    # rank_RK is 0 for a row's largest. No sort: for three values comparisons are cheaper, and compile into one loop.
    index_K = torch.arange(3, device=logits_RK.device)
    other_RKK, own_RKK = logits_RK.unsqueeze(1), logits_RK.unsqueeze(2)
    larger_RKK = (other_RKK > own_RKK) | ((other_RKK == own_RKK) & (index_K < index_K.unsqueeze(1)))
    rank_RK = larger_RKK.sum(2)

    # The threshold that leaves a sum of 1 is the largest that any number of leading logits asks for.
    leading_RK = logits_RK + torch.where(larger_RKK, other_RKK, 0.0).sum(2)
    threshold_R1 = ((leading_RK - 1) / (rank_RK + 1)).amax(1, keepdim=True)
    nearest_RK = (logits_RK - threshold_R1).clamp_min(0)

    from_centre_RK = nearest_RK - 1 / 3
    squared_R1 = from_centre_RK.square().sum(1, keepdim=True) / CIRCUMRADIUS**2
    off_centre_R1 = squared_R1 > _CENTRE**2
    distance_R1 = torch.where(off_centre_R1, squared_R1, 1.0).sqrt()
    outward_RK = 1 / 3 + from_centre_RK * (radius / distance_R1)

    # On an edge, the circle's points are sqrt(radius^2 - 1/4) from the middle, the corners sqrt(3/4).
    gap = ((4 * radius.square() - 1) / 3).clamp_min(0).sqrt()
    on_edge_RK = torch.where(rank_RK == 0, (1 + gap) / 2, torch.where(rank_RK == 1, (1 - gap) / 2, 0.0))

    inside_R1 = off_centre_R1 & (distance_R1 < radius)
    # Rounding must not leave a trace of the others where only corners are left.
    cut_R1 = (inside_R1 & (outward_RK.amin(1, keepdim=True) < 0)) | (radius >= 1)
    return torch.where(cut_R1, on_edge_RK, torch.where(inside_R1, outward_RK, nearest_RK))


class SparseSwitchNorm(Norm):
    """Sparse switchable normalisation: `SwitchNorm` with SparsestMax for softmax

        mean = sum_k p_k mean_k,   var = sum_k q_k var_k,   k over (IN, LN, BN),
        p = sparsestmax(mean_weight, radius),   q = sparsestmax(var_weight, radius).

    `radius`, a buffer in units of the simplex's circumradius, has to grow from 0 to 1 in training, which leaves one
    normaliser for the mean and one for the variance. Two ways:

    - `anneal_steps`: the layer counts its training batches, and the radius grows by 1 / anneal_steps with each. Give
      some 80 % of the batches of the whole training: in the authors' code the radius grows linearly from 0 to 1 over
      all of it, in units in which the circumradius is 0.816; the last 18 % train a network of single normalisers.
    - without: the radius stays where it is, until `anneal_radius` sets it from the progress of the training.

    A ratio that has become 1 gets no gradient, and stays unless the logits decay: train them without weight decay. The
    authors' code gives them a tenth of the learning rate. Evaluation uses running moments for BN.
    Source: Shao et al., "SSN: Learning Sparse Switchable Normalization via SparsestMax", CVPR 2019, sections 3 and 4.
    Raises ValueError for anneal_steps below 1.
    """

    radius: Tensor
    steps_annealed: Tensor

    def __init__(
        self,
        num_features: int,
        anneal_steps: int | None = None,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        sync: bool = False,
    ) -> None:
        if anneal_steps is not None and anneal_steps < 1:
            raise ValueError(f"SparseSwitchNorm: anneal_steps is {anneal_steps}, expected at least 1, or None")
        super().__init__(num_features, eps=eps, running=True, momentum=momentum, sync=sync)
        self.anneal_steps = anneal_steps
        self.mean_weight = nn.Parameter(torch.ones(3))
        self.var_weight = nn.Parameter(torch.ones(3))
        self.register_buffer("radius", torch.tensor(0.0))
        # Not num_batches_tracked, which a swap takes over from the layer before.
        self.register_buffer("steps_annealed", torch.tensor(0))

    def parameter_tensors(self) -> tuple[Tensor, ...]:
        # A copy of the radius, since it moves between forward and backward.
        return self.weight, self.bias, self.mean_weight, self.var_weight, self.radius.clone()

    def width_dims(self) -> tuple[tuple[int, ...], ...]:
        return (0,), (0,), (), (), ()

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if self.training and self.anneal_steps is not None:
            self.steps_annealed.add_(1)
            self.radius.copy_((self.steps_annealed / self.anneal_steps).clamp_max(1))
        return y

    def coefficients(self, sample: Moments, batch: Moments | None, *params: Tensor) -> tuple[Tensor, Tensor]:
        assert batch is not None
        weight_C, bias_C, mean_weight_K, var_weight_K, radius = params
        shares_RK = sparsestmax(torch.stack((mean_weight_K, var_weight_K)), radius)
        mixed = mix_statistics(sample, batch, shares_RK[0], shares_RK[1])
        return standardise(sample.mean, mixed, weight_C, bias_C, self.eps)

    def set_radius(self, radius: float) -> None:
        """Raises ValueError for a radius outside 0 .. 1, which are units of the circumradius."""
        if not 0 <= radius <= 1:
            raise ValueError(f"SparseSwitchNorm: radius {radius}, expected 0 .. 1 in units of the circumradius")
        self.radius.fill_(radius)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, anneal_steps={self.anneal_steps}"


def anneal_radius(model: nn.Module, progress: float) -> int:
    """Sets the radius of each SparseSwitchNorm of `model` that has no `anneal_steps`; returns how many there are.

    `progress` is the share of the training that is done, 0 .. 1; the schedule is that of the authors' code, which
    `SparseSwitchNorm` describes.
    """
    driven = [module for module in model.modules() if isinstance(module, SparseSwitchNorm)]
    driven = [module for module in driven if module.anneal_steps is None]
    for module in driven:
        module.set_radius(min(progress / CIRCUMRADIUS, 1.0))
    return len(driven)

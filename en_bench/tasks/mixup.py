"""Mixup: each image of a batch mixed with another one of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_STREAM = 0x6D69  # tells these draws apart from others of the same seed


class Mixing(NamedTuple):
    """How the B images of a batch are mixed.

    Attributes:
        share: of each image itself in what is trained on, 0.5 .. 1.
        partner: (B,) int64, the image of the batch that the rest comes from.
    """

    share: float
    partner: Tensor

    def images(self, image: Tensor) -> Tensor:
        """The mixed images (B, C, H, W)."""
        return self.share * image + (1 - self.share) * image[self.partner]

    def loss(self, of_own: Tensor, of_partner: Tensor) -> Tensor:
        """The loss of the mixed images, from those against their own labels and their partners'."""
        return self.share * of_own + (1 - self.share) * of_partner


def draw_mixing(alpha: float, count: int, device: torch.device, seed: int, step: int, rank: int) -> Mixing:
    """A share from Beta(alpha, alpha), one for the batch, and partners by a random permutation of its `count` samples.

    A share below 0.5 is taken as 1 - share: as the permutation may as well be its inverse, and the loss is a mean over
    the batch, that changes no distribution, and each image's own label is the one that weighs more.

    A function of its arguments: it moves no generator and needs no state to go on from a checkpoint.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018, equation 1 and figure 1a.
    """
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence([_STREAM, seed, step, rank])))
    share = float(random.beta(alpha, alpha))
    partner = torch.from_numpy(random.permutation(count)).to(device)
    return Mixing(max(share, 1 - share), partner)

"""Mixup: the images, the labels, the draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from en_bench.losses import CrossEntropy, LabelSmoothing
from en_bench.losses.base import BatchFacts
from en_bench.tasks.classification import ClassificationTask
from en_bench.tasks.mixup import Mixing, draw_mixing
from tests.tasks.test_classification import data, trainer

CPU = torch.device("cpu")


def test_images_by_hand():
    image = torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1, 1)
    mixed = Mixing(0.75, torch.tensor([2, 1, 0])).images(image)
    assert mixed.flatten().tolist() == [0.75 + 25.0, 10.0, 75.0 + 0.25]


@pytest.mark.parametrize("loss", [CrossEntropy(), LabelSmoothing(0.2)])
def test_the_loss_is_that_of_the_mixed_label(loss):
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(5, 4, generator=generator, dtype=torch.float64), torch.tensor([0, 3, 1, 1, 2])
    mixing = Mixing(0.7, torch.tensor([4, 2, 0, 1, 3]))
    facts = BatchFacts(torch.arange(5), 0, 0)
    hot = F.one_hot(target, 4).double()
    label = 0.7 * hot + 0.3 * hot[mixing.partner]
    smoothing = getattr(loss, "smoothing", 0.0)
    label = (1 - smoothing) * label + smoothing / 4
    expected = -(label * logits.log_softmax(1)).sum(1).mean()
    found = mixing.loss(loss(logits, target, facts), loss(logits, target[mixing.partner], facts))
    torch.testing.assert_close(found, expected)


def test_draws_are_a_function_of_seed_step_and_rank():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    one = draw_mixing(0.4, 8, CPU, seed=3, step=5, rank=0)
    again = draw_mixing(0.4, 8, CPU, seed=3, step=5, rank=0)
    assert one.share == again.share and torch.equal(one.partner, again.partner)
    others = [draw_mixing(0.4, 8, CPU, *key) for key in ((4, 5, 0), (3, 6, 0), (3, 5, 1), (5, 3, 0))]
    assert len({one.share, *(other.share for other in others)}) == 5
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_shares_are_those_of_beta_folded_and_partners_are_permutations(alpha):
    drawn = [draw_mixing(alpha, 3, CPU, seed=0, step=step, rank=0) for step in range(3000)]
    shares = [mixing.share for mixing in drawn]
    beta = stats.beta(alpha, alpha)
    assert stats.kstest(shares, lambda x: 2 * (beta.cdf(x) - 0.5)).pvalue > 1e-3
    kinds, counts = np.unique([mixing.partner.tolist() for mixing in drawn], axis=0, return_counts=True)
    assert len(kinds) == 6 and stats.chisquare(counts).pvalue > 1e-3


def test_the_network_sees_mixed_images(shards, tmp_path):
    seen, kept = [], []

    class Watch(ClassificationTask):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            if self.training:
                seen.append(image.clone())
            return super().forward(image)

        def training_step(self, batch, batch_idx):
            kept.append(batch.image.clone())
            return super().training_step(batch, batch_idx)

    trainer(tmp_path, max_steps=3).fit(Watch("cifar/resnet8", mixup=1.0), data(shards, seed=7))
    for step, (mixed, image) in enumerate(zip(seen, kept, strict=True)):
        torch.testing.assert_close(mixed, draw_mixing(1.0, 20, CPU, 7, step, 0).images(image))
        assert not torch.equal(mixed, image)

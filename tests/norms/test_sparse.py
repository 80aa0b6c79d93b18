import copy
import math
from collections import Counter

import pytest
import torch
from torch import nn

from en_bench.norms import BatchNorm, InstanceNorm, LayerNorm, SparseSwitchNorm, SwitchNorm, anneal_radius
from en_bench.norms.sparse import CIRCUMRADIUS, sparsestmax

from . import transcriptions as paper
from .reference import assert_same


def ratio(logits: torch.Tensor, radius: float) -> torch.Tensor:
    return sparsestmax(logits[None], torch.tensor(radius, dtype=logits.dtype))[0]


def test_equals_the_paper_in_each_of_its_cases():
    """Values and gradients, at random logits, which are at no kink."""
    torch.manual_seed(0)
    seen = Counter()
    for _ in range(300):
        logits = torch.randn(3, dtype=torch.float64, requires_grad=True)
        radius, grad = float(torch.rand(()) * (torch.rand(()) > 0.1)), torch.randn(3, dtype=torch.float64)
        want, case = paper.sparsestmax(logits, radius * CIRCUMRADIUS)
        got = ratio(logits, radius)
        seen[case] += 1
        assert_same(got.detach(), want.detach(), case)
        gradients = [torch.autograd.grad(p, logits, grad)[0] for p in (got, want)]
        # Derivatives near the centre of the circle are large differences of larger numbers.
        bound = 1e-12 * (1 + gradients[1].abs().max() + 1 / float((want.detach() - 1 / 3).abs().max()))
        assert (gradients[0] - gradients[1]).abs().max() < max(bound, 1e-11), case
    assert min(seen[case] for case in ("sparsemax", "outside", "circle", "edge")) > 10, seen


def test_ratios_lie_on_the_simplex_and_outside_the_circle():
    torch.manual_seed(0)
    for _ in range(300):
        radius = float(torch.rand(()))
        p = ratio(torch.randn(3, dtype=torch.float64) / 4, radius)
        assert p.min() >= 0
        assert abs(float(p.sum()) - 1) < 1e-14
        assert float((p - 1 / 3).norm()) > radius * CIRCUMRADIUS - 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_at_the_full_radius_one_normaliser_is_left(dtype):
    torch.manual_seed(0)
    for scale in (1e-4, 0.1, 1.0, 100.0):
        for _ in range(50):
            logits = scale * torch.randn(3, dtype=dtype)
            assert torch.equal(ratio(logits, 1.0), nn.functional.one_hot(logits.argmax(), 3).to(dtype))


def test_rows_are_computed_alone_and_ties_go_to_the_earlier():
    logits = torch.tensor([[0.3, 0.3, 0.1], [0.1, 0.3, 0.3], [5.0, 0.0, 0.1], [0.2, 0.2, 0.2]])
    assert sparsestmax(logits, torch.tensor(1.0)).tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0]]
    for row, together in zip(logits, sparsestmax(logits, torch.tensor(0.7)), strict=True):
        assert torch.equal(ratio(row, 0.7), together)


@pytest.mark.parametrize("radius", [0.0, 0.1, 0.9])
def test_equal_logits_get_a_finite_gradient(radius):
    logits = torch.ones(3, dtype=torch.float64, requires_grad=True)
    p = ratio(logits, radius)
    (grad,) = torch.autograd.grad(p, logits, torch.tensor([1.0, 0, 0], dtype=torch.float64))
    assert_same(p.detach(), torch.full((3,), 1 / 3, dtype=torch.float64), "ratios")
    assert_same(grad, torch.tensor([2.0, -1, -1], dtype=torch.float64) / 3, "gradient")


@pytest.mark.parametrize(("k", "single"), list(enumerate((InstanceNorm, LayerNorm, BatchNorm))))
def test_annealed_it_is_a_single_normaliser(k, single):
    layer, other = SparseSwitchNorm(6).double(), single(6).double()
    layer.set_radius(1)
    with torch.no_grad():
        layer.mean_weight[k] += 0.01
        layer.var_weight[k] += 0.01
    for training in (True, True, False):
        x = torch.randn(5, 6, 4, 3, dtype=torch.float64) + 2
        assert_same(layer.train(training)(x), other.train(training)(x), "output")


def test_starts_as_switch_norm_does():
    x = torch.randn(5, 6, 4, 3, dtype=torch.float64) + 2
    assert_same(SparseSwitchNorm(6).double()(x), SwitchNorm(6).double()(x), "output")


def test_radius_grows_with_training_batches():
    layer, x = SparseSwitchNorm(6, anneal_steps=4), torch.randn(5, 6, 4, 3)
    radii = []
    for training in (True, True, False, True, True, True):
        layer.train(training)(x).sum().backward()
        radii.append(float(layer.radius))
    assert radii == [0.25, 0.5, 0.5, 0.75, 1.0, 1.0]


def test_radius_reaches_its_end_in_half_precision_and_over_many_steps():
    layer, x = SparseSwitchNorm(6, anneal_steps=3000).half(), torch.randn(5, 6, 2, 2).half()
    layer.steps_annealed.fill_(2998)
    radii = [float(layer.radius) for _ in range(2) if layer(x) is not None]
    assert 0.99 < radii[0] <= radii[1] == 1.0


def test_two_forward_passes_before_one_backward():
    layer = SparseSwitchNorm(6, anneal_steps=10)
    first, second = (layer(torch.randn(5, 6, 4, 3)) for _ in range(2))
    (first.square().sum() + second.square().sum()).backward()
    assert layer.mean_weight.grad.isfinite().all()


def test_a_checkpoint_resumes_the_annealing():
    layer, x = SparseSwitchNorm(6, anneal_steps=10), torch.randn(5, 6, 4, 3)
    for _ in range(3):
        layer(x)
    resumed = SparseSwitchNorm(6, anneal_steps=10)
    resumed.load_state_dict(copy.deepcopy(layer.state_dict()))
    layer(x), resumed(x)
    assert float(resumed.radius) == float(layer.radius) == pytest.approx(0.4)


def test_a_radius_without_steps_is_set_by_the_progress():
    model = nn.Sequential(SparseSwitchNorm(6), nn.Sequential(SparseSwitchNorm(6)), SparseSwitchNorm(6, anneal_steps=9))
    for progress, radius in ((0.0, 0.0), (0.5, 0.5 / math.sqrt(2 / 3)), (0.82, 1.0), (1.0, 1.0)):
        assert anneal_radius(model, progress) == 2
        assert [float(layer.radius) for layer in (model[0], model[1][0], model[2])] == pytest.approx(
            [radius, radius, 0]
        )
    model[0](torch.randn(5, 6, 4, 3))
    assert float(model[0].radius) == 1.0
    assert anneal_radius(nn.Conv2d(3, 3, 1), 0.5) == 0


def test_training_ends_with_one_normaliser_each():
    """From equal logits, with a task that batch statistics serve best."""
    torch.manual_seed(0)
    layer = SparseSwitchNorm(4, anneal_steps=60)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.05)
    reference = nn.BatchNorm2d(4)
    for _ in range(70):
        x = torch.randn(16, 4, 5, 5) * (1 + torch.rand(16, 4, 1, 1)) + torch.randn(16, 4, 1, 1)
        optimiser.zero_grad()
        (layer(x) - reference(x).detach()).square().mean().backward()
        optimiser.step()
    for logits in (layer.mean_weight, layer.var_weight):
        assert ratio(logits.detach(), float(layer.radius)).tolist() == [0, 0, 1]


@pytest.mark.parametrize("radius", [-0.1, 1.1])
def test_radii_outside_are_refused(radius):
    with pytest.raises(ValueError, match=f"radius {radius}"):
        SparseSwitchNorm(6).set_radius(radius)


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="anneal_steps is 0"):
        SparseSwitchNorm(6, anneal_steps=0)

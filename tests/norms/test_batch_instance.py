import pytest
import torch

from en_bench.norms import BatchInstanceNorm, BatchNorm, InstanceNorm
from en_bench.norms.batch_instance import reflected

from .reference import assert_same


@pytest.mark.parametrize(("rho", "single"), [(0.0, InstanceNorm), (1.0, BatchNorm), (2.0, InstanceNorm)])
def test_at_its_borders_it_is_one_of_the_two(rho, single):
    layer, other = BatchInstanceNorm(6).double(), single(6).double()
    with torch.no_grad():
        layer.rho.fill_(rho)
    for training in (True, True, False):
        x = torch.randn(5, 6, 4, 3, dtype=torch.float64) + 2
        assert_same(layer.train(training)(x), other.train(training)(x), "output")


def test_starts_as_batch_norm():
    x = torch.randn(5, 6, 4, 3, dtype=torch.float64) + 2
    assert_same(BatchInstanceNorm(6).double()(x), BatchNorm(6).double()(x), "output")


def test_reflection():
    value = torch.tensor([-1.25, -0.25, 0.0, 0.25, 1.0, 1.25, 2.25, 3.25], requires_grad=True)
    result = reflected(value)
    (slope,) = torch.autograd.grad(result.sum(), value)
    assert result.tolist() == [0.75, 0.25, 0.0, 0.25, 1.0, 0.75, 0.25, 0.75]
    assert slope.tolist() == [1, -1, 1, 1, 1, -1, 1, -1]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rho_comes_back_from_a_border(momentum):
    """Pushed against 1 for long, then pulled to 0.5: clipping in the forward pass would stay at 1."""
    rho = torch.nn.Parameter(torch.tensor([1.0]))
    optimiser = torch.optim.SGD([rho], lr=1e-2, momentum=momentum)
    for target, steps in ((1.5, 200), (0.5, 400)):
        for _ in range(steps):
            optimiser.zero_grad()
            (reflected(rho) - target).square().sum().backward()
            optimiser.step()
        assert abs(float(reflected(rho.detach())) - min(target, 1)) < 0.1
    assert abs(float(reflected(rho.detach())) - 0.5) < 0.01

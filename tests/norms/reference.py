"""Comparing two layers in float64: output, every gradient and every buffer, in training and in evaluation."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

TOLERANCE = 1e-12


def assert_same(got: Tensor, want: Tensor, what: str) -> None:
    """Equal up to 1e-12 of the largest value of `want`; below 0.1, where exact zeros are all rounding, up to 1e-13."""
    assert got.shape == want.shape, what
    difference = (got - want).abs().max().item() if want.numel() else 0.0
    assert difference <= TOLERANCE * max(want.abs().max().item(), 1e-1), f"{what} differs by {difference}"


def randomise(layer: nn.Module) -> None:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


def assert_same_layers(ours: nn.Module, theirs: nn.Module, shape: tuple[int, ...], steps: int = 3) -> None:
    """`theirs` has the same parameters and buffers under the same names."""
    torch.manual_seed(0)
    ours, theirs = ours.double(), theirs.double()
    randomise(ours)
    theirs.load_state_dict(ours.state_dict())
    for step in range(steps + 1):
        training = step < steps
        ours.train(training)
        theirs.train(training)
        x = torch.randn(shape, dtype=torch.float64) * (1 + step) + step
        grad = torch.randn_like(x)
        results = [_run(layer, x, grad) for layer in (ours, theirs)]
        for key, want in results[1].items():
            assert_same(results[0][key], want, f"{key} at step {step}")
    state = ours.state_dict()
    assert state.keys() == theirs.state_dict().keys()
    for key, want in theirs.state_dict().items():
        assert_same(state[key].double(), want.double(), key)


def assert_same_function(
    layer: nn.Module, function: Callable[[Tensor], Tensor], shape: tuple[int, ...], scale: float = 2.0
) -> None:
    """`function` computes from x what `layer` does in its present mode, reading the parameters of `layer`."""
    torch.manual_seed(0)
    x = scale * torch.randn(shape, dtype=torch.float64) + 1
    grad = torch.randn_like(x)
    want = _run(function, x, grad, dict(layer.named_parameters()))
    got = _run(layer, x, grad, dict(layer.named_parameters()))
    for key in want:
        assert_same(got[key], want[key], key)


def _run(
    function: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor, params: dict[str, nn.Parameter] | None = None
) -> dict[str, Tensor]:
    if params is None:
        assert isinstance(function, nn.Module)
        params = dict(function.named_parameters())
    x = x.clone().requires_grad_()
    y = function(x)
    grads = torch.autograd.grad(y, (x, *params.values()), grad)
    return dict(zip(("output", "x.grad", *(f"{name}.grad" for name in params)), (y.detach(), *grads), strict=True))

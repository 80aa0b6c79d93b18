"""Gradients derived by hand, in C++, against the vector-Jacobian product of `coefficients`."""

import pytest
import torch
from torch import Tensor

from en_bench.norms import BatchNorm, ExemplarNorm, GroupNorm, InstanceNorm, LayerNorm, Norm, SwitchNorm, programs
from en_bench.norms.maps import native
from en_bench.norms.moments import Moments

pytestmark = pytest.mark.skipif(not native.serves(torch.float32), reason="no C++ compiler")

EVERY = {
    "bn": BatchNorm,
    "in": InstanceNorm,
    "ln": LayerNorm,
    "gn": lambda c: GroupNorm(c, groups=4),
    "sn": SwitchNorm,
    "sn official": lambda c: SwitchNorm(c, official=True),
    "en": ExemplarNorm,
    "en relu": lambda c: ExemplarNorm(c, activation="relu", reduction=2),
    "en whole": lambda c: ExemplarNorm(c, reduce=False, hidden=7),
    "en shared": lambda c: ExemplarNorm(c, shared_affine=True, reduction=3),
    "en of two": lambda c: ExemplarNorm(c, ("bn", "in"), hidden=1),
    "en of ln": lambda c: ExemplarNorm(c, ("ln",), reduction=1),
    "en of in and ln": lambda c: ExemplarNorm(c, ("ln", "in")),
}
SHAPES = [(5, 12), (2, 24, 7), (9, 20, 3, 5), (1, 33, 4, 4), (11, 64, 2, 3), (3, 16, 2, 2, 3), (2, 1, 9, 9)]


def made(name: str, channels: int, dtype: torch.dtype) -> Norm:
    torch.manual_seed(3)
    layer: Norm = EVERY[name](channels)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for key, buffer in layer.named_buffers():
            if buffer.dtype.is_floating_point:
                buffer.copy_(torch.rand_like(buffer) + (0.5 if "var" in key else 0))
    return layer.to(dtype)


def outcome(layer: Norm, x: Tensor, dy: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    y = layer(x)
    return [y.detach(), *torch.autograd.grad(y, [x, *layer.parameters()], dy), *layer.buffers()]


def assert_same(got: list[Tensor], want: list[Tensor], tolerance: float) -> None:
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        assert (g - w).abs().max() <= tolerance * max(1, w.abs().max()), i


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", EVERY)
def test_a_program_computes_what_coefficients_do(monkeypatch, name, shape, training):
    if name == "sn official" and len(shape) == 2:
        pytest.skip("one position has no unbiased variance")
    torch.manual_seed(4)
    x, dy = torch.randn(2, *shape, dtype=torch.float64) * 2 + 1
    layer, other = (made(name, shape[1], torch.float64).train(training) for _ in "ab")
    assert programs.program_for(layer, x) is not None
    got = outcome(layer, x, dy)
    monkeypatch.setattr(programs, "program_for", lambda norm, x: None)
    assert_same(got, outcome(other, x, dy), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", EVERY)
def test_narrow_maps_and_layouts(monkeypatch, name, layout, dtype):
    torch.manual_seed(4)
    x, dy = (torch.randn(2, 17, 40, 9, 9) * 2 + 1).to(dtype)
    x, dy = x.contiguous(memory_format=layout), dy.contiguous(memory_format=layout)
    got = outcome(made(name, 40, torch.float32), x, dy)
    monkeypatch.setattr(programs, "program_for", lambda norm, x: None)
    by_torch = outcome(made(name, 40, torch.float32), x, dy)
    exact = outcome(made(name, 40, torch.float64), x.double(), dy.double())
    rounding = {torch.float32: 0.0, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
    for i, (mine, torchs, want) in enumerate(zip(got, by_torch, exact, strict=True)):
        errors = [float((t.double() - want).abs().max() / want.abs().max().clamp_min(1)) for t in (mine, torchs)]
        assert errors[0] <= max(3 * errors[1], 1e-5, rounding if i < 2 else 0.0), (i, errors)


def test_tanh_to_the_last_digits():
    """The gate's own: one hidden unit, whose input is its bias."""
    x = torch.zeros(1, 2, 2, 2)
    layer = ExemplarNorm(2, hidden=2000)
    units = layer.gate.fc1.out_features
    values = torch.cat(
        [
            torch.linspace(-12, 12, units - 10),
            torch.tensor([0.0, 1e-30, -1e-8, 0.625, -0.625, 9.1, 50, -500, 1e9, 1e-3]),
        ]
    )
    with torch.no_grad():
        layer.gate.fc1.weight.zero_()
        layer.gate.fc1.bias.copy_(values)
        layer.gate.fc2.weight.zero_()
        layer.gate.fc2.bias.zero_()
    # d fc2.weight is (d logit) * tanh(value): compared with that of a unit whose tanh is 1.
    x = torch.randn(3, 2, 4, 4)
    (layer(x) * torch.randn(3, 2, 4, 4)).sum().backward()
    row = layer.gate.fc2.weight.grad[0].double()
    found = row / row[values == 50]
    assert (found - values.double().tanh()).abs().max() < 2.5e-7


def test_the_number_of_threads_changes_no_bit():
    torch.manual_seed(4)
    x, dy = torch.randn(2, 21, 64, 12, 12)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(outcome(made("en", 64, torch.float32), x, dy))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


class Doubled(BatchNorm):
    def coefficients(self, sample: Moments, batch: Moments | None, *params: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = super().coefficients(sample, batch, *params)
        return 2 * scale, 2 * shift


def test_a_subclass_with_its_own_coefficients_has_no_program():
    x = torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(Doubled(3)(x), 2 * BatchNorm(3)(x))


def test_frozen_parameters_and_a_constant_input_get_no_gradient():
    layer, x = ExemplarNorm(8), torch.randn(4, 8, 5, 5)
    layer.gate.requires_grad_(False)
    layer(x).square().sum().backward()
    assert layer.gate.fc1.weight.grad is None and layer.weight.grad is not None


def test_parameters_that_do_not_fit_are_refused_before_an_address_is_read():
    for name, made_of in (
        ("weight", torch.ones(5)),
        ("bias", torch.zeros(3, 7)),
        ("weight", torch.ones(3, 8, device="meta")),
    ):
        layer = ExemplarNorm(8)
        setattr(layer, name, torch.nn.Parameter(made_of))
        with pytest.raises(RuntimeError, match=r"ExemplarNorm: parameters, buffers .* do not fit 8 channels"):
            layer(torch.randn(2, 8, 3, 3))
    layer = BatchNorm(8)
    layer.running_var = torch.ones(4)
    with pytest.raises(RuntimeError, match="do not fit 8 channels"):
        layer(torch.randn(2, 8, 3, 3))

"""Inputs and gradients that lie in memory in unusual ways give what dense copies of them give."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from en_bench.norms import BatchNorm, ExemplarNorm, Norm, SwitchNorm
from tests.norms.test_contract import built, each_norm

three_norms = pytest.mark.parametrize("norm", [ExemplarNorm, SwitchNorm, BatchNorm], ids=lambda norm: norm.__name__)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)

N, C = 6, 8


def drawn(*shape: int) -> Tensor:
    torch.manual_seed(4)
    return torch.randn(shape, dtype=torch.float64) * 2 + 1


# Each is a view that is not dense, or does not start where its memory starts.
VIEWS: dict[str, Callable[[], Tensor]] = {
    "every other sample": lambda: drawn(2 * N, C, 4, 5)[::2],
    "some of the channels": lambda: drawn(N, C + 5, 4, 5)[:, 3 : C + 3],
    "some of the channels, channels_last": lambda: drawn(N, C + 5, 4, 5).contiguous(memory_format=torch.channels_last)[
        :, 3 : C + 3
    ],
    "a window": lambda: drawn(N, C, 7, 9)[:, :, 2:6, 3:8],
    "a window, channels_last": lambda: drawn(N, C, 7, 9).contiguous(memory_format=torch.channels_last)[:, :, 2:6, 3:8],
    "every other column": lambda: drawn(N, C, 4, 10)[..., ::2],
    "transposed positions": lambda: drawn(N, C, 5, 4).transpose(2, 3),
    "permuted": lambda: drawn(4, C, N, 5).permute(2, 1, 0, 3),
    "samples innermost": lambda: drawn(C, 4, 5, N).permute(3, 0, 1, 2),
    "one sample for all": lambda: drawn(1, C, 4, 5).expand(N, C, 4, 5),
    "one channel for all": lambda: drawn(N, 1, 4, 5).expand(N, C, 4, 5),
    "one position for all": lambda: drawn(N, C, 1, 1).expand(N, C, 4, 5),
    "an odd offset": lambda: drawn(N * C * 20 + 3)[3:].view(N, C, 4, 5),
    "1x1 maps with the strides of channels_last": lambda: drawn(N, 1, 1, C).permute(0, 3, 1, 2),
    "1x1 maps out of larger ones": lambda: drawn(N, C, 3, 3)[:, :, 1:2, 1:2],
    "(N, C) transposed": lambda: drawn(C, N).t(),
    "(N, C) with gaps": lambda: drawn(N, 2 * C)[:, ::2],
    "(N, C, L) transposed": lambda: drawn(N, 7, C).transpose(1, 2),
    "(N, C, D, H, W) channels_last_3d": lambda: drawn(N, C, 2, 3, 4).contiguous(memory_format=torch.channels_last_3d),
    "(N, C, D, H, W), a window": lambda: drawn(N, C, 4, 5, 6)[:, :, 1:3, 2:5, 1:5],
    "one sample": lambda: drawn(3, C, 4, 5)[1:2],
}


def like(view: Tensor, dtype: torch.dtype) -> Tensor:
    """`view` in another dtype, with the same strides and offset in memory of its own."""
    whole = view.as_strided((view.untyped_storage().nbytes() // view.element_size(),), (1,), 0)
    return whole.to(dtype).as_strided(view.shape, view.stride(), view.storage_offset())


def run(norm: Callable[[int], Norm], x: Tensor, dy: Tensor, training: bool) -> dict[str, Tensor]:
    layer, leaf = built(norm, C).to(torch.promote_types(x.dtype, torch.float32)), x.detach().requires_grad_()
    y = layer.train(training)(leaf)
    y.backward(dy)
    grads = {name: parameter.grad for name, parameter in layer.named_parameters()}
    return {"y": y.detach(), "x": leaf.grad, **grads, **dict(layer.named_buffers())}


def assert_equal(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    """The tensors of `got` up to sums in another order, in units of their largest values."""
    for name, tensor in want.items():
        assert got[name].dtype == tensor.dtype
        error = (got[name].double() - tensor.double()).abs().max()
        stored = tensor.dtype if tensor.is_floating_point() else torch.float32
        assert error <= 64 * torch.finfo(stored).eps * tensor.abs().max().clamp_min(1), name


@three_norms
@dtypes
@pytest.mark.parametrize("view", VIEWS)
def test_input_that_is_not_dense(norm, dtype, view):
    x = like(VIEWS[view](), dtype)
    dense, dy = x.clone(memory_format=torch.contiguous_format), drawn(*x.shape).sin().to(dtype)
    for training in (True, False):
        assert_equal(run(norm, x, dy, training), run(norm, dense, dy, training))


@three_norms
@dtypes
@pytest.mark.parametrize("view", VIEWS)
def test_gradient_that_is_not_dense(norm, dtype, view):
    dy = like(VIEWS[view](), dtype)
    x, dense = drawn(*dy.shape).sin().to(dtype), dy.clone(memory_format=torch.contiguous_format)
    assert_equal(run(norm, x, dy, True), run(norm, x, dense, True))


@each_norm
@pytest.mark.parametrize("of_x", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("of_dy", [torch.contiguous_format, torch.channels_last], ids=str)
def test_gradient_in_another_memory_format(norm, of_x, of_dy):
    x, dy = drawn(N, C, 4, 5).float(), drawn(N, C, 4, 5).sin().float()
    got = run(norm, x.contiguous(memory_format=of_x), dy.contiguous(memory_format=of_dy), True)
    assert_equal(got, run(norm, x, dy, True))
    assert got["x"].is_contiguous(memory_format=of_x)


@each_norm
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_gradient_of_a_mean(norm, memory_format):
    x, dy = drawn(N, C, 4, 5).float().contiguous(memory_format=memory_format), torch.full((), 1 / (N * C * 20))
    assert_equal(run(norm, x, dy.expand(N, C, 4, 5), True), run(norm, x, dy.expand(N, C, 4, 5).clone(), True))


@each_norm
@pytest.mark.parametrize("shape", [(0, C), (0, C, 4, 5), (0, C, 2, 3, 4)], ids=str)
def test_nothing_to_normalise(norm, shape):
    layer, x = built(norm, C).eval(), torch.empty(shape, requires_grad=True)
    y = layer(x)
    assert y.shape == shape
    y.sum().backward()
    assert x.grad.shape == shape
    assert all(p.grad is None or not p.grad.any() for p in layer.parameters())
    if layer.tracks_running_moments:
        with pytest.raises(ValueError, match="more than one value per channel"):
            layer.train()(x)


@each_norm
def test_the_input_stays_as_it_was(norm):
    x = drawn(N, C, 4, 5).float()
    before = x.clone()
    run(norm, x, torch.ones_like(x), True)
    assert torch.equal(x, before)

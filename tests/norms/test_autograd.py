"""Normalisers under PyTorch's autograd: checkpointing, freezing, narrow dtypes, autocast, transforms, second order."""

import copy
import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, stack_module_state, vmap
from torch.utils.checkpoint import checkpoint

from en_bench.norms import BatchNorm, ConditionalBatchNorm, ExemplarNorm, Norm, SwitchNorm
from tests.norms.test_contract import built, each_norm, random

close = torch.testing.assert_close


def gradients(function: Callable[[Tensor], Tensor], layer: nn.Module, x: Tensor, **options: bool) -> list[Tensor]:
    """The output of `function`, and the gradients by `x` and by the parameters of `layer`."""
    x = x.clone().requires_grad_()
    y = function(x)
    torch.manual_seed(3)
    return [y.detach(), *torch.autograd.grad(y, (x, *layer.parameters()), torch.randn_like(y), **options)]


def pure(layer: Norm) -> Callable[..., Tensor]:
    """Forward as a function of x and all parameters, with fresh buffers at each call, as running moments move."""
    names, buffers = [name for name, _ in layer.named_parameters()], dict(layer.named_buffers())

    def function(x: Tensor, *params: Tensor) -> Tensor:
        fresh = {name: buffer.clone() for name, buffer in buffers.items()}
        return functional_call(layer, {**dict(zip(names, params, strict=True)), **fresh}, (x,))

    return function


def small(norm: Callable[[int], Norm], training: bool) -> tuple[Norm, Tensor]:
    """Four channels in float64, running moments of its own, and an input."""
    layer, x = built(norm, channels=4).double(), random(3, 4, 2, 2, dtype=torch.float64)
    layer(2 * x)
    return layer.train(training), x.requires_grad_()


# ---- Checkpointing


@each_norm
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_block(norm, reentrant):
    def block(norm: Callable[[int], nn.Module]) -> nn.Module:
        return nn.Sequential(nn.Conv2d(8, 8, 1), norm(8), nn.ReLU())

    torch.manual_seed(0)
    network = block(lambda channels: built(norm, channels))
    recomputed, x = copy.deepcopy(network), random(6, 8, 4, 4)
    want, x_recomputed = gradients(network, network, x), x.clone().requires_grad_()
    y = checkpoint(recomputed, x_recomputed, use_reentrant=reentrant)
    torch.manual_seed(3)
    y.backward(torch.randn_like(y))
    got = [y.detach(), x_recomputed.grad, *(parameter.grad for parameter in recomputed.parameters())]
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    # Both passes move the running moments, as those of torch's BatchNorm.
    if network[1].tracks_running_moments:
        theirs = block(nn.BatchNorm2d)
        checkpoint(theirs, x.clone().requires_grad_(), use_reentrant=reentrant).sum().backward()
        assert recomputed[1].num_batches_tracked == theirs[1].num_batches_tracked == 2
        network(x)
        close(recomputed[1].running_var, network[1].running_var)


# ---- Freezing


@each_norm
def test_frozen_running_moments(norm):
    network = nn.Sequential(nn.Conv2d(8, 8, 1), built(norm)).train()
    network(random(6, 8, 4, 4))
    network[1].eval()
    before = copy.deepcopy(dict(network.named_buffers()))
    got = gradients(network, network, random(6, 8, 4, 4))
    want = gradients(network.eval(), network, random(6, 8, 4, 4))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


@each_norm
def test_backward_in_evaluation_does_not_see_later_running_moments(norm):
    layer, x = built(norm).eval(), random(6, 8, 4, 4)
    want = gradients(layer, layer, x)

    def then_trained(x: Tensor) -> Tensor:
        y = layer.eval()(x)
        layer.train()(3 * random(6, 8, 4, 4))
        return y

    for a, b in zip(gradients(then_trained, layer, x), want, strict=True):
        close(a, b, rtol=0, atol=0)


@each_norm
def test_what_needs_no_gradient_gets_none(norm):
    names = [name for name, _ in built(norm).named_parameters()]
    x, dy = random(6, 8, 4, 4), torch.randn(6, 8, 4, 4)

    def run(frozen: set[str]) -> dict[str, Tensor | None]:
        layer, inputs = built(norm), x.clone().requires_grad_("x" not in frozen)
        for name, parameter in layer.named_parameters():
            parameter.requires_grad_(name not in frozen)
        layer(inputs).backward(dy)
        return {"x": inputs.grad, **{name: parameter.grad for name, parameter in layer.named_parameters()}}

    want = run(set())
    for frozen in ({"x"}, *({name} for name in names), set(names)):
        for name, got in run(frozen).items():
            assert got is None if name in frozen else torch.equal(got, want[name])
    assert not built(norm).requires_grad_(False)(x).requires_grad


# ---- Narrow dtypes, autocast


@each_norm
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_model(norm, dtype, training):
    layer, x = built(norm).to(dtype).train(training), random(6, 8, 4, 4, dtype=dtype).requires_grad_()
    exact, x_exact = copy.deepcopy(layer).double(), x.detach().double().requires_grad_()
    y, y_exact, dy = layer(x), exact(x_exact), torch.randn(x.shape).to(dtype)
    y.backward(dy)
    y_exact.backward(dy.double())
    pairs = {"y": (y, y_exact), "x": (x.grad, x_exact.grad)}
    pairs |= {n: (p.grad, q.grad) for (n, p), q in zip(layer.named_parameters(), exact.parameters(), strict=True)}
    pairs |= {n: (b, c) for (n, b), c in zip(layer.named_buffers(), exact.buffers(), strict=True)}
    for name, (got, want) in pairs.items():
        assert got.dtype == (dtype if want.is_floating_point() else want.dtype)
        # Arithmetic in fp32, so only what is stored is rounded.
        assert (got - want).abs().max() <= 2 * torch.finfo(dtype).eps * want.abs().max(), name


@pytest.mark.parametrize("norm", [ExemplarNorm, ConditionalBatchNorm, functools.partial(ExemplarNorm, gate="mlp3")])
@pytest.mark.parametrize("mode", ["eager", "plain"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{}, {"create_graph": True}], ids=["first order", "create_graph"])
def test_backward_inside_autocast_keeps_the_tables_in_fp32(norm, mode, dtype, options, monkeypatch):
    monkeypatch.setenv("EN_BENCH_NORMS", mode)
    layer, x = built(norm), random(6, 8, 4, 4)
    want = gradients(layer, layer, x)
    with torch.autocast("cpu", dtype):
        got = gradients(layer, layer, x, **options)
    for a, b in zip(got, want, strict=True):
        assert (a - b).abs().max() <= 5e-6 * b.abs().max().clamp_min(1)


# ---- Functional transforms


@each_norm
def test_per_sample_gradients(norm):
    layer, x = built(norm).eval(), random(4, 8, 4, 4)
    params = {name: parameter.detach() for name, parameter in layer.named_parameters()}

    def loss(params: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(layer, params, (sample[None],)).square().sum()

    got = vmap(grad(loss), in_dims=(None, 0))(params, x)
    for i in range(len(x)):
        want = torch.autograd.grad(layer(x[i : i + 1]).square().sum(), tuple(layer.parameters()))
        for name, tensor in zip(params, want, strict=True):
            close(got[name][i], tensor, rtol=1e-4, atol=1e-4)


@each_norm
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # vmap knows no lerp_
def test_ensemble(norm, training):
    layers = [built(norm).train(training) for _ in range(3)]
    with torch.no_grad():
        for factor, layer in enumerate(layers, start=1):
            for parameter in layer.parameters():
                parameter.mul_(factor)
    params, buffers = stack_module_state(layers)
    skeleton, x = copy.deepcopy(layers[0]).to("meta"), random(6, 8, 4, 4)
    got = vmap(lambda *state: functional_call(skeleton, state, (x,)))(params, buffers)
    close(got, torch.stack([layer(x) for layer in layers]), rtol=1e-4, atol=1e-5)
    for name, stacked in buffers.items():
        close(stacked, torch.stack([layer.get_buffer(name) for layer in layers]))


@each_norm
@pytest.mark.parametrize("training", [True, False])
def test_forward_mode(norm, training):
    layer, x = small(norm, training)
    function, direction = pure(layer), torch.randn_like(x)
    derivative = jvp(lambda x: function(x, *layer.parameters()), (x,), (direction,))[1]
    with torch.no_grad():
        ahead, back = (function(x + step * direction, *layer.parameters()) for step in (1e-6, -1e-6))
    close(derivative, (ahead - back) / 2e-6, rtol=1e-5, atol=1e-7)


# ---- Second order


@each_norm
@pytest.mark.parametrize("training", [True, False])
def test_second_derivatives_match_finite_differences(norm, training):
    layer, x = small(norm, training)
    torch.autograd.gradgradcheck(pure(layer), (x, *layer.parameters()), fast_mode=True)


@each_norm
def test_create_graph_where_the_input_depends_on_the_parameters(norm):
    layer, x = small(norm, training=False)

    def twice(x: Tensor) -> Tensor:
        return layer(layer(x).tanh())

    for a, b in zip(gradients(twice, layer, x, create_graph=True), gradients(twice, layer, x), strict=True):
        close(a, b)


# ---- Autograd's own rules


@each_norm
def test_input_changed_in_place_is_noticed(norm):
    x = random(6, 8, 4, 4).requires_grad_()
    h = x * 1
    y = built(norm)(h)
    h.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@each_norm
def test_inference_mode(norm):
    layer, twin, x = built(norm), built(norm), random(6, 8, 4, 4)
    with torch.inference_mode():
        inferred = layer(x)
    with torch.no_grad():
        assert torch.equal(twin(x), inferred)
    assert all(torch.equal(a, b) for a, b in zip(layer.buffers(), twin.buffers(), strict=True))
    # A layer that ran there trains on, unless on what was made there: as torch's BatchNorm.
    layer(x.clone().requires_grad_()).sum().backward()
    for module in (layer, nn.BatchNorm2d(8)):
        with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
            module(inferred)


@pytest.mark.parametrize("norm", [ExemplarNorm, SwitchNorm, BatchNorm], ids=lambda norm: norm.__name__)
def test_saved_tensors_may_be_moved(norm):
    layer, x = built(norm), random(6, 8, 4, 4)
    want = gradients(layer, layer, x)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.numpy(force=True).copy(), torch.from_numpy):
        got = gradients(layer, layer, x)
    for a, b in zip(got, want, strict=True):
        close(a, b)

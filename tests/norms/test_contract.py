"""What every normaliser promises, whatever it computes."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from en_bench.norms import (
    BatchInstanceNorm,
    BatchNorm,
    ConditionalBatchNorm,
    ExemplarNorm,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    Norm,
    SparseSwitchNorm,
    SwitchNorm,
)
from en_bench.norms.moments import Moments, sample_moments

BN_KEYS = {"running_mean", "running_var", "num_batches_tracked"}
GATE_KEYS = {f"gate.{layer}.{kind}" for layer in ("reduce", "fc1", "fc2") for kind in ("weight", "bias")}
MLP_KEYS = {f"mlp.{layer}.{kind}" for layer in ("fc1", "gamma", "beta") for kind in ("weight", "bias")}
KEYS = {
    BatchNorm: BN_KEYS,
    InstanceNorm: set(),
    LayerNorm: set(),
    GroupNorm: set(),
    BatchInstanceNorm: BN_KEYS | {"rho"},
    SwitchNorm: BN_KEYS | {"mean_weight", "var_weight"},
    SparseSwitchNorm: BN_KEYS | {"mean_weight", "var_weight", "radius", "steps_annealed"},
    ConditionalBatchNorm: BN_KEYS | MLP_KEYS,
    ExemplarNorm: BN_KEYS | GATE_KEYS,
}
SHAPES = [(6, 8), (6, 8, 5), (6, 8, 4, 5), (6, 8, 2, 3, 4)]

each_norm = pytest.mark.parametrize("norm", KEYS, ids=lambda norm: norm.__name__)


def built(norm: Callable[[int], Norm], channels: int = 8) -> Norm:
    """With parameters away from their initial values, so that none of them can be ignored unseen."""
    torch.manual_seed(1)
    layer = norm(channels)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    torch.manual_seed(2)
    return (torch.randn(shape, dtype=torch.float64) * 2 + 1).to(dtype)


def test_every_norm_is_in_the_contract():
    def leaves(cls: type[Norm]) -> set[type[Norm]]:
        return {cls, *(leaf for sub in cls.__subclasses__() for leaf in leaves(sub))}

    ours = {cls for cls in leaves(Norm) if cls.__module__.startswith("en_bench.norms.")}
    assert ours - {Norm} == set(KEYS)


@each_norm
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shape_and_finite_gradients(norm, shape, training):
    layer, x = built(norm).train(training), random(*shape).requires_grad_()
    y = layer(x)
    assert y.shape == x.shape
    (y * torch.randn_like(y)).sum().backward()
    for tensor in (x, *layer.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


@each_norm
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_output_and_gradient_have_the_dtype_of_the_input(norm, dtype, autocast):
    layer, x = built(norm), random(6, 8, 4, 4, dtype=dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = layer(x)
    y.sum().backward()
    assert y.dtype == dtype
    assert x.grad.dtype == dtype
    assert all(parameter.grad.dtype == torch.float32 for parameter in layer.parameters())


@each_norm
def test_autocast_leaves_the_tables_in_fp32(norm):
    layer, x = built(norm), random(6, 8, 4, 4)
    plain = copy.deepcopy(layer)(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), plain)


@each_norm
@pytest.mark.parametrize(
    ("shape", "memory_format"),
    [
        ((6, 8, 4, 5), torch.channels_last),
        ((1, 8, 4, 5), torch.channels_last),
        ((6, 8, 2, 3, 4), torch.channels_last_3d),
        ((6, 8, 4, 5), torch.contiguous_format),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_format_passes_through(norm, shape, memory_format, dtype):
    x = random(*shape, dtype=dtype)
    y = built(norm)(x)
    x_formatted = x.contiguous(memory_format=memory_format).requires_grad_()
    y_formatted = built(norm)(x_formatted)
    y_formatted.backward(torch.ones_like(y_formatted))
    assert y_formatted.is_contiguous(memory_format=memory_format)
    assert x_formatted.grad.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(y_formatted, y)


@each_norm
@pytest.mark.parametrize("shape", [(7, 8), (7, 4), (8,), (2, 8, 1, 1, 1, 1), (2, 4, 3, 3)], ids=str)
def test_wrong_channels_or_rank(norm, shape):
    if shape == (7, 8):
        built(norm)(torch.ones(shape))
        return
    with pytest.raises(ValueError, match=rf"{norm.__name__}: expected input \(N, 8, \*spatial\).* got \({shape[0]},"):
        built(norm)(torch.ones(shape))


@each_norm
def test_one_value_per_channel(norm):
    layer, x = built(norm), random(1, 8, 1, 1)
    if layer.tracks_running_moments:
        with pytest.raises(ValueError, match=r"more than one value per channel.*larger batch"):
            layer(x)
        assert layer.num_batches_tracked == 0
    else:
        assert layer(x).isfinite().all()
    assert layer.eval()(x).isfinite().all()


@each_norm
def test_one_position_gives_finite_gradients(norm):
    layer, x = built(norm), random(6, 8, 1, 1).requires_grad_()
    layer(x).square().sum().backward()
    assert x.grad.isfinite().all()
    torch.testing.assert_close(built(norm)(x), built(norm)(x.flatten(1))[:, :, None, None])


@each_norm
def test_evaluation_treats_samples_alone_and_changes_nothing(norm):
    layer, x = built(norm), random(6, 8, 4, 4)
    layer(x)
    before = copy.deepcopy(layer.eval().state_dict())
    torch.testing.assert_close(layer(x)[2:3], layer(x[2:3]))
    assert layer(x[:0]).shape == (0, 8, 4, 4)
    for key, value in layer.state_dict().items():
        assert torch.equal(value, before[key])


@each_norm
def test_state_dict_keys_are_public(norm):
    layer = norm(64)
    rows = (3,) if norm is ExemplarNorm else ()
    state = layer.state_dict()
    assert set(state) == {"weight", "bias"} | KEYS[norm]
    assert state["weight"].shape == state["bias"].shape == (*rows, 64)
    assert torch.equal(state["weight"], torch.ones(*rows, 64))
    assert not state["bias"].any()


@each_norm
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])  # noqa: S301
def test_copies_and_reloaded_states_compute_the_same(norm, clone):
    layer, x = built(norm), random(6, 8, 4, 4)
    layer(x)
    twin, reloaded = clone(layer), norm(8)
    reloaded.load_state_dict(layer.state_dict())
    for other in (twin, reloaded):
        assert torch.equal(other.eval()(x), layer.eval()(x))


@each_norm
def test_coefficients_are_a_pure_function_of_tensors(norm):
    layer = built(norm).double()
    sample = sample_moments(random(6, 8, 4, 4, dtype=torch.float64))
    batch, params = layer.batch_moments(sample), layer.parameter_tensors()
    before = copy.deepcopy(layer.state_dict())

    def coefficients(sample: Moments, *params: Tensor) -> tuple[Tensor, Tensor]:
        return layer.coefficients(sample, batch, *params)

    outputs, vjp = torch.func.vjp(coefficients, sample, *params)
    assert [tuple(output.shape) for output in outputs] == [(6, 8), (6, 8)]
    cotangents = tuple(torch.randn_like(output) for output in outputs)
    trained = [i for i, tensor in enumerate(params) if tensor.requires_grad]  # buffers may lie between them
    assert len(trained) == len(list(layer.parameters()))
    expected = torch.autograd.grad(coefficients(sample, *params), [params[i] for i in trained], cotangents)
    for i, want in zip(trained, expected, strict=True):
        torch.testing.assert_close(vjp(cotangents)[1 + i], want)
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


@each_norm
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(4, 4), (3, 4, 2, 2)], ids=str)
def test_gradients_match_finite_differences(norm, training, shape):
    layer = built(norm, channels=4).double()
    layer(random(*shape, dtype=torch.float64))
    layer.train(training)
    x = random(*shape, dtype=torch.float64).requires_grad_()
    names = [name for name, _ in layer.named_parameters()]

    def function(x: Tensor, *params: Tensor) -> Tensor:
        # Fresh buffers: the running moments move with each call.
        buffers = {name: buffer.clone() for name, buffer in layer.named_buffers()}
        return torch.func.functional_call(layer, {**dict(zip(names, params, strict=True)), **buffers}, (x,))

    torch.autograd.gradcheck(function, (x, *layer.parameters()))


@torch.no_grad()
def error(layer: nn.Module, x: Tensor) -> float:
    """Largest error of the output against float64, in units of what rounding to the dtype of `x` alone costs."""
    exact = copy.deepcopy(layer).double()(x.double())
    rounding = (exact.to(x.dtype).double() - exact).abs().max()
    return float((layer(x).double() - exact).abs().max() / rounding)


@each_norm
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_large_mean_costs_no_more_digits_than_torch(norm, memory_format):
    torch.manual_seed(3)
    x = (torch.randn(16, 8, 16, 16) + 1e4).contiguous(memory_format=memory_format)
    rivals = {BatchNorm: nn.BatchNorm2d(8), LayerNorm: nn.GroupNorm(1, 8)}
    # Of torch's layers only the contiguous ones are a measure: GroupNorm on channels_last keeps no digit here.
    assert error(norm(8), x) < 1.1 * error(rivals.get(norm, nn.GroupNorm(8, 8)), x.contiguous())


@each_norm
@pytest.mark.parametrize("value", [0.0, 1e8])
def test_constant_maps_stay_finite(norm, value):
    layer, x = norm(8), torch.full((6, 8, 7, 7), value).requires_grad_()
    y = layer(x)
    y.square().sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


@each_norm
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_errs_no_more_than_torch(norm, dtype):
    torch.manual_seed(3)
    x = (torch.randn(16, 8, 16, 16) + 3).to(dtype)
    assert error(norm(8), x) < 1.1 * error(nn.BatchNorm2d(8), x)


@each_norm
def test_drop_and_act_are_applied_and_saved(norm):
    layer, x = built(norm), random(6, 8, 4, 4)
    plain = copy.deepcopy(layer)(x)
    layer.drop, layer.act = nn.Dropout(1.0).eval(), nn.PReLU(8)
    torch.testing.assert_close(layer(x), nn.functional.prelu(plain, torch.full((8,), 0.25)))
    assert "act.weight" in layer.state_dict()
    assert not layer.drop.train()(plain).any()
    assert not layer(x).any()


@each_norm
def test_repr_names_what_distinguishes_it(norm):
    text = repr(norm(64))
    assert text.startswith(f"{norm.__name__}(")
    assert "64, eps=1e-05" in text
    assert ("momentum=0.1" in text) == ("running_mean" in KEYS[norm])


@each_norm
def test_no_channels_is_refused(norm):
    with pytest.raises(ValueError, match="num_features is 0"):
        norm(0)


@each_norm
def test_meta_device(norm):
    assert norm(8).to("meta")(torch.empty(6, 8, 4, 4, device="meta")).shape == (6, 8, 4, 4)

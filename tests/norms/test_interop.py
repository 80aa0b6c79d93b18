"""Normalisers inside compilers, exporters and traces: what they make computes what eager code does."""

import copy
import io
import warnings
from collections.abc import Callable
from functools import partial

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from en_bench.backbones import build
from en_bench.norms import BatchNorm, ExemplarNorm, Norm, SwitchNorm, swap_norms
from tests.norms.networks import randomise
from tests.norms.test_contract import built, each_norm, random

# Its unbiased variance depends on the number of positions, which a compiler must not take for a constant.
released_switch_norm = partial(SwitchNorm, official=True)
three_norms = pytest.mark.parametrize("norm", [ExemplarNorm, SwitchNorm, BatchNorm], ids=lambda norm: norm.__name__)
OTHER_SHAPES = [(6, 3, 10, 9), (1, 3, 13, 12), (3, 3, 8, 17)]


def swapped(norm: Callable[[int], Norm]) -> nn.Module:
    """A CIFAR ResNet-8 with running moments of its own."""
    torch.manual_seed(0)
    network = build("cifar/resnet8", num_classes=5)
    swap_norms(network, norm)
    return randomise(network)


def small(norm: Callable[[int], Norm]) -> nn.Module:
    """Two normalisers of different widths, with running moments of their own, in evaluation mode."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), built(norm), nn.ReLU(), nn.Conv2d(8, 4, 3, stride=2), built(norm, 4)
    network = nn.Sequential(*layers)
    network(random(6, 3, 10, 9))
    return network.eval()


def assert_like_eager(compiled: nn.Module, eager: nn.Module, shape: tuple[int, ...]) -> None:
    """Output, gradients and buffers after one step, up to fp32 rounding; `compiled` has the parameters of `eager`."""
    x = random(*shape)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [module(x) for module, x in zip((compiled, eager), inputs, strict=True)]
    dy = torch.randn_like(outputs[1])
    for output, module in zip(outputs, (compiled, eager), strict=True):
        module.zero_grad()
        output.backward(dy)
    close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)
    close(*outputs)
    close(inputs[0].grad, inputs[1].grad)
    for (name, got), want in zip(compiled.named_parameters(), eager.parameters(), strict=True):
        close(got.grad, want.grad, msg=lambda text, name=name: f"{name}: {text}")
    for (name, got), want in zip(compiled.named_buffers(), eager.buffers(), strict=True):
        close(got, want, msg=lambda text, name=name: f"{name}: {text}")


# ---- torch.compile


def assert_compiles_for_training(norm: Callable[[int], Norm]) -> None:
    torch._dynamo.reset()
    eager = built(norm)
    module = copy.deepcopy(eager)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in [(6, 8, 4, 5), (4, 8, 3, 7)]:
        assert_like_eager(compiled, eager, shape)
    if eager.tracks_running_moments:
        assert module.num_batches_tracked == 2


@pytest.mark.parametrize("norm", [ExemplarNorm, BatchNorm], ids=lambda norm: norm.__name__)
def test_compiled_in_training(norm):
    assert_compiles_for_training(norm)


@pytest.mark.slow
@each_norm
def test_every_norm_compiled_in_training(norm):
    assert_compiles_for_training(norm)


@pytest.mark.slow
@three_norms
@pytest.mark.parametrize("training", [True, False])
def test_compiled_network(norm, training):
    torch._dynamo.reset()
    eager = swapped(norm).train(training)
    compiled = torch.compile(copy.deepcopy(eager), fullgraph=True, dynamic=True)
    for batch in (6, 4):
        assert_like_eager(compiled, eager, (batch, 3, 16, 16))


def test_compiled_under_autocast_keeps_the_gate_in_fp32():
    torch._dynamo.reset()
    eager, x = built(ExemplarNorm), random(6, 8, 4, 5)
    module = copy.deepcopy(eager)
    compiled, dy = torch.compile(module, fullgraph=True, backend="aot_eager"), torch.randn_like(x)
    eager(x).backward(dy)
    with torch.autocast("cpu", torch.bfloat16):
        compiled(x).backward(dy)
    for got, want in zip(module.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(got.grad, want.grad, rtol=1e-5, atol=1e-6)


# ---- torch.export


def exported(network: nn.Module, strict: bool = False) -> Callable[[Tensor], Tensor]:
    dims = {0: Dim("n", min=1, max=64), 2: Dim("h", min=8, max=64), 3: Dim("w", min=8, max=64)}
    program = torch.export.export(network, (random(6, 3, 10, 9),), dynamic_shapes=(dims,), strict=strict)
    return program.module()


@each_norm
def test_exported_for_evaluation(norm):
    network = small(norm)
    program = exported(network)
    for shape in OTHER_SHAPES:
        torch.testing.assert_close(program(random(*shape)), network(random(*shape)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("norm", "strict"),
    [
        pytest.param(released_switch_norm, False, id="official SN"),
        pytest.param(released_switch_norm, True, id="official SN, strict", marks=pytest.mark.slow),
        pytest.param(ExemplarNorm, True, id="EN, strict", marks=pytest.mark.slow),
    ],
)
def test_exported_with_dynamic_positions(norm, strict):
    network = small(norm)
    program = exported(network, strict)
    for shape in OTHER_SHAPES:
        torch.testing.assert_close(program(random(*shape)), network(random(*shape)), rtol=1e-4, atol=1e-5)


@three_norms
def test_exported_for_training(norm):
    network = small(norm).train()
    program = exported(copy.deepcopy(network))
    for shape in [(6, 3, 10, 9), (4, 3, 8, 17)]:
        assert_like_eager(program, network, shape)


# ---- ONNX


def assert_runs_in_onnx(network: nn.Module, shapes: list[tuple[int, ...]]) -> None:
    example, file = random(*shapes[0]), io.BytesIO()
    dims = {0: Dim("n", min=1, max=64), 2: Dim("h", min=8, max=64), 3: Dim("w", min=8, max=64)}
    torch.onnx.export(network, (example,), dynamo=True, dynamic_shapes=(dims,), verbose=False).save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (name,) = (argument.name for argument in session.get_inputs())
    for shape in shapes:
        (got,) = session.run(None, {name: random(*shape).numpy()})
        want = network(random(*shape))
        assert (torch.from_numpy(got) - want).abs().max() <= 1e-5 * want.abs().max().clamp_min(1)


def test_onnx():
    assert_runs_in_onnx(small(ExemplarNorm), OTHER_SHAPES)


@pytest.mark.slow
@each_norm
def test_onnx_of_every_norm(norm):
    assert_runs_in_onnx(small(norm), OTHER_SHAPES)


@pytest.mark.slow
@pytest.mark.parametrize("norm", [ExemplarNorm, released_switch_norm], ids=["EN", "official SN"])
def test_onnx_of_a_network(norm):
    assert_runs_in_onnx(swapped(norm).eval(), [(6, 3, 16, 16), (1, 3, 24, 20)])


# ---- torch.jit.trace


def traced(network: nn.Module, x: Tensor) -> nn.Module:
    with warnings.catch_warnings():
        # That tracing is deprecated, and that comparing sizes makes them constants: the checks of an input do.
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        return torch.jit.trace(network, (x,), check_trace=False)


@each_norm
def test_traced(norm):
    network = small(norm)
    program = traced(network, random(6, 3, 10, 9))
    for shape in OTHER_SHAPES:
        torch.testing.assert_close(program(random(*shape)), network(random(*shape)), rtol=1e-4, atol=1e-5)


def test_traced_with_other_positions():
    network = small(released_switch_norm)
    program = traced(network, random(6, 3, 10, 9))
    for shape in OTHER_SHAPES:
        torch.testing.assert_close(program(random(*shape)), network(random(*shape)), rtol=1e-4, atol=1e-5)

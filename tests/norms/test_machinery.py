"""Layers in the hands of other tools: threads, replicas, pruning, ever new shapes, machines without a compiler."""

import copy
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.optim.swa_utils import AveragedModel, update_bn
from torchvision.models.feature_extraction import create_feature_extractor

from en_bench.norms import BatchNorm, ExemplarNorm, Norm, SwitchNorm, programs, swap_norms, tables
from tests.norms.test_contract import built, each_norm, random

three_norms = pytest.mark.parametrize("norm", [ExemplarNorm, SwitchNorm, BatchNorm], ids=lambda norm: norm.__name__)


@pytest.fixture(autouse=True)
def own_graphs() -> Iterator[None]:
    tables.forget()
    yield
    tables.forget()


def step(layer: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    return [y.detach(), *torch.autograd.grad(y, (x, *layer.parameters()), x.detach().sin())]


def swapped(network: nn.Module) -> nn.Module:
    swap_norms(network, ExemplarNorm)
    return network


# ---- Threads


def from_threads(layers: list[Norm], x: Tensor) -> None:
    """Every layer takes 20 steps in a thread of its own, all at once, and comes out as one that was alone."""
    alone = copy.deepcopy(layers[0])
    want = [step(alone, x) for _ in range(20)][-1]
    tables.forget()
    with ThreadPoolExecutor(len(layers)) as pool:
        found = list(pool.map(lambda layer: [step(layer, x) for _ in range(20)][-1], layers))
    for layer, got in zip(layers, found, strict=True):
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b)
        for a, b in zip(layer.buffers(), alone.buffers(), strict=True):
            torch.testing.assert_close(a, b)


@three_norms
def test_threads(norm):
    from_threads([built(norm) for _ in range(4)], random(6, 8, 9, 7))


@pytest.mark.slow
@three_norms
def test_threads_that_compile(norm, monkeypatch, recwarn):
    monkeypatch.setattr(programs, "program_for", lambda norm, x: None)
    monkeypatch.setenv("EN_BENCH_NORMS", "compiled")
    from_threads([built(norm) for _ in range(4)], random(6, 8, 9, 7))
    assert tables.compiled_graphs() == (1, 1)
    assert not recwarn.list


# ---- Tools that put tensors or attributes of their own into a layer


def replica(layer: Norm) -> Norm:
    """What `torch.nn.parallel.replicate` makes for each device: plain tensors where parameters were."""
    copied = layer._replicate_for_data_parallel()
    for name, parameter in layer.named_parameters(recurse=False):
        setattr(copied, name, parameter.clone())
    return copied


@each_norm
def test_replicas_of_data_parallel_share_its_code(norm):
    layer, x = built(norm), random(6, 8, 4, 4)
    want = step(layer, x)
    inputs = x.clone().requires_grad_()
    y = replica(layer)(inputs)
    y.backward(x.sin())
    assert torch.equal(y, want[0])
    assert torch.equal(inputs.grad, want[1])
    assert all(parameter.grad is not None for parameter in layer.parameters())
    # Else every step would compile anew.
    assert tables.constants(replica(layer)) == tables.constants(layer)


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


@three_norms
@pytest.mark.parametrize(
    "change",
    [
        partial(prune.l1_unstructured, name="weight", amount=0.3),
        lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()),
        lambda layer: setattr(layer, "tags", ["a list"]),
        lambda layer: setattr(layer, "forward", layer.forward),
    ],
    ids=["pruned", "parametrised", "tagged", "wrapped forward"],
)
def test_changed_layers_keep_their_code(norm, change):
    layer, twin, x = built(norm), built(norm), random(6, 8, 4, 4)
    change(layer)
    twin.weight = nn.Parameter(layer.weight.detach().clone())
    for _ in range(2):
        y = layer(x)
        assert torch.equal(y, twin(x))
        y.sum().backward()
    assert tables.constants(layer) == tables.constants(twin)


@each_norm
def test_averaged_model_and_its_running_moments(norm):
    network = nn.Sequential(nn.Conv2d(8, 8, 1), built(norm))
    averaged, x = AveragedModel(network), random(6, 8, 4, 4)
    averaged.update_parameters(network)
    # It knows torch's own BatchNorm alone, so it leaves the moments of ours where they are.
    update_bn([x], averaged)
    assert torch.equal(averaged.eval()(x), network.eval()(x))


@each_norm
def test_saved_and_loaded(norm):
    layer, x, file = built(norm), random(6, 8, 4, 4), io.BytesIO()
    layer(x)
    torch.save(layer.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    for assign in (False, True):
        loaded = norm(8)
        loaded.load_state_dict(state, assign=assign)
        assert torch.equal(loaded.eval()(x), layer.eval()(x))


def test_symbolic_traces_take_a_layer_for_a_leaf():
    network = swapped(torchvision.models.resnet18())
    traced, x = torch.fx.symbolic_trace(network), random(2, 3, 64, 64)
    assert sum(isinstance(module, ExemplarNorm) for module in traced.modules()) == 20
    assert torch.equal(traced.eval()(x), network.eval()(x))
    features = create_feature_extractor(network, ["layer2"])
    assert features(x)["layer2"].shape == (2, 128, 8, 8)


# ---- Ever new shapes


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_shapes_need_few_graphs(monkeypatch, recwarn):
    monkeypatch.setenv("EN_BENCH_NORMS", "compiled")
    monkeypatch.setattr(programs, "program_for", lambda norm, x: None)
    torch.manual_seed(0)
    network = swapped(timm.create_model("densenet121", num_classes=5))
    assert len({module.num_features for module in network.modules() if isinstance(module, Norm)}) == 31
    network(torch.randn(2, 3, 64, 64)).sum().backward()
    assert tables.compiled_graphs() == (1, 1)
    network.eval()
    sizes = torch.randint(32, 160, (50, 2)).tolist()
    with torch.no_grad():
        for n, (height, width) in enumerate(sizes):
            network(torch.randn(1 + n % 3, 3, height, width))
    assert tables.compiled_graphs() == (2, 1)
    assert not recwarn.list


# ---- Machines without a compiler

_WITHOUT = """
import torch, warnings
from en_bench.norms import ExemplarNorm, SwitchNorm
torch.manual_seed(0)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for layer in (ExemplarNorm(32), ExemplarNorm(64), SwitchNorm(32)):
        x = torch.randn(4, layer.num_features, 5, 5, requires_grad=True)
        y = layer(x)
        y.square().sum().backward()
        found, x.grad = x.grad, None
        want = layer.plain(x, None, layer.parameter_tensors())[0]
        want.square().sum().backward()
        torch.testing.assert_close(y, want)
        torch.testing.assert_close(found, x.grad, rtol=1e-4, atol=1e-4)
print(*(f"{type(w.message).__name__}: {w.message}" for w in caught), sep="\\n")
"""


def test_without_a_compiler_passes_and_tables_share_one_warning(tmp_path: Path):
    environment = {
        **os.environ,
        "CXX": str(tmp_path / "no-such-compiler"),
        "EN_BENCH_NORMS": "compiled",
        "EN_BENCH_CACHE": str(tmp_path / "maps"),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "tables"),
    }
    command = [sys.executable, "-c", _WITHOUT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    (warning,) = done.stdout.strip().splitlines()
    assert warning.startswith("EnBenchWarning: normalisers run in plain PyTorch")
    assert "install a C++17 compiler" in warning

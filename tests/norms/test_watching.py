"""The ratios that a watcher is told are those that the forward mixes by, and watching changes no bit."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from en_bench.backbones import build
from en_bench.norms import BatchNorm, ExemplarNorm, Norm, SwitchNorm, swap_norms, watching_ratios
from en_bench.norms.maps import native

from .ranks import on_two_ranks
from .reference import randomise
from .transcriptions import exemplar_norm_and_ratios

VARIANTS = {
    "paper": {},
    "two": {"normalizers": ("bn", "in")},
    "one": {"normalizers": ("ln",)},
    "no batch": {"normalizers": ("ln", "in")},
    "relu, whole, shared": {"activation": "relu", "reduce": False, "shared_affine": True},
    "mlp2": {"gate": "mlp2"},
    "mlp3": {"gate": "mlp3"},
}
MODES = ["eager", "compiled", "plain"]


def layer_of(variant: str, channels: int = 12) -> ExemplarNorm:
    torch.manual_seed(1)
    layer = ExemplarNorm(channels, hidden=5, reduction=4, **VARIANTS[variant])
    randomise(layer)
    return layer


def seen_of(layer: Norm, x: Tensor) -> list[Tensor]:
    seen: list[Tensor] = []
    with watching_ratios(lambda norm, ratios: seen.append(ratios)):
        layer(x)
    return seen


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_they_are_those_of_the_equations(monkeypatch, variant, mode, training):
    monkeypatch.setenv("EN_BENCH_NORMS", mode)
    layer = layer_of(variant).double()
    x = torch.randn(6, 12, 5, 3, dtype=torch.float64) + 1
    layer(x + 0.5)
    layer.train(training)
    expected = exemplar_norm_and_ratios(layer, x)[1].detach()
    (ratios,) = seen_of(layer, x.requires_grad_())
    assert not ratios.requires_grad
    assert ratios.shape == (6, len(layer.ratio_names))
    torch.testing.assert_close(ratios, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_they_are_what_the_layer_says_of_narrow_maps_in_any_layout(monkeypatch, dtype, layout, mode):
    monkeypatch.setenv("EN_BENCH_NORMS", mode)
    layer = layer_of("paper", 40)
    x = (torch.randn(17, 40, 9, 9) * 2 + 1).to(dtype).contiguous(memory_format=layout)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        expected = layer.ratios(x)
        (ratios,) = seen_of(layer, x)
    assert ratios.dtype == torch.float32
    torch.testing.assert_close(ratios, expected, rtol=0, atol=2e-6)
    assert ratios.std(0).min() > 1e-4


@pytest.mark.parametrize("mode", MODES)
def test_a_network_trains_to_the_same_bit_whether_it_is_watched_or_not(monkeypatch, mode):
    monkeypatch.setenv("EN_BENCH_NORMS", mode)

    def trained(watched: bool) -> tuple[dict[str, Tensor], list[tuple[str, int]]]:
        torch.manual_seed(0)
        network = build("cifar/resnet8", 5)
        swap_norms(network, ExemplarNorm)
        names = {module: name for name, module in network.named_modules()}
        optimizer, seen = torch.optim.SGD(network.parameters(), lr=0.1), []
        for _ in range(2):
            images = torch.randn(4, 3, 16, 16)
            if watched:
                with watching_ratios(lambda norm, ratios: seen.append((names[norm], len(ratios)))):
                    loss = network(images).square().mean()
            else:
                loss = network(images).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return network.state_dict(), seen

    (one, none), (other, seen) = trained(False), trained(True)
    assert none == [] and all(torch.equal(one[key], other[key]) for key in one)
    layers = [name for name, module in build("cifar/resnet8", 5).named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert sorted(seen) == sorted([(name, 4) for name in layers] * 2)


def test_nobody_is_told_of_other_normalisers_after_the_context_or_of_an_empty_batch():
    x = torch.randn(4, 12, 3, 3)
    assert seen_of(SwitchNorm(12), x) == seen_of(BatchNorm(12), x) == []
    seen: list[Tensor] = []
    layer = layer_of("paper")
    with pytest.raises(KeyError), watching_ratios(lambda norm, ratios: seen.append(ratios)):
        raise KeyError
    layer(x)
    assert seen == []
    assert seen_of(layer.eval(), x[:0]) == []


def test_ratios_told_are_kept_apart_from_what_comes_later():
    layer, x = layer_of("paper").eval(), torch.randn(4, 12, 3, 3)
    (ratios,) = seen_of(layer, x)
    kept = ratios.clone()
    seen_of(layer, x + 1)
    assert torch.equal(ratios, kept)


def test_a_forward_that_is_computed_again_for_backward_says_the_same_again():
    layer, seen = layer_of("no batch"), []
    x = torch.randn(4, 12, 3, 3, requires_grad=True)
    with watching_ratios(lambda norm, ratios: seen.append(ratios)):
        checkpoint(layer, x, use_reentrant=False).sum().backward()
    assert len(seen) == 2 and torch.equal(*seen)


class Turned(ExemplarNorm):
    """Mixes by other ratios than the program knows."""

    def sample_ratios(self, *args: Tensor) -> Tensor:
        return super().sample_ratios(*args).flip(1)


def test_a_subclass_with_ratios_of_its_own_is_asked_itself():
    torch.manual_seed(1)
    layer, x = Turned(12), torch.randn(4, 12, 3, 3)
    (ratios,) = seen_of(layer, x)
    torch.testing.assert_close(ratios, layer.ratios(x), rtol=0, atol=1e-6)


def ratios_of_rank(rank: int) -> Tensor:
    layer = layer_of("paper").double()
    layer.sync = True
    x = torch.arange(8 * 12 * 6, dtype=torch.float64).sin().reshape(8, 12, 2, 3)
    (ratios,) = seen_of(layer, x[rank * 4 :][:4])
    return ratios


@pytest.mark.slow
def test_batch_moments_of_all_ranks_are_those_of_the_mixture(tmp_path):
    x = torch.arange(8 * 12 * 6, dtype=torch.float64).sin().reshape(8, 12, 2, 3)
    found = torch.cat(on_two_ranks(partial(ratios_of_rank), tmp_path))
    torch.testing.assert_close(found, layer_of("paper").double().ratios(x), rtol=0, atol=1e-12)


@pytest.mark.skipif(not native.serves(torch.float32), reason="no C++ compiler")
def test_the_number_of_threads_changes_no_bit():
    before, results = torch.get_num_threads(), []
    torch.manual_seed(4)
    x = torch.randn(33, 12, 12, 12)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results += seen_of(layer_of("paper"), x)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])

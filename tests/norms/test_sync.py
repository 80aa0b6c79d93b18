"""Batch moments over two real processes: what one process computes from the joined batch, for a summed loss."""

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from en_bench.backbones import build
from en_bench.norms import Norm, swap_norms
from en_bench.norms.sync import pool_ranks
from tests.norms.ranks import RANKS, on_two_ranks
from tests.norms.reference import assert_same
from tests.norms.sync_cases import (
    CASES,
    FACTORIES,
    VARIANTS,
    WAYS,
    OtherTensor,
    Outcome,
    Variant,
    joined,
    layer_of,
    map_of,
    outcome,
)

# ---- The ranks


def everything(rank: int) -> dict[str, Any]:
    """One process group for all tests: starting two processes takes longer than all they do."""
    return {
        **{f"{way} {factory} {name}": synchronised(way, factory, VARIANTS[name], rank) for way, factory, name in CASES},
        "evaluation": evaluation(rank),
        "constant input": {way: constant_input(way, "uneven", rank) for way in WAYS},
        "constant input, no sample": constant_input("eager", "no sample", rank),
        "second derivatives": {way: second_derivatives(way, rank) for way in WAYS},
        "ddp": {factory: trained(build_small(factory, sync=True), rank) for factory in FACTORIES},
    }


def synchronised(way: str, factory: str, variant: Variant, rank: int) -> Outcome:
    os.environ["EN_BENCH_NORMS"] = "eager" if way == "differentiable" else way
    layer = layer_of(factory, variant.dtype, sync=True)
    return outcome(layer, *map_of(variant, rank), variant.autocast, differentiable=way == "differentiable")


def evaluation(rank: int) -> list[Tensor]:
    """One rank alone: were anything exchanged, it would wait for the other."""
    if rank == 1:
        return []
    x, _ = map_of(VARIANTS["equal"], 0)
    return [layer_of(factory, torch.float64, sync=True).eval()(x) for factory in FACTORIES]


def constant_input(way: str, name: str, rank: int) -> Outcome:
    """The first layer of a network: its input asks for no gradient."""
    layer, x, dy = one_layer(way, name, rank)
    layer(x).backward(dy)
    return {name: parameter.grad for name, parameter in layer.named_parameters()}


def second_derivatives(way: str, rank: int) -> str:
    layer, x, _ = one_layer(way, "uneven", rank)
    x.requires_grad_()
    try:
        (dx,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        dx.sum().backward()
    except RuntimeError as error:
        return str(error)
    return ""


def one_layer(way: str, name: str, rank: int) -> tuple[Norm, Tensor, Tensor]:
    os.environ["EN_BENCH_NORMS"] = "eager" if way == "differentiable" else way
    x, dy = map_of(VARIANTS[name], rank)
    return (
        layer_of("ExemplarNorm", x.dtype, sync=True),
        x.as_subclass(OtherTensor) if way == "differentiable" else x,
        dy,
    )


def build_small(factory: str, **options: Any) -> nn.Module:
    torch.manual_seed(3)
    network = build("cifar/resnet8", 4)
    swap_norms(network, partial(FACTORIES[factory], **options))
    return network.double()


def trained(network: nn.Module, rank: int | None) -> Outcome:
    """The state after two steps of SGD: of this rank's half of each batch, or of the whole."""
    torch.manual_seed(4)
    model = network if rank is None else DistributedDataParallel(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        image, label = torch.randn(8, 3, 16, 16, dtype=torch.float64), torch.randint(4, (8,))
        if rank is not None:
            image, label = image.chunk(RANKS)[rank], label.chunk(RANKS)[rank]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(image), label).backward()
        optimizer.step()
    return network.state_dict()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, Any]]:
    return on_two_ranks(everything, tmp_path_factory.mktemp("ranks"))


def both_ranks(found: Sequence[Outcome], variant: Variant) -> Outcome:
    """Maps behind each other and gradients of parameters added up; the buffers are the same on both."""
    one: Outcome = {}
    for key, first in found[0].items():
        both = [first, found[1][key]]
        if key in ("output", "x.grad"):
            one[key] = torch.cat(both if variant.joins else [part.flatten() for part in both])
        elif key.endswith(".grad"):
            one[key] = both[0] + both[1]
        else:
            assert torch.equal(*both), f"{key} differs between the ranks"
            one[key] = first
    return one


# ---- Tests


def test_every_class_with_running_moments_is_here():
    assert {"BatchNorm", "SwitchNorm", "ExemplarNorm"} < set(FACTORIES)


def test_many_ranks_far_from_0_with_one_empty():
    torch.manual_seed(0)
    counts = [0, *torch.randint(20, 40, (63,)).tolist()]
    values = [(torch.randn(count, 64) + 1e4).float() for count in counts]
    tables = [
        (part.double().mean(0), part.double().var(0, correction=0)) if len(part) else torch.zeros(2, 64)
        for part in values
    ]
    mean_RC, var_RC = (torch.stack([table.float() for table in t]) for t in zip(*tables, strict=True))
    (mean_C, var_C), count = pool_ranks(mean_RC, var_RC, torch.tensor(counts).float().unsqueeze(1))
    joined_VC = torch.cat(values).double()
    assert count.item() == len(joined_VC)
    # Means are rounded twice, on the rank and at the end: half a unit in the last place of a float32 at 10,000 each.
    assert error(mean_C, joined_VC.mean(0)) < 0.7 * 2**-10
    assert error(var_C, joined_VC.var(0, correction=0)) < 1e-4


@pytest.mark.parametrize(("way", "factory", "name"), CASES, ids=str)
def test_two_ranks_equal_one_with_the_joined_batch(ranks, way, factory, name):
    variant = VARIANTS[name]
    got = both_ranks([rank[f"{way} {factory} {name}"] for rank in ranks], variant)
    exact = joined(factory, variant, torch.float64)
    assert got.keys() == exact.keys()
    alone = joined(factory, variant, variant.dtype)
    for key, want in exact.items():
        assert got[key].dtype == alone[key].dtype, key
        size = max(1.0, want.abs().max().item())  # at least that of the derivatives by the output
        if variant.dtype == torch.float64:
            assert error(got[key], want) <= 1e-12 * size, key
            continue
        # About as near to float64 as one process comes: the order of summing differs.
        steps = 1 if got[key].dtype == torch.bfloat16 else 32
        rounding = steps * torch.finfo(torch.promote_types(got[key].dtype, variant.dtype)).eps
        assert error(got[key], want) <= 4 * error(alone[key], want) + rounding * size, key


def error(got: Tensor, want: Tensor) -> float:
    return (got.double() - want.double()).abs().max().item()


@pytest.mark.parametrize("way", ["eager", "differentiable"])
def test_memory_format_is_kept(ranks, way):
    for rank in ranks:
        found = rank[f"{way} ExemplarNorm channels_last"]
        assert found["output"].is_contiguous(memory_format=torch.channels_last)
        assert found["x.grad"].is_contiguous(memory_format=torch.channels_last)


def test_evaluation_exchanges_nothing(ranks):
    x, _ = map_of(VARIANTS["equal"], 0)
    for got, factory in zip(ranks[0]["evaluation"], FACTORIES, strict=True):
        assert torch.equal(got, layer_of(factory, torch.float64).eval()(x))


@pytest.mark.parametrize("way", WAYS)
def test_parameters_of_a_first_layer(ranks, way):
    exact = joined("ExemplarNorm", VARIANTS["uneven"], torch.float64)
    first, second = (rank["constant input"][way] for rank in ranks)
    for name in first:
        assert_same(first[name] + second[name], exact[f"{name}.grad"], name)


def test_parameters_of_a_first_layer_without_a_sample(ranks):
    """The two ranks go different ways, and have to exchange the same."""
    exact = joined("ExemplarNorm", VARIANTS["no sample"], torch.float64)
    first, second = (rank["constant input, no sample"] for rank in ranks)
    for name, grad in first.items():
        assert_same(grad, exact[f"{name}.grad"], name)
        assert not second[name].any()


@pytest.mark.parametrize("way", WAYS)
def test_second_derivatives_are_refused(ranks, way):
    for rank in ranks:
        told = "once_differentiable" if way == "differentiable" else "through batch moments of several ranks"
        assert told in rank["second derivatives"][way]


@pytest.mark.parametrize("factory", FACTORIES)
def test_ddp_trains_as_one_process(ranks, factory):
    want = trained(build_small(factory), rank=None)
    for rank in ranks:
        for key, value in rank["ddp"][factory].items():
            assert_same(value.double(), want[key].double(), key)


def compiled(rank: int) -> dict[str, Outcome]:
    """By our compiler, and inside a user's, which reads the exchange too."""
    found = {way: synchronised(way, "ExemplarNorm", VARIANTS["float32"], rank) for way in ("eager", "compiled")}
    layer, x, dy = one_layer("eager", "uneven", rank)
    found["inside"] = outcome(layer, x, dy)
    layer, x, dy = one_layer("eager", "uneven", rank)
    got = outcome(torch.compile(layer, backend="aot_eager", fullgraph=True), x, dy)
    found["outside"] = {key.removeprefix("_orig_mod."): value for key, value in got.items()}
    return found


@pytest.mark.slow
def test_compiled(tmp_path):
    for rank in on_two_ranks(compiled, tmp_path):
        for got, other, tolerance in (("compiled", "eager", 1e-5), ("outside", "inside", 1e-12)):
            for key, want in rank[other].items():
                assert error(rank[got][key], want) <= tolerance * max(1.0, want.abs().max().item()), key

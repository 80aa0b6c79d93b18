"""What docs/normalisers.md says is so."""

import re
import textwrap
from pathlib import Path

import pytest
import torch

from en_bench import norms
from en_bench.norms import Norm

DOCS = Path(__file__).parents[2] / "docs" / "normalisers.md"


def test_every_class_is_described():
    text = DOCS.read_text()
    exported = {name: getattr(norms, name) for name in norms.__all__}
    classes = [name for name, cls in exported.items() if isinstance(cls, type) and issubclass(cls, Norm)]
    assert len(classes) > 8
    assert [name for name in classes if f"`{name}" not in text and name != "Norm"] == []


def test_every_key_of_a_state_dict_is_named():
    text = DOCS.read_text()
    for gate in ("relation", "mlp2", "mlp3"):
        for layer in (
            norms.ExemplarNorm(64, gate=gate),
            norms.SparseSwitchNorm(64),
            norms.BatchInstanceNorm(64),
            norms.ConditionalBatchNorm(64),
        ):
            for key in layer.state_dict():
                parts = key.removesuffix(".weight").removesuffix(".bias")
                assert f"`{parts}" in text, key


@pytest.mark.parametrize("mode", ["plain", "eager", "compiled"])
def test_the_normaliser_of_ones_own_works_as_printed(monkeypatch, mode):
    monkeypatch.setenv("EN_BENCH_NORMS", mode)
    (code,) = re.findall(r"(    import torch\n.*?)\n\n[A-Z]", DOCS.read_text(), re.S)
    written: dict = {"__name__": "docs"}
    exec(textwrap.dedent(code), written)
    torch.manual_seed(0)
    layer, x = written["LayerBatchNorm"](8), torch.randn(5, 8, 6, 7, requires_grad=True)
    y = layer(x)
    mean = x.mean((1, 2, 3), keepdim=True)
    want = (x - mean) / (x.var((0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(y, want)
    dy = torch.randn_like(y)
    got, expected = (torch.autograd.grad(out, x, dy)[0] for out in (y, want))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)

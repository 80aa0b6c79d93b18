import textwrap
from pathlib import Path

import pytest

FILES = {
    "base.yaml": "seed_everything: 0\ntrainer: {max_epochs: 2, devices: 1}\ndata: {workers: 2}\n",
    "recipe/digits.yaml": "model: {lr: 1e-1}\n",
    "data/handwritten.yaml": "data: {train: digits/handwritten/train, val: digits/handwritten/val}\n",
    "data/typeset.yaml": "data: {train: digits/typeset/train, val: digits/typeset/val, val_labels: clean}\n",
    "norm/bn.yaml": "model: {norm: {class_path: en_bench.norms.BatchNorm}}\n",
    "norm/en.yaml": "model: {norm: {class_path: en_bench.norms.ExemplarNorm}}\n",
    "digits.yaml": """
        name: digits
        title: Digits, handwritten against typeset
        base: [base.yaml, recipe/digits.yaml]
        norms: {BatchNorm: norm/bn.yaml, ExemplarNorm: norm/en.yaml}
        train:
          handwritten: [data/handwritten.yaml, {data: {val_labels: clean}}]
          typeset: data/typeset.yaml
        seeds: [0, 1]
    """,
}


@pytest.fixture
def spec_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A specification with its overlays in `experiments`, a folder below the current one, and its sets in `data`: of
    each no more than a manifest, which is none, but has the digest that `fake_execute` writes."""
    for name, text in FILES.items():
        path = tmp_path / "experiments" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    for name in ("handwritten/train", "handwritten/val", "typeset/train", "typeset/val"):
        folder = tmp_path / "data" / "digits" / name
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(f"digits/{name}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EN_BENCH_SHARDS", raising=False)
    return Path("experiments/digits.yaml")


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FAKE_TRACE", str(tmp_path / "trace"))
    return tmp_path / "trace"

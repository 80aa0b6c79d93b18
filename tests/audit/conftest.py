"""Runs on a set with a part of its labels flipped, and an audit of one, for the tests of the verb."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from en_bench.cli import main
from en_bench.data.images import ImageEncoder
from en_bench.data.sources import Source
from en_bench.data.writer import write_split
from tests.images import coloured_png, make_split
from tests.test_cli import fit_arguments

CLASSES = ("dark", "grey", "bright")
COUNT = 150
FLIPPED = frozenset(np.random.default_rng(0).permutation(COUNT)[:45].tolist())  # 30 % of the samples
PASSED = ("pass_margin", "pass_loss")


def make_flipped(folder: Path) -> None:
    """A split whose samples show their class by their brightness, with given labels that are wrong for FLIPPED."""
    samples = [
        Source(
            key=f"toy-{i:04d}",
            labels={"given": (i + (i in FLIPPED)) % 3, "clean": i % 3},
            load=lambda i=i: coloured_png(i % 3, i),
            origin=f"toy {i}",
        )
        for i in range(COUNT)
    ]
    encoder = ImageEncoder(encoding="png")
    facts = {"dataset": "toy", "split": folder.name, "classes": CLASSES, "image": encoder.describe()}
    write_split(folder, samples, encode=encoder, source={"made": "toy"}, shards=4, **facts)


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("flipped")
    make_flipped(root / "a" / "train")
    make_split(root / "a" / "val", 30, seed=2)
    return root


@pytest.fixture(scope="session")
def trained(root, tmp_path_factory) -> Path:
    """A run with a record of three epochs, with ExemplarNorm."""
    run = tmp_path_factory.mktemp("trained") / "run"
    options = ("--trainer.max_epochs", 3, "--dynamics.every_n_epochs", 1, "--data.batch_size", 16)
    assert main(fit_arguments(root, run, *options, norm="en")) == 0
    return run


@pytest.fixture(scope="session")
def plain(root, tmp_path_factory) -> Path:
    """A run without a record, with BatchNorm."""
    run = tmp_path_factory.mktemp("plain") / "run"
    assert main(fit_arguments(root, run)) == 0
    return run


@pytest.fixture
def copied(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="session")
def audited(trained, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("audited")
    assert main(audit(trained, "--out", out, "--top", 12, "--bootstrap", 50)) == 0
    return out


def audit(run: Path, *more: object) -> list[str]:
    return ["noise", "audit", str(run), *map(str, more)]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))

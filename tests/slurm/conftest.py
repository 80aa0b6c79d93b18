"""One cluster for the session, and matrices of tiny cells on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from en_bench.matrix.records import Record
from en_bench.matrix.results import Results
from tests.conftest import REPO
from tests.slurm.cluster import Cluster, why_not

EXPERIMENTS = REPO / "experiments"
_SLOWLY = {"class_path": "tests.slurm.slowly.Slowly", "init_args": {"seconds": 0.1}}
EPOCHS = {"max_epochs": 12}
LONG = {**EPOCHS, "callbacks": [_SLOWLY]}
_NOT_FOR_JOBS = ("SLURM_", "SBATCH_", "PYTEST_")


@pytest.fixture(scope="session")
def one_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    pytest.importorskip("submitit", reason="no submitit here: pip install 'en_bench[slurm]'")
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def cluster(one_cluster: Cluster) -> Iterator[Cluster]:
    """With nothing queued, before and after."""
    yield one_cluster
    one_cluster.clear()


@dataclass(frozen=True)
class Matrix:
    """A matrix of tiny cells in a folder, and the commands on it."""

    folder: Path
    environment: dict[str, str]

    @property
    def results(self) -> Results:
        return Results(self.folder / "results" / "tiny")

    def records(self) -> dict[str, Record]:
        """By normaliser."""
        records, warnings = self.results.load()
        assert not warnings
        return {record.norm: record for record in records.values()}

    def command(self, verb: str, *more: str) -> list[str]:
        return ["matrix", verb, "tiny.yaml", "--data-root", "shards", *more]

    def __call__(self, verb: str, *more: str, expected: int = 0, **environment: str) -> str:
        """What a verb prints, errors too; AssertionError if it ends otherwise than expected."""
        done = subprocess.run(
            [sys.executable, "-m", "en_bench", *self.command(verb, *more)],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=200,
            env={**self.environment, **environment},
            check=False,
        )
        assert done.returncode == expected, done.stdout + self.logs()
        return done.stdout

    def submit(self, *more: str) -> str:
        return self("run", "--launcher", "slurm", *more)

    def logs(self) -> str:
        """All that jobs and cells have said."""
        found = [*self.results.folder.glob("slurm/*/*.out"), *self.results.folder.glob("runs/*/log.txt")]
        return "\n".join(f"--- {path}\n{path.read_text(errors='replace')[-3000:]}" for path in found)


@pytest.fixture
def make_matrix(cluster: Cluster, shards: Path, tmp_path: Path) -> Callable[..., Matrix]:
    """A matrix of a ResNet-8 with the given normalisers; `base` adds to what all cells have, `more` to the file."""

    def make(
        norms: dict[str, Any] | None = None, base: dict[str, Any] | None = None, name: str = "m", **more: Any
    ) -> Matrix:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "shards").symlink_to(shards)
        overlays = [str(EXPERIMENTS / "base.yaml"), str(EXPERIMENTS / "recipe" / "digits.yaml")]
        tiny = {
            "trainer": {"max_epochs": 1, "accelerator": "cpu", "devices": 1},
            "data": {"batch_size": 32},
            "model": {"lr": 0.002},
        }
        spec = {
            "name": "tiny",
            "base": [*overlays, tiny, *([base] if base else [])],
            "norms": norms or {"BN": str(EXPERIMENTS / "norm" / "bn.yaml")},
            "train": {"a": {"data": {"train": "a/train", "val": "a/val"}}},
            "seeds": [0],
            **more,
        }
        (folder / "tiny.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
        outside = {key: value for key, value in os.environ.items() if not key.startswith(_NOT_FOR_JOBS)}
        paths = [str(REPO), *outside.get("PYTHONPATH", "").split(os.pathsep)]
        environment = {**outside, **cluster.environment, "OMP_NUM_THREADS": "1"}
        return Matrix(folder, {**environment, "PYTHONPATH": os.pathsep.join(path for path in paths if path)})

    return make


@pytest.fixture(scope="session")
def found_undisturbed() -> dict[str, str]:
    """The numbers of what was run already."""
    return {}


@pytest.fixture
def undisturbed(make_matrix: Callable[..., Matrix], found_undisturbed: dict[str, str]) -> Callable[..., str]:
    """The numbers of a cell that was left alone, in a matrix with such a `base`, on this machine without Slurm."""

    def run(**base: Any) -> str:
        key = json.dumps(base, sort_keys=True)
        if key not in found_undisturbed:
            matrix = make_matrix(base=base, name="undisturbed")
            matrix("run")
            found_undisturbed[key] = numbers(matrix.records()["BN"])
        return found_undisturbed[key]

    return run


def numbers(record: Record) -> str:
    """All that a record tells of the outcome: nothing of time, place, the settings of both and attempts."""
    fit = {key: record.fit[key] for key in ("train", "val", "epochs", "steps", "metrics", "accuracies", "seed")}
    scores = {label: {key: found[key] for key in ("set", "n", "metrics")} for label, found in record.validate.items()}
    return json.dumps([record.status, fit, scores], sort_keys=True, indent=1)


def metrics(matrix: Matrix) -> list[str]:
    """The lines of metrics that the only training of a matrix has written so far."""
    return [
        line for file in matrix.results.folder.glob("runs/*/metrics.jsonl") for line in file.read_text().splitlines()
    ]


def lines(matrix: Matrix) -> int:
    """How many lines of metrics there are so far."""
    return len(metrics(matrix))

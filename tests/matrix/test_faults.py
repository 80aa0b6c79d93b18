"""A matrix whose processes are killed and whose disk fills up, at drawn moments, ends in the undisturbed records."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPO

SPEC = """
name: faults
base:
  - trainer: {max_epochs: 2, accelerator: cpu, devices: 1, num_sanity_val_steps: 0, enable_model_summary: false}
    model: {backbone: cifar/resnet8, lr: 0.05, warmup_epochs: 1}
    data:
      batch_size: 32
      val_batch_size: 32
      workers: 0
      train_transform: {class_path: en_bench.data.transforms.PadCropFlip, init_args: {size: 32, padding: 4, flip: true}}
      val_transform: {class_path: en_bench.data.transforms.CenterCrop, init_args: {size: 32}}
    checkpoint: {every_n_steps: 1}
norms:
  BatchNorm: {model: {norm: BatchNorm}}
  ExemplarNorm: {model: {norm: {class_path: ExemplarNorm, init_args: {hidden: 4}}}}
train:
  a: {data: {train: a/train, val: a/val}}
validate:
  a: {data: {val: a/val}}
  b: {data: {val: b/val}}
seeds: [0]
"""
OTHERWISE = {"cost", "log", "generation", "host", "seconds", "images_per_second", "finished"}
FILES = ["last.ckpt", "/records/", "fit.json", "/validate/", "cell.json", "started.json", "/leases/", "progress.json"]


def drawn_faults(seed: int) -> Iterator[dict[str, Any]]:
    draw = random.Random(seed)
    while True:
        if draw.random() < 0.3:
            whose = draw.choice(["matrix", "fit"])
            yield {"what": "kill after", "seconds": draw.uniform(0.2, 12), "whose": whose}
        else:
            what = draw.choice(["kill writing", "kill before", "kill after writing", "full disk"])
            path = draw.choice(FILES)
            yield {"what": what, "path": path, "count": draw.randint(1, 12 if path == "last.ckpt" else 2)}


def run(folder: Path, shards: Path, fault: dict[str, Any] | None, options: list[str]) -> int:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(REPO), str(REPO / "tests" / "matrix" / "faults")]),
        "FAULT": json.dumps(fault),
    }
    done = subprocess.run(
        [sys.executable, "-m", "en_bench", "matrix", "run", "faults.yaml", "--data-root", str(shards), *options],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    print(fault, options, done.returncode, done.stdout, done.stderr, sep="\n")
    assert "Traceback" not in done.stderr
    return done.returncode


def recorded(folder: Path) -> dict[str, Any]:
    """All records, without what is another in every run."""
    found = {}
    for path in (folder / "results/faults/records").glob("*.json"):
        record = json.loads(path.read_text())
        assert record["status"] == "done"
        assert record["id"] not in found, "two records of a cell"
        found[record["id"]] = without(record)
    return found


def without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without(inner) for key, inner in value.items() if key not in OTHERWISE}
    return [without(inner) for inner in value] if isinstance(value, list) else value


@pytest.fixture(scope="session")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "faults.yaml").write_text(SPEC)
    assert run(folder, shards, None, []) == 0
    records = recorded(folder)
    assert len(records) == 2
    return records


def disturb(folder: Path, shards: Path, undisturbed: dict[str, Any], seed: int, faults: int) -> None:
    (folder / "faults.yaml").write_text(SPEC)
    happened = 0
    for number, fault in enumerate(drawn_faults(seed)):
        once = folder / f"fault-{number}"
        options = random.Random(f"{seed} {number}").choice([[], [], ["--isolate"]])
        ended = run(folder, shards, {**fault, "once": str(once)}, options)
        happened += once.exists()
        if happened >= faults:
            break
        if ended == 0:  # all cells are done: they are compared, and done again
            assert recorded(folder) == undisturbed
            shutil.rmtree(folder / "results")
    assert run(folder, shards, None, []) == 0
    assert recorded(folder) == undisturbed
    left = [path for path in (folder / "results/faults").rglob("*") if ".set-aside" in path.name]
    assert not left


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sample_of_faults(shards: Path, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    disturb(tmp_path, shards, undisturbed, seed=7, faults=6)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_thirty_faults(shards: Path, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    disturb(tmp_path, shards, undisturbed, seed=0, faults=30)

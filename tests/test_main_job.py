"""From shards to the matrix by the real commands: equal to what is typed by hand, and unharmed by a kill."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from en_bench.cli import main
from tests.conftest import REPO, SAME_THREADS

SPEC = """
name: toy
title: Toy sets, for the test
base: [{experiments}/base.yaml, {experiments}/recipe/digits.yaml, {{trainer: {{max_epochs: 1, accelerator: cpu}},
  data: {{batch_size: 32}}}}]
norms:
  BatchNorm: {experiments}/norm/bn.yaml
  ExemplarNorm: {experiments}/norm/en.yaml
train:
  a: {{data: {{train: a/train, val: a/val}}}}
  b: {{data: {{train: b/train, val: b/val}}}}
seeds: [{seeds}]
"""


def write_spec(folder: Path, seeds: str = "0") -> Path:
    path = folder / "toy.yaml"
    path.write_text(SPEC.format(experiments=REPO / "experiments", seeds=seeds))
    return path


def records(results: Path) -> dict[str, dict[str, object]]:
    paths = sorted((results / "toy" / "records").glob("*.json"))
    return {path.name.partition(".")[0]: json.loads(path.read_text()) for path in paths}  # of any generation


def numbers(record: dict[str, object]) -> dict[str, object]:
    """What must not depend on when, where and how the cell was run."""
    fit = record["fit"]
    return {
        "fit": {key: fit[key] for key in ("train", "val", "metrics", "steps", "epochs", "seed")},
        "validate": {label: (r["n"], r["digest"], r["metrics"]) for label, r in record["validate"].items()},
    }


def test_the_matrix_equals_its_commands_typed_by_hand(shards, tmp_path, run_command, monkeypatch, capsys):
    spec = write_spec(tmp_path)
    data = ("--data-root", str(shards))
    done = run_command("matrix", "run", spec, *data, cwd=tmp_path, **SAME_THREADS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "done 4, missing 0, failed 0" in done.stdout
    assert "page: results/toy/report.html" in done.stdout
    assert (tmp_path / "results" / "toy" / "report.html").stat().st_size > 10_000

    monkeypatch.chdir(tmp_path)
    assert main(["matrix", "status", str(spec), *data]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "done 4, missing 0, failed 0"

    assert main(["matrix", "run", str(spec), "--dry-run", "--results", "hand", *data]) == 0
    commands = [shlex.split(line) for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    assert len(commands) == 4 * 3
    first = commands[:3]  # one cell: its fit and two validations
    for command in first:
        assert command[0] == "en-bench"
        assert main(command[1:]) == 0
    found = records(tmp_path / "results")
    cell = re.search(r"runs/([0-9a-f]{16})", " ".join(first[0])).group(1)
    run = tmp_path / "hand" / "toy" / "runs" / cell
    by_hand = {
        "fit": json.loads((run / "fit.json").read_text()),
        "validate": {label: json.loads((run / "validate" / f"{label}.json").read_text()) for label in ("a", "b")},
    }
    assert numbers(by_hand) == numbers(found[cell])


def test_a_failing_cell_does_not_stop_the_others(shards, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    spec = write_spec(tmp_path)
    spec.write_text(
        spec.read_text()
        .replace("BatchNorm: ", "BatchNorm: [{data: {labels: nowhere}}, ")
        .replace("bn.yaml", "bn.yaml]")
    )
    assert main(["matrix", "run", str(spec), "--data-root", str(shards)]) == 1
    told = capsys.readouterr()
    assert "done 2, missing 0, failed 2" in told.out
    assert "FAILED: " in told.out and "no label column 'nowhere'" in told.out
    assert "Traceback" not in told.out + told.err


@pytest.mark.slow
def test_killed_half_way_and_started_again_ends_with_the_same_matrix(shards, tmp_path, run_command):
    spec = write_spec(tmp_path, seeds="0, 1")
    command = ("matrix", "run", spec, "--data-root", shards, "--results")
    whole = run_command(*command, "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stdout + whole.stderr

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen(
        [sys.executable, "-m", "en_bench", *map(str, command), "killed"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    folder = tmp_path / "killed" / "toy" / "records"
    deadline = time.monotonic() + 120
    while len(list(folder.glob("*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)  # into the middle of the next cell
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    assert 3 <= len(before) < 8

    again = run_command(*command, "killed", cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"8 cells, {len(before)} of them done" in again.stdout
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    assert len(after) == 8
    assert all(after[name] == stamp for name, stamp in before.items()), "finished cells were done again"
    first, second = records(tmp_path / "whole"), records(tmp_path / "killed")
    assert {k: numbers(v) for k, v in first.items()} == {k: numbers(v) for k, v in second.items()}
    tables = [(tmp_path / name / "toy" / "tables" / "matrix.csv").read_text() for name in ("whole", "killed")]
    assert tables[0] == tables[1]

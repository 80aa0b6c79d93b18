"""A matrix whose runner was killed in the middle of a training: the training goes on, and its numbers are the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import REPO
from tests.test_main_job import numbers, records

SPEC = """
name: toy
title: One cell, for the test
base: [{experiments}/base.yaml, {experiments}/recipe/digits.yaml, {{trainer: {{max_epochs: 20, accelerator: cpu}},
  data: {{batch_size: 32}}, checkpoint: {{every_n_steps: 2}}}}]
norms: {{BatchNorm: {experiments}/norm/bn.yaml}}
train: {{a: {{data: {{train: a/train, val: a/val}}}}}}
seeds: [0]
"""


@pytest.mark.slow
def test_a_cell_that_was_cut_off_goes_on(shards, tmp_path, run_command):
    spec = tmp_path / "toy.yaml"
    spec.write_text(SPEC.format(experiments=REPO / "experiments"))
    arguments = ["matrix", "run", str(spec), "--data-root", str(shards)]
    runner = subprocess.Popen(
        [sys.executable, "-m", "en_bench", *arguments],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not list(Path(tmp_path).glob("results/toy/runs/*/checkpoints/last.ckpt")):
            assert time.monotonic() < deadline and runner.poll() is None
            time.sleep(0.01)
    finally:
        os.killpg(runner.pid, signal.SIGKILL)
        runner.wait()
    run = next(Path(tmp_path).glob("results/toy/runs/*"))
    assert not (run / "fit.json").exists()
    # However far it told it was: what the checkpoint does not hold is lost.
    step = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    status = run_command("matrix", "status", *arguments[2:], cwd=tmp_path)
    assert f"stopped  BatchNorm/a/0  goes on at epoch {step // 6 + 1}/20\n" in status.stdout

    again = run_command(*arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"goes on where it was cut off, at epoch {step // 6 + 1}/20" in again.stdout
    other = run_command(*arguments, "--results", "undisturbed", cwd=tmp_path)
    assert other.returncode == 0, other.stdout + other.stderr
    found, expected = records(tmp_path / "results"), records(tmp_path / "undisturbed")
    assert list(found) == list(expected) and len(found) == 1
    for cell in found:
        assert numbers(found[cell]) == numbers(expected[cell])
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)

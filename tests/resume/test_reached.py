"""How far the training is that a checkpoint holds, read without torch."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import zipfile
from dataclasses import asdict, replace

import pytest
import torch

from en_bench.cli import main
from en_bench.provenance import device_name
from en_bench.resume.reached import Pace, Reached, add_reached, read_reached
from en_bench.stop import STOPPED
from tests.resume.runs import arguments


def save(path, value, reached=None):
    with path.open("w+b") as file:
        torch.save(value, file)
        if reached is not None:
            add_reached(file, reached)
    return path


def test_the_checkpoint_stays_readable_in_all_ways(tmp_path):
    value = {"state_dict": {f"w{i}": torch.randn(1000) for i in range(300)}}
    reached = Reached(12, 90, 700, 5400, Pace(0.125, None, "H100", 8))
    path = save(tmp_path / "last.ckpt", value, reached)
    assert read_reached(path) == reached
    assert (str(reached), reached.share) == ("epoch 12/90", 700 / 5400)
    for how in ({}, {"mmap": True}):
        found = torch.load(path, weights_only=True, **how)["state_dict"]
        assert all(torch.equal(found[name], weight) for name, weight in value["state_dict"].items())


def test_a_training_without_an_end_has_no_share(tmp_path):
    reached = read_reached(save(tmp_path / "last.ckpt", {}, Reached(3, None, 20, None)))
    assert reached is not None and (str(reached), reached.share) == ("epoch 3", 0.0)


@pytest.mark.parametrize(
    "member",
    [
        *("{}", "[]", "null", "no json", '{"epoch": "1", "epochs": 2, "step": 1, "steps": 2}', " " * 5000),
        '{"epoch": 1, "epochs": 2, "step": null, "steps": 2}',
        '{"epoch": 1, "epochs": 2, "step": 1, "steps": 2, "pace": {"ranks": 1}}',
        json.dumps(asdict(Reached(1, 2, 1, 2, Pace(-1.0, None, "H100", 1)))),
        json.dumps(asdict(Reached(1, 2, 1, 2, Pace(1.0, math.inf, "H100", 1)))),
        json.dumps(asdict(Reached(1, 2, 1, 2, Pace(1.0, None, "H100", 0)))),
    ],
)
def test_what_is_not_ours_says_nothing(tmp_path, member):
    path = save(tmp_path / "last.ckpt", {})
    assert read_reached(path) is None
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("last/en_bench_reached.json", member)
    assert read_reached(path) is None


def test_a_checkpoint_of_a_former_version_tells_no_pace(tmp_path):
    path = save(tmp_path / "last.ckpt", {})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("last/en_bench_reached.json", '{"epoch": 1, "epochs": 2, "step": 1, "steps": 2}')
    assert read_reached(path) == Reached(1, 2, 1, 2)


def test_what_cannot_be_read_says_nothing(tmp_path):
    assert read_reached(tmp_path / "none.ckpt") is None and read_reached(tmp_path) is None
    path = save(tmp_path / "last.ckpt", {"w": torch.randn(1000)}, Reached(1, 2, 3, 4))
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert read_reached(path) is None
    draw = random.Random(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for place in draw.choices(range(len(whole) - 1000, len(whole)), k=3):
            damaged[place] = draw.randrange(256)
        path.write_bytes(damaged)
        read_reached(path)  # whatever it says


@pytest.mark.parametrize(("point", "epoch", "step"), [("batch 0 2", 1, 3), ("batch 1 5", 2, 12)])
def test_a_training_that_was_stopped_says_where_it_goes_on(shards, tmp_path, point, epoch, step):
    run = tmp_path / "run"
    assert main(arguments(shards, run, kill=point, by="SIGUSR1")) == STOPPED
    last = run / "checkpoints" / "last.ckpt"
    reached = read_reached(last)
    assert reached is not None and replace(reached, pace=None) == Reached(epoch, 2, step, 12)
    # The first five steps start up.
    assert (reached.pace is not None) == (step > 5)
    if reached.pace is not None:
        assert reached.pace.device == device_name(torch.device("cpu")) and reached.pace.ranks == 1
        assert reached.pace.seconds_per_step > 0 and reached.pace.validation_images_per_second > 0
    assert torch.load(last, weights_only=True)["global_step"] == step
    program = (
        "import sys; from pathlib import Path; from en_bench.resume.reached import read_reached as read; "
        "print(read(Path(sys.argv[1])), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(last)], capture_output=True, text=True, check=True)
    assert done.stdout == f"epoch {epoch}/2 False\n"
    assert main(arguments(shards, run, kill=point, by="SIGUSR1")) == 0
    reached = read_reached(last)
    assert replace(reached, pace=None) == Reached(2, 2, 12, 12)
    assert reached.pace is not None
    assert json.loads((run / "fit.json").read_text())["steps"] == 12

"""Real commands of two processes: the same scores as one, and trainings that end, whatever the samples and workers."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from en_bench.cli import main
from en_bench.data.manifest import load_manifest
from en_bench.data.shuffle import shuffle_of
from tests.images import make_split
from tests.test_cli import fit_arguments, validate_arguments
from tests.test_unreadable import spoil

pytestmark = pytest.mark.slow

DDP = ("--trainer.devices", 2, "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu")
SCORES = ("top1", "nll", "ece")


def scores(result: Path) -> tuple[dict[str, Any], dict[str, float]]:
    found = json.loads(result.read_text())
    return found, {name: found["metrics"][name] for name in SCORES}


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_one_and_two_processes_score_alike_for_any_workers_and_batch(shards, tmp_path, run_command):
    run = tmp_path / "run"
    assert main(fit_arguments(shards, run, norm="en")) == 0
    results = []
    for ranks, workers, batch in ((1, 0, 61), (1, 1, 7), (1, 3, 5), (2, 0, 31), (2, 3, 3)):
        result = tmp_path / f"{ranks}-{workers}.json"
        options = ("--data.val", "b/val", "--data.workers", workers, "--data.val_batch_size", batch, "--result", result)
        if ranks == 1:
            assert main(validate_arguments(run, *options)) == 0
        else:
            done = run_command(*validate_arguments(run, *options, *DDP), cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            assert done.stdout.count("n 61 of 61") == 1
        results.append(scores(result))
    first, expected = results[0]
    assert 0 < expected["top1"] < 1, "scores that are alike because nothing was learnt prove little"
    for found, values in results:
        assert (found["n"], found["whole_set"], found["digest"]) == (61, True, first["digest"])
        assert values["top1"] == expected["top1"]
        assert values["nll"] == pytest.approx(expected["nll"], rel=1e-5)
        assert values["ece"] == pytest.approx(expected["ece"], abs=1e-5)


def test_two_processes_skip_what_cannot_be_decoded_and_state_it(tmp_path, run_command):
    """One rank's whole batch is unreadable while moments and gradients are exchanged: nobody may wait for it."""
    train, val = make_split(tmp_path / "a" / "train", 50, seed=1, shards=7), make_split(tmp_path / "a" / "val", 31)
    manifest = load_manifest(train)
    assert len({shard.samples for shard in manifest.shards}) > 1, "shards of unequal size"
    counts = tuple(shard.samples for shard in manifest.shards)
    order = shuffle_of(counts, 0, permuted=True).order(0)
    of_rank_1_in_step_2 = order[(2 * 2 + 1) * 3 :][:3].tolist()
    bad = [*of_rank_1_in_step_2, int(order[0]), int(order[20])]
    expected = {("a/train", "train", *where) for where in spoil(train, bad)}
    expected |= {("a/val", "val", *where) for where in spoil(val, [3, 30])}

    run = tmp_path / "run"
    skip = ("--data.on_error", "skip", "--data.workers", 1)
    options = ("--data.batch_size", 3, "--trainer.max_epochs", 2, "--trainer.sync_batchnorm", "true")
    done = run_command(*fit_arguments(tmp_path, run, *options, *skip, *DDP, norm="en"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "fit.json").read_text())["steps"] == 2 * (50 // 6)
    assert done.stdout.count("n 29 of 31 (2 unreadable, skipped)\n") == 2
    # The first epoch may drop some of them, the second sees those, or has nothing new to tell.
    assert 1 <= done.stdout.count("  train a/train  ") <= 2
    assert done.stdout.count("  val a/val  2 cannot be decoded and are skipped: ") == 1
    with (run / "unreadable.csv").open(newline="") as file:
        listed = [tuple(row.values())[:4] for row in csv.DictReader(file)]
    assert len(listed) == len(expected) and set(listed) == expected

    results = []
    for ranks in (1, 2):
        result = tmp_path / f"{ranks}.json"
        arguments = validate_arguments(run, *skip, "--data.val_batch_size", 5, "--result", result)
        if ranks == 1:
            assert main([*arguments, "--trainer.devices", "1", "--trainer.strategy", "auto"]) == 0
        else:
            done = run_command(*arguments, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
        found, values = scores(result)
        assert (found["n"], found["unreadable"], found["whole_set"]) == (29, 2, False)
        results.append(values)
    assert results[0]["top1"] == results[1]["top1"]
    assert results[0]["nll"] == pytest.approx(results[1]["nll"], rel=1e-5)

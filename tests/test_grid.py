"""Validation over processes, workers and batches: the whole grid by hand, a seeded sample of it in every slow run."""

import itertools
import json
import random

import pytest

from en_bench.cli import main
from tests.test_cli import fit_arguments, validate_arguments

GRID = list(itertools.product((1, 2, 3), (0, 1, 3), (7, 31, 200)))  # processes, workers, batch
SAMPLE = random.Random(0).sample(GRID, 3)


@pytest.fixture(scope="module")
def reference(shards, tmp_path_factory):
    """A trained run and its scores on set b in one process, no workers and one batch."""
    run = tmp_path_factory.mktemp("grid") / "run"
    assert main(fit_arguments(shards, run, norm="en")) == 0
    result = run / "reference.json"
    assert main(validate_arguments(run, "--data.val", "b/val", "--data.val_batch_size", 61, "--result", result)) == 0
    return run, json.loads(result.read_text())


def marks(combination):
    return [pytest.mark.slow, pytest.mark.full] if combination in SAMPLE else [pytest.mark.full]


@pytest.mark.parametrize(("processes", "workers", "batch"), [pytest.param(*c, marks=marks(c)) for c in GRID])
def test_scores_do_not_depend_on_how_they_are_computed(reference, tmp_path, run_command, processes, workers, batch):
    run, expected = reference
    result = tmp_path / "result.json"
    how = {"--trainer.devices": processes, "--data.workers": workers, "--data.val_batch_size": batch}
    options = itertools.chain.from_iterable(how.items())
    strategy = ("--trainer.strategy", "ddp" if processes > 1 else "auto")
    done = run_command(
        *validate_arguments(run, "--data.val", "b/val", "--result", result, *options, *strategy), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(result.read_text())
    assert found["n"] == expected["n"] == 61
    assert found["metrics"]["top1"] == expected["metrics"]["top1"]
    assert found["metrics"]["nll"] == pytest.approx(expected["metrics"]["nll"], rel=1e-5)

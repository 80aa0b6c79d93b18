"""A loss that reads a file: what a training makes of its content having changed."""

import json
from pathlib import Path

import pytest

from en_bench.cli import main
from tests.resume.runs import arguments
from tests.resume.watch import Killed


def write(path: Path, right: float) -> None:
    other = (1 - right) / 2
    path.write_text(json.dumps([[right if i == j else other for j in range(3)] for i in range(3)]))


def test_another_matrix_is_refused_mid_run_and_is_no_training_that_has_ended(shards, tmp_path, capsys):
    run, matrix = tmp_path / "run", tmp_path / "transitions.json"
    loss = {"class_path": "en_bench.losses.ForwardCorrection", "init_args": {"matrix": str(matrix)}}
    options = ("--model.loss", json.dumps(loss), "--trainer.max_epochs", 1)
    write(matrix, 0.8)
    with pytest.raises(Killed):
        main(arguments(shards, run, *options, kill="batch 0 4", by="raise"))
    write(matrix, 0.6)
    capsys.readouterr()
    assert main(arguments(shards, run, *options, kill="batch 0 4", by="raise")) == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert "ForwardCorrection trains with another file's content: give the file that it was trained with" in told
    assert "--data.on_change next_epoch" in told
    write(matrix, 0.8)
    assert main(arguments(shards, run, *options, kill="batch 0 4", by="raise")) == 0
    capsys.readouterr()
    assert main(arguments(shards, run, *options, kill="batch 0 4", by="raise")) == 0
    assert "has ended already" in capsys.readouterr().out
    write(matrix, 0.6)
    assert main(arguments(shards, run, *options, kill="batch 0 4", by="raise")) == 1
    assert "already holds a finished training" in capsys.readouterr().err

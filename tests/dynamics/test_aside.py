"""What becomes of a record that another training left: set aside, with nothing of the user's touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from en_bench.cli import main
from en_bench.data.manifest import load_manifest
from en_bench.dynamics import dynamics_facts, read_dynamics
from en_bench.dynamics.files import files_of, set_aside
from tests.dynamics.runs import noisy_arguments
from tests.resume.watch import Killed

OURS = "epoch=00003/rank=00000-step=00000120.parquet"
HALF = "epoch=00004/.rank=00000-step=00000130.parquet.ab12_xyz"
FOREIGN = ["notes.txt", "plots/a.png", "epoch=3/table.parquet", "epoch=00003/.rank=mine", "epoch=00003/rank=1.parquet"]


def made(run: Path, *names: str) -> None:
    for name in names:
        path = run / "dynamics" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def left(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def test_a_folder_of_the_user_is_left_alone(tmp_path):
    made(tmp_path, *FOREIGN)
    (tmp_path / "dynamics" / "empty").mkdir()
    assert set_aside(tmp_path, 1) is None
    assert left(tmp_path) == {f"dynamics/{name}" for name in FOREIGN} and (tmp_path / "dynamics" / "empty").is_dir()


def test_an_empty_folder_and_none(tmp_path):
    assert set_aside(tmp_path, 1) is None
    (tmp_path / "dynamics").mkdir()
    assert set_aside(tmp_path, 1) is None and (tmp_path / "dynamics").is_dir()


@pytest.mark.parametrize("foreign", FOREIGN)
def test_a_record_among_files_of_the_user_leaves_them(tmp_path, foreign):
    made(tmp_path, OURS, HALF, foreign)
    assert set_aside(tmp_path, 2) == tmp_path / "dynamics.2"
    assert left(tmp_path) == {f"dynamics.2/{OURS}", f"dynamics/{foreign}"}
    assert not (tmp_path / "dynamics" / "epoch=00004").exists()


def test_a_record_alone_is_renamed_and_what_a_kill_left_goes(tmp_path):
    made(tmp_path, OURS, HALF)
    assert set_aside(tmp_path, 4) == tmp_path / "dynamics.4"
    assert left(tmp_path) == {f"dynamics.4/{OURS}"} and not (tmp_path / "dynamics").exists()
    made(tmp_path, OURS)
    assert set_aside(tmp_path, 4) == tmp_path / "dynamics.4.2"
    made(tmp_path, HALF)
    assert set_aside(tmp_path, 4) is None and not (tmp_path / "dynamics").exists()


def test_a_training_that_records_nothing_deletes_nothing(noisy, tmp_path):
    run = tmp_path / "run"
    made(run, *FOREIGN)
    off = ("--trainer.max_steps", 1, "--dynamics.every_n_epochs", "null")
    assert main(noisy_arguments(noisy, run, *off)) == 0
    assert left(run / "dynamics") == set(FOREIGN)


def test_a_new_training_sets_the_record_of_another_one_aside_with_the_number_of_its_metrics(noisy, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(Killed):
        main(noisy_arguments(noisy, run, kill="batch 0 2", by="raise"))
    before = {name: path.read_bytes() for name, path in files_of(run).items()}
    assert before
    (run / "metrics.1.jsonl").write_text("")  # of a training that recorded nothing
    off = ("--ckpt_path", "null", "--trainer.max_steps", 1, "--dynamics.every_n_epochs", "null")
    assert main(noisy_arguments(noisy, run, *off)) == 0
    assert not (run / "dynamics").exists()
    assert {p.relative_to(run / "dynamics.2").as_posix(): p.read_bytes() for p in run.glob("dynamics.2/*/*")} == before
    assert (run / "metrics.2.jsonl").exists() and (run / "checkpoints" / "last.2.ckpt").exists()


def test_a_checkpoint_of_elsewhere_does_not_touch_another_record(noisy, tmp_path, capsys):
    run, other = tmp_path / "run", tmp_path / "other"
    for folder in (run, other):
        with pytest.raises(Killed):
            main(noisy_arguments(noisy, folder, "--data.seed", len(folder.name), kill="batch 0 2", by="raise"))
    before = {path.read_bytes() for path in files_of(other).values()}
    (other / "metrics.1.jsonl").write_text("")
    checkpoint = run / "checkpoints" / "last.ckpt"
    seed = ("--data.seed", 3, "--trainer.max_steps", 4)
    assert main(noisy_arguments(noisy, other, *seed, "--ckpt_path", checkpoint)) == 0
    out = capsys.readouterr().out
    assert "what was there has become dynamics.2" in out and "the dynamics of the steps before are not here" in out
    assert {path.read_bytes() for path in other.glob("dynamics.2/*/*")} == before and (
        other / "metrics.2.jsonl"
    ).exists()
    assert set(read_dynamics(other)["step"].to_pylist()) == {2, 3}
    assert list(torch.load(other / "checkpoints" / "last.ckpt", weights_only=True)["en_bench_dynamics"]["files"]) == [
        "epoch=00000/rank=00000-step=00000004.parquet"
    ]


NOISE = json.dumps({"class_path": "en_bench.noise.conditional.SymmetricNoise", "init_args": {"rate": 0.5}})


@pytest.mark.parametrize(
    ("changed", "options"),
    [
        ("labels", ("--data.labels", "clean")),
        ("noise", ("--data.noise", NOISE)),
        ("held_out", ("--data.held_out", 0.2)),
    ],
)
def test_one_record_is_of_one_set_of_labels(noisy, tmp_path, capsys, changed, options):
    run = tmp_path / "run"
    with pytest.raises(Killed):
        main(noisy_arguments(noisy, run, kill="batch 0 4", by="raise"))
    before = {name: path.read_bytes() for name, path in files_of(run).items()}
    goes_on = ("--data.on_change", "next_epoch")
    assert main(noisy_arguments(noisy, run, *goes_on, *options)) == 0
    out = capsys.readouterr().out
    assert f"what was there has become dynamics.1, as {changed} changed" in out and "are not here" not in out
    assert {p.relative_to(run / "dynamics.1").as_posix(): p.read_bytes() for p in run.glob("dynamics.1/*/*")} == before
    rows = read_dynamics(run, ["row", "target"]).to_pylist()
    assert {row["epoch"] for row in rows} == {1}
    if changed == "labels":
        clean = load_manifest(noisy / "a" / "train").load_index().labels["clean"]
        assert all(row["target"] == clean[row["row"]] for row in rows)
        assert dynamics_facts(run)["labels"] == "clean"


def test_other_steps_of_the_same_labels_go_on_in_one_record(noisy, tmp_path, capsys):
    run = tmp_path / "run"
    with pytest.raises(Killed):
        main(noisy_arguments(noisy, run, kill="batch 0 4", by="raise"))
    before = set(files_of(run))
    assert main(noisy_arguments(noisy, run, "--data.on_change", "next_epoch", "--data.batch_size", 16)) == 0
    assert before <= set(files_of(run)) and not list(run.glob("dynamics.*"))

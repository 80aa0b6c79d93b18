"""The files of a record as users meet them: read in part, damaged, missing, or without pyarrow."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from en_bench.cli import main
from en_bench.dynamics import dynamics_facts, ratio_columns, read_dynamics
from en_bench.dynamics.files import files_of, write_rows
from en_bench.errors import InputError
from tests.dynamics.runs import noisy_arguments

FIRST = "epoch=00000/rank=00000-step=00000002.parquet"


def made(run: Path, epoch: int, rank: int, step: int, rows: list[int], **more: list[float]) -> Path:
    path = run / "dynamics" / f"epoch={epoch:05d}" / f"rank={rank:05d}-step={step:08d}.parquet"
    columns = {"row": np.array(rows, np.int32), "loss": np.array(rows, np.float32) + epoch}
    write_rows(path, {**columns, **{k: np.array(v, np.float32) for k, v in more.items()}}, {"epoch": epoch, "seed": 7})
    return path


def test_sorted_by_epoch_and_row_over_files_ranks_and_flushes(tmp_path):
    made(tmp_path, 1, 0, 40, [7, 2])
    made(tmp_path, 0, 1, 20, [5, 1])
    made(tmp_path, 0, 0, 20, [9, 0])
    made(tmp_path, 0, 0, 9, [3])
    made(tmp_path, 100000, 0, 123456789, [4])
    table = read_dynamics(tmp_path)
    assert table.column_names == ["epoch", "row", "loss"]
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        *((0, row, float(row)) for row in (0, 1, 3, 5, 9)),
        *((1, row, row + 1.0) for row in (2, 7)),
        (100000, 4, 100004.0),
    ]
    assert dynamics_facts(tmp_path) == {"seed": 7}


def test_columns_that_are_asked_for_and_no_others(tmp_path):
    made(tmp_path, 0, 0, 1, [1, 0], **{"ratio:a:b:in": [0.5, 0.25]})
    made(tmp_path, 1, 0, 2, [0])
    assert read_dynamics(tmp_path, ["loss"]).to_pydict() == {"epoch": [0, 0, 1], "loss": [0.0, 1.0, 1.0]}
    assert read_dynamics(tmp_path, ["ratio:a:b:in", "epoch"]).to_pydict() == {
        **{"epoch": [0, 0, 1], "ratio:a:b:in": [0.25, 0.5, None]}
    }
    with pytest.raises(InputError, match="no column 'losses': choose from epoch, row, loss, ratio:a:b:in"):
        read_dynamics(tmp_path, ["losses"])


def test_names_of_ratio_columns():
    names = ["row", "ratio:layer1.0.bn1:in", "ratio:layer1.0.bn1:bn", "ratio:bn1:in"]
    assert ratio_columns(names) == {
        "layer1.0.bn1": {"in": "ratio:layer1.0.bn1:in", "bn": "ratio:layer1.0.bn1:bn"},
        "bn1": {"in": "ratio:bn1:in"},
    }


def test_other_files_in_the_folder_are_nothing_of_the_record(tmp_path):
    made(tmp_path, 0, 0, 1, [1])
    for name in (".rank=00000-step=00000002.parquet.ab", "rank=00000-step=2.parquet", "notes.txt"):
        (tmp_path / "dynamics" / "epoch=00000" / name).write_text("no Parquet")
    assert len(read_dynamics(tmp_path)) == 1


def test_no_record_and_a_damaged_one(tmp_path):
    with pytest.raises(InputError, match=r"holds no per-sample dynamics: train it with --dynamics.every_n_epochs 1"):
        read_dynamics(tmp_path)
    path = made(tmp_path, 0, 0, 1, list(range(1000)))
    content = path.read_bytes()
    for broken in (content[:-100], b"", content[:4] + b"\0" * 2000 + content[2004:]):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"step=00000001.parquet cannot be read: .*: copy the run again"):
            read_dynamics(tmp_path)


def test_a_file_of_something_else_is_told(tmp_path):
    made(tmp_path, 0, 0, 1, [1])
    other = tmp_path / "dynamics" / "epoch=00000" / "rank=00001-step=00000001.parquet"
    write_rows(other, {"loss": np.zeros(3, np.float32)}, {})
    with pytest.raises(InputError, match=r"rank=00001-step=00000001.parquet has no column 'row', .*: do without it"):
        read_dynamics(tmp_path)
    write_rows(other, {"row": np.array(["a"])}, {})
    with pytest.raises(InputError, match=r"dynamics has files that do not fit together: .*: copy the run again"):
        read_dynamics(tmp_path)


def test_ratios_of_other_widths_come_as_the_widest(tmp_path):
    path = made(tmp_path, 0, 0, 1, [0])
    rows, half = np.array([0], np.int32), np.array([0.25], np.float16)
    write_rows(path, {"row": rows, "ratio:a:in": half}, {})
    made(tmp_path, 1, 0, 2, [0], **{"ratio:a:in": [1 / 3]})
    table = read_dynamics(tmp_path, ["ratio:a:in"])
    assert str(table.schema.field("ratio:a:in").type) == "float"
    assert table["ratio:a:in"].to_pylist() == [0.25, float(np.float32(1 / 3))]


def test_what_the_documentation_says_of_other_readers(tmp_path):
    made(tmp_path, 0, 0, 1, [0])
    made(tmp_path, 1, 0, 2, [0], **{"ratio:a:in": [1 / 3]})
    assert "ratio:a:in" not in pq.read_table(tmp_path / "dynamics").column_names
    assert "ratio:a:in" in read_dynamics(tmp_path).column_names


def test_the_files_are_small_and_say_what_they_are(undisturbed):
    path = next(iter(files_of(undisturbed).values()))
    schema = pq.read_schema(path)
    assert [str(schema.field(name).type) for name in ("row", "step", "target", "predicted")] == ["int32"] * 4
    assert [str(schema.field(name).type) for name in ("loss", "margin", "ratio:bn1:in")] == ["float"] * 3
    assert schema.metadata[b"epoch"] == b"0" and schema.metadata[b"labels"] == b'"given"'


def test_without_pyarrow_the_cure_is_named_and_nothing_else_needs_it(noisy, tmp_path, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    run = tmp_path / "run"
    left = [run / "metrics.jsonl", run / "checkpoints" / "last.ckpt", run / "dynamics" / FIRST]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"of a training that was cut off")
    assert main(noisy_arguments(noisy, run, "--ckpt_path", "null")) == 1
    assert "pip install 'en_bench[noise]'" in capsys.readouterr().err
    assert all(path.exists() for path in left), "nothing is moved before it is refused"
    off = ("--dynamics.every_n_epochs", "null", "--trainer.max_steps", 1)
    assert main(noisy_arguments(noisy, tmp_path / "off", *off)) == 0


def test_an_interval_below_one_is_refused(noisy, tmp_path, capsys):
    assert main(noisy_arguments(noisy, tmp_path / "run", "--dynamics.every_n_epochs", 0)) == 1
    assert "--dynamics.every_n_epochs 0 is too small: use 1 or more" in capsys.readouterr().err


def test_a_validation_with_the_configuration_of_a_recorded_run(undisturbed, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    before = {name: path.read_bytes() for name, path in files_of(run).items()}
    config, checkpoint = run / "config.yaml", run / "checkpoints" / "last.ckpt"
    assert (
        main(["validate", "--config", str(config), "--ckpt_path", str(checkpoint), "--trainer.callbacks", "null"]) == 0
    )
    assert {name: path.read_bytes() for name, path in files_of(run).items()} == before

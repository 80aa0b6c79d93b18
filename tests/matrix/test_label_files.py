"""Files of transition matrices and class maps: a training on what they held before is stale."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from en_bench.matrix.label_files import changed_files
from en_bench.matrix.plan import Cell, State, plan, plan_cells
from en_bench.matrix.spec import load_spec
from en_bench.matrix.training import mark_started, was_cut_off
from tests.matrix.test_plan import nowhere, record_of

MATRIX = {"class_path": "en_bench.losses.ForwardCorrection", "init_args": {"matrix": "transitions.json"}}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def fit_of(kind: str, sha256_then: str) -> dict[str, Any]:
    noise = {"class_path": "Noise", "init_args": {kind: "transitions.json"}}
    return {
        "loss": {
            "config": {"model": {"loss": MATRIX}, "data": {"noise": None}},
            "loss": {"class": "ForwardCorrection", "matrix_sha256": sha256_then},
            "noise": {"made": None},
        },
        "matrix": {
            "config": {"data": {"noise": noise}},
            "noise": {"made": {"kind": "matrix", "matrix": {"file": "transitions.json", "sha256": sha256_then}}},
        },
        "mapping": {
            "config": {"data": {"noise": noise}},
            "noise": {"made": {"kind": "pair", "mapping": {"file": "transitions.json", "sha256": sha256_then}}},
        },
    }[kind]


@pytest.mark.parametrize("kind", ["loss", "matrix", "mapping"])
def test_a_changed_file_makes_the_cell_stale(spec_file: Path, kind: str) -> None:
    spec = load_spec(spec_file)
    records = {cell.id: record_of(spec, cell) for cell in plan_cells(spec)}
    first = plan_cells(spec)[0].id
    records[first] = replace(records[first], fit={**records[first].fit, **fit_of(kind, sha256(b"before"))})

    def state() -> State:
        item = plan(spec, records, nowhere)[0]
        assert (item.result("typeset") is None) == (item.state is State.STALE)
        return item.state

    assert state() is State.DONE, "a file that is not here is believed"
    Path("transitions.json").write_bytes(b"before")
    assert state() is State.DONE
    Path("transitions.json").write_bytes(b"afterwards")
    assert state() is State.STALE
    assert [item.state for item in plan(spec, records, nowhere)[1:]] == [State.DONE] * 7


@pytest.mark.parametrize(
    "config", [None, "text", {"data": {"noise": {"init_args": {"mapping": {"cat": "dog"}}}}}, {"model": {"loss": "CE"}}]
)
def test_other_configurations_have_none(config: object) -> None:
    assert changed_files({"config": config, "loss": {"class": "CE"}, "noise": {"made": {"mapping": "next"}}}) == []


def test_a_training_that_was_cut_off_goes_on_with_the_same_file_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").write_text("weights")
    cell = Cell("0" * 16, "BN", "a", 0, (), {"model": {"loss": MATRIX}})
    Path("transitions.json").write_bytes(b"before")
    mark_started(run, cell, nowhere)
    assert was_cut_off(run, cell, nowhere)
    Path("transitions.json").write_bytes(b"afterwards")
    assert not was_cut_off(run, cell, nowhere)

"""`en-bench bench matrix`: that it runs, what it sums up, and when it gives a verdict."""

import json
from pathlib import Path
from typing import Any

import pytest

from en_bench.benchmark.matrix import CONTROL, START, VERBS, summarise
from en_bench.benchmark.matrix_material import Shape, large_matrix
from en_bench.cli import main
from en_bench.matrix.plan import count_states, plan
from en_bench.matrix.results import Results
from en_bench.matrix.spec import load_spec


def test_records_that_are_made_up_are_whole(tmp_path: Path) -> None:
    spec = load_spec(large_matrix(tmp_path, Shape(7, 10, 2), recorded=True))
    records, warnings = Results(tmp_path / "results" / "large").load()
    assert not warnings and len(records) == 140
    assert count_states(plan(spec, records, lambda name: None)) == "done 140, missing 0, failed 0"
    sizes = [path.stat().st_size for path in (tmp_path / "results" / "large" / "records").iterdir()]
    assert min(sizes) > 9000  # those of real trainings have 12,000 bytes


def made(seconds: float = 0.5, again: float = 0.5, **changes: Any) -> dict[str, Any]:
    """A record in which every command takes so many seconds, and a run 102 for 100 of its commands."""
    timings = {row: {"median": seconds} for row in (START, *VERBS, CONTROL)}
    timings[CONTROL]["median"] = again
    lists = {"listed": 1120, "recorded": 10_080, "wide": {"norms": 32, "trains": 60, "seeds": 5}}
    lists |= {"record_bytes": 12_000, "timings": timings}
    commands = [{"command": "fit", "seconds": 90.0}, {"command": "validate", "seconds": 60.0}]
    runner = {"cells": 3, "images": 1, "epochs": 1, "seconds": 153.0, "commands": commands}
    return {"quick": False, "repeats": 7, "sections": {"lists": lists, "runner": runner}, **changes}


def test_goals_are_seconds_of_large_matrices_and_a_share_of_the_runners_commands() -> None:
    found = summarise(made(1.5, again=1.5))
    rows = {row["command"]: row for row in found["lists"]}
    assert rows["plan, nothing done"]["verdict"] == "missed by 50.0%"
    assert rows["report, many"]["verdict"] == rows["status, many"]["verdict"] == "met"
    assert rows[START]["verdict"] == rows[CONTROL]["verdict"] == rows["page, many"]["verdict"] == ""
    (runner,) = found["runner"]
    assert runner["ratio"] == pytest.approx(1.02) and runner["per_cell"] == pytest.approx(1.0)
    assert runner["verdict"] == "met"


@pytest.mark.parametrize("changes", [{"quick": True}, {"repeats": 3}, {"again": 0.6}])
def test_no_verdict_under_other_conditions(changes: dict[str, Any]) -> None:
    rows = {row["verdict"] for row in summarise(made(**changes))["lists"]}
    assert rows == {"", "none"}


def test_too_few_cells_or_too_short_trainings_give_no_verdict() -> None:
    record = made()
    record["sections"]["lists"]["recorded"] = 9_999
    record["sections"]["runner"]["commands"] = [{"command": "fit", "seconds": 30.0}]
    found = summarise(record)
    assert {row["verdict"] for rows in found.values() for row in rows} == {"", "none"}


def test_what_cannot_be_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "matrix", "--repeats", "0"]) == 1
    assert "--repeats 0 is too few" in capsys.readouterr().err


@pytest.mark.slow
def test_a_quick_measurement_is_kept_and_shown_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "record.json"
    files = ("--json", str(kept), "--markdown", str(tmp_path / "it.md"))
    assert main(["bench", "matrix", "--quick", "--repeats", "1", "--lists", "--runner", *files]) == 0
    out = capsys.readouterr().out
    assert "--quick" in out and "  met" not in out
    record = json.loads(kept.read_text())
    assert record["complete"] and set(record["sections"]["lists"]["timings"]) == {START, CONTROL, *VERBS}
    commands = record["sections"]["runner"]["commands"]
    assert [command["command"] for command in commands] == ["fit", "validate", "validate"] * 4
    assert sum(command["seconds"] for command in commands) < record["sections"]["runner"]["seconds"]
    assert main(["bench", "matrix", "--from", str(kept)]) == 0
    assert capsys.readouterr().out.split("\n\n")[0].strip() in out
    assert "What the runner adds" in (tmp_path / "it.md").read_text()

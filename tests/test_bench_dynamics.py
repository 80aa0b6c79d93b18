"""`en-bench bench dynamics`: that it runs, what it sums up, and when it gives a verdict."""

import json
from typing import Any

import pytest
import torch

from en_bench.benchmark.dynamics import ALONE, CONTROL, DYNAMICS, RECORDED, measure, summarise
from en_bench.benchmark.networks import Task
from en_bench.cli import main
from en_bench.dynamics.recording import Recording


def test_a_quick_measurement_is_kept_and_shown_again(tmp_path, capsys):
    kept = tmp_path / "record.json"
    assert main(["bench", "dynamics", "--quick", "--json", str(kept), "--markdown", str(tmp_path / "it.md")]) == 0
    out = capsys.readouterr().out
    assert "--quick" in out and "  met" not in out
    record = json.loads(kept.read_text())
    assert record["complete"] and set(record["sections"]["steps"]["timings"]) == {ALONE, CONTROL, *RECORDED}
    assert set(record["sections"]["steps"]["writing"]) == {"dynamics", "dynamics with ratios", "all of it"}
    assert record["sections"]["steps"]["bytes"]["dynamics with ratios"] > 0
    assert main(["bench", "dynamics", "--from", str(kept)]) == 0
    table = capsys.readouterr().out.split("\n\n")[0].strip()
    assert table and table in out
    assert "dynamics with ratios" in (tmp_path / "it.md").read_text()


def made(memorisation: float, again: float = 1.0, **changes: Any) -> dict[str, Any]:
    """A record in which a step takes 100 ms, and the file of an epoch 390 ms: 1 ms of each of its steps."""
    times = {ALONE: 100, CONTROL: 100 * again, **dict.fromkeys(RECORDED, 101), "memorisation": memorisation}
    steps = {
        "timings": {name: {"median": value / 1e3} for name, value in times.items()},
        "writing": {name: {"median": 0.39} for name, (recorded, _, _) in RECORDED.items() if recorded},
        "bytes": {},
    }
    return {"quick": False, "mode": "compiled", "repeats": 15, "sections": {"steps": steps}, **changes}


def test_a_step_bears_its_share_of_the_file_of_an_epoch():
    rows = {row["recorded"]: row for row in summarise(made(104))["steps"]}
    assert rows["dynamics"]["step"] == pytest.approx(1.01) and rows["dynamics"]["ratio"] == pytest.approx(1.02)
    assert rows["dynamics"]["verdict"] == "met"
    assert rows["memorisation"]["ratio"] == pytest.approx(1.04)
    assert rows["memorisation"]["verdict"] == "missed by 1.0%"
    assert rows[CONTROL]["verdict"] == ""


def test_what_is_done_once_an_epoch_is_timed_with_its_file_and_in_no_step(monkeypatch):
    monkeypatch.setattr("en_bench.benchmark.dynamics.EPOCH_BATCHES", 6)
    monkeypatch.setattr("en_bench.dynamics.recording._BATCHES_ON_DEVICE", 4)
    done: list[str] = []
    found: list[dict[str, list[str]]] = []  # of the steps, of the writing
    for method in ("take", "_move"):
        original = getattr(Recording, method)
        monkeypatch.setattr(Recording, method, lambda self, m=method, o=original: [done.append(m), o(self)][1])

    def watch(calls: dict[str, Any], *_: object, **__: object) -> dict[str, None]:
        found.append({})
        for name, call in calls.items():
            done.clear()
            for _ in range(7 if len(found) == 1 else 1):
                call()
            found[-1][name] = list(done)
        return dict.fromkeys(calls)

    monkeypatch.setattr("en_bench.benchmark.dynamics.interleaved", watch)
    measure(Task("cifar/resnet8", 2, 8), torch.device("cpu"), 1, True)
    steps, writing = found
    assert not any(steps.values())
    assert set(writing) == {"dynamics", "dynamics with ratios", "all of it"}
    assert all(calls == ["_move", "take", "_move"] for calls in writing.values())


@pytest.mark.parametrize("changes", [{"quick": True}, {"repeats": 5}, {"mode": "eager"}, {"again": 1.02}])
def test_no_verdict_under_other_conditions(changes):
    assert {row["verdict"] for row in summarise(made(101, **changes))["steps"]} == {"", "none"}


def test_what_cannot_be_measured(tmp_path, capsys):
    assert main(["bench", "dynamics", "--repeats", "0"]) == 1
    assert "--repeats 0 is too few" in capsys.readouterr().err
    (tmp_path / "other.json").write_text('{"format": "other"}')
    assert main(["bench", "dynamics", "--from", str(tmp_path / "other.json")]) == 1
    assert f"not what `{DYNAMICS.verb} --json` of this version writes" in capsys.readouterr().err

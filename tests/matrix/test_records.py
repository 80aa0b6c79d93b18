import json
import math
from pathlib import Path
from typing import Any

import pytest

from en_bench.lease_guard import LeaseLost
from en_bench.matrix.records import Record
from en_bench.matrix.results import Results


def record(**changes: Any) -> Record:
    part = {"set": "a/train", "digest": "d"}
    values: dict[str, Any] = {
        "id": "0" * 16,
        "spec": "digits",
        "status": "done",
        "norm": "BatchNorm",
        "train": "handwritten",
        "seed": 0,
        "overlays": {"a": 1},
        "log": "runs/x/log.txt",
        "fit": {"seed": 0, "train": part, "val": part, "metrics": {"val/top1": 0.5}, "cost": {}},
        "validate": {"typeset": {"set": "b/val", "n": 3, "metrics": {"top1": 0.25}}},
        "targets": {"typeset": {"data.val": "b/val"}},
    }
    return Record(**(values | changes))


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    results = Results(tmp_path)
    saved = [record(), record(id="1" * 16, status="failed", reason="no – <b>", fit={}, validate={}, targets={})]
    for one in saved:
        results.save(one)
    assert results.load() == ({one.id: one for one in saved}, [])
    assert sorted(path.name for path in (tmp_path / "records").iterdir()) == ["0" * 16 + ".json", "1" * 16 + ".json"]


def test_file_names_format_and_version(tmp_path: Path) -> None:
    Results(tmp_path).save(record())
    raw = json.loads((tmp_path / "records" / f"{'0' * 16}.json").read_text())
    assert (raw["format"], raw["version"]) == ("en_bench.record", 1)
    assert raw["cell"] == {"norm": "BatchNorm", "train": "handwritten", "seed": 0}


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "null",
        lambda text: "[" * 100_000,
        lambda text: text.replace('"version": 1', '"version": 2'),
        lambda text: text.replace('"done"', '"perhaps"'),
        lambda text: text.replace("0.25", '"0.25"'),
        lambda text: text.replace('"n": 3', '"n": null'),
        lambda text: text.replace('"n": 3', '"n": true'),
        lambda text: text.replace('"fit": {', '"tif": {'),
        lambda text: text.replace('"id": "0', '"id": "1'),
        lambda text: "\udc80\x00",
    ],
)
def test_damaged_record_is_a_warning_that_names_the_file(damage: Any, tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.save(record(id="1" * 16))
    results.save(record())
    path = results.record("0" * 16)
    path.write_text(damage(path.read_text()), errors="surrogateescape")
    records, warnings = results.load()
    assert list(records) == ["1" * 16]
    assert len(warnings) == 1
    assert str(path) in warnings[0]
    assert "missing" in warnings[0]
    assert "\n" not in warnings[0]


@pytest.mark.parametrize(
    ("fact", "value", "told"),
    [
        ("commit", "abc", "'commit' is of the wrong type"),
        ("held_out", True, "'held_out' is of the wrong type"),
        ("held_out", {"n": "3"}, "'held_out.n' is of the wrong type"),
        ("noise", {"changed": {"rate": "a"}}, "'noise.changed.rate' is of the wrong type"),
        ("noise", {"made": {"rate": 0.4}}, "'kind' is missing"),
        ("batch", [1], "'batch' is of the wrong type"),
        ("config", {"trainer": 1}, "'config.trainer' is of the wrong type"),
        ("epochs", [1], "'epochs' is of the wrong type"),
        ("epochs", True, "'epochs' is of the wrong type"),
        ("cost", {"seconds": math.nan}, "not readable as JSON"),
        ("cost", {"images_per_second": math.inf}, "not readable as JSON"),
        ("cost", {"flops": 2**70}, "'cost.flops' is no number, or too large"),
        ("cost", {"peak_memory_bytes": "many"}, "'cost.peak_memory_bytes' is of the wrong type"),
        ("train", {"set": "a", "labels": 5}, "'train.labels' is of the wrong type"),
        ("accuracies", {"last": {"epoch": 1}}, "the metric 'top1' is '', not a number"),
        ("train", {"set": "a", "variant": {"sources": 3}}, "'train.variant.sources' is of the wrong type"),
        ("metrics", {"val/top1": 10**16}, "the metric 'val/top1' is too large a number"),
        ("metrics", {"val/top1": 10**400}, "not readable as JSON"),
        ("device", "half a character: \ud83d", "no low surrogate in string"),
    ],
)
def test_facts_that_no_table_could_show_are_a_warning(fact: str, value: Any, told: str, tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.records.mkdir()
    raw = record().to_json()
    results.record("0" * 16).write_text(json.dumps(raw | {"fit": {**raw["fit"], fact: value}}))
    records, (warning,) = results.load()
    assert not records
    assert f"{'0' * 16}.json: ignored" in warning and told in warning and len(warning) < 400


def test_facts_may_be_null_or_absent(tmp_path: Path) -> None:
    nothing: dict[str, Any] = dict.fromkeys(
        ("noise", "held_out", "epochs", "ranks", "batch", "config", "device", "versions", "commit", "classes_digest")
    )
    results = Results(tmp_path)
    results.save(record(fit={**record().fit, **nothing, "cost": {"seconds": None}}))
    assert len(results.load()[0]) == 1


def test_a_reason_is_one_printable_line() -> None:
    raw = record(status="failed", reason="no\x1b[2J\n\n# σ\u202e <b>").to_json()
    assert Record.from_json(raw).reason == "no\\x1b[2J # σ\\u202e <b>"


def test_no_folder_means_no_records(tmp_path: Path) -> None:
    assert Results(tmp_path / "none").load() == ({}, [])


def test_the_highest_generation_counts_and_is_written_once(tmp_path: Path) -> None:
    results = Results(tmp_path)
    failed = record(status="failed", reason="a full disk")
    results.save(failed)
    results.save(record(generation=3))
    assert [path.name for path in results.records.iterdir()] == [f"{failed.id}.3.json"]
    with pytest.raises(LeaseLost, match=r"\.3\.json is there already"):
        results.save(record(status="failed", reason="late", generation=3))
    results.save(record(status="failed", reason="late", generation=2))  # of one that was asleep
    assert results.find(failed.id) == results.load()[0][failed.id] == record(generation=3)
    results.record(failed.id, 3).write_text("{")
    records, (warning,) = results.load()
    assert records[failed.id].generation == 2
    assert f"{failed.id}.3.json: ignored, generation 2 counts instead: not readable as JSON" in warning
    results.record(failed.id, 2).write_text("{")
    records, warnings = results.load()
    assert not records and ["counts as missing" in each for each in warnings] == [True, True]
    assert results.generation(failed.id) == 3


@pytest.mark.parametrize("value", [3, {"set": 3}, {"set": "a", "samples": "x"}])
def test_images_of_a_recalibration_that_no_table_could_show_are_a_warning(value: Any, tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.records.mkdir()
    raw = record().to_json()
    odd = {label: {**result, "recalibrated": value} for label, result in raw["validate"].items()}
    assert odd
    results.record("0" * 16).write_text(json.dumps(raw | {"validate": odd}))
    records, (warning,) = results.load()
    assert not records and "'recalibrated" in warning and warning.endswith("is of the wrong type")

"""A small real matrix, trained twice: the rerun's numbers are equal, and the tables say what they rest on."""

import json
import re
from pathlib import Path

import pytest
import yaml

from en_bench.cli import main
from en_bench.data.manifest import classes_digest
from tests.conftest import REPO

SPEC = {
    "name": "toy",
    "base": [
        str(REPO / "experiments" / "base.yaml"),
        str(REPO / "experiments" / "recipe" / "digits.yaml"),
        {"trainer": {"max_epochs": 1, "accelerator": "cpu"}, "data": {"batch_size": 32}},
    ],
    "norms": {label: str(REPO / "experiments" / "norm" / f"{label}.yaml") for label in ("bn", "en")},
    "train": {"a": {"data": {"train": "a/train", "val": "a/val"}}},
    "validate": {"a": {"data": {"val": "a/val"}}, "b": {"data": {"val": "b/val"}}},
    "seeds": [0],
    "reported": {"source": "made up", "tolerance": 100, "values": {"a": {"a": {"en": 50}}}},
}


@pytest.mark.slow
def test_a_rerun_gives_the_same_numbers(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = Path("toy.yaml")
    spec.write_text(yaml.safe_dump(SPEC, sort_keys=False))
    for results in ("first", "second"):
        assert main(["matrix", "run", str(spec), "--results", results, "--data-root", str(shards)]) == 0
    capsys.readouterr()
    assert main(["matrix", "diff", "first/toy", "second/toy"]) == 0
    told = "equal 2, failed in both 0, differ 0, other settings 0, only in A 0, only in B 0\n"
    assert capsys.readouterr().out.endswith(told)

    records = [json.loads(path.read_text()) for path in Path("first/toy/records").glob("*.json")]
    flops = {record["cell"]["norm"]: record["fit"]["cost"]["flops"] for record in records}
    assert flops["en"] > flops["bn"] > 20_000_000
    assert main(["matrix", "report", str(spec), "--results", "first", "--data-root", str(shards)]) == 0
    out = capsys.readouterr().out
    classes = classes_digest(("dark", "grey", "bright"))[:8]
    tables = out.count("trained on  ") + out.count("normaliser  own validation set")
    assert tables == 7
    data = rf"class map {classes}; a n 93, labels given, digest [0-9a-f]{{8}}, variant sizes as they were; b n 61"
    assert len(re.findall(data, out)) == tables - 1
    assert f"class map: {classes}\n" in out
    assert f"{flops['en'] / 1e6:.2f} M" in out
    assert "± 100      within" in out

    path = next(Path("second/toy/records").glob("*.json"))
    record = json.loads(path.read_text())
    record["validate"]["b"]["metrics"]["top1"] += 1 / 61
    path.write_text(json.dumps(record))
    assert main(["matrix", "diff", "first/toy", "second/toy"]) == 1
    assert "validate b metrics top1" in capsys.readouterr().out
    assert main(["matrix", "diff", "first/toy", "second/toy", "--tolerance", "0.02"]) == 0

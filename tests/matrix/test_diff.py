"""Two result folders cell by cell."""

import argparse
import gc
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from en_bench.errors import InputError
from en_bench.matrix.diff import Verdict, compare, counted, same
from en_bench.matrix.records import Record
from en_bench.matrix.results import Results
from en_bench.matrix.verbs import add_verbs
from tests.matrix import fake_execute

HERE = Path(__file__).parent.parent / "report"
FIRST = "BatchNorm/photos/0"


def diff(*argv: object) -> int:
    parser = argparse.ArgumentParser(prog="en-bench")
    add_verbs(parser.add_subparsers(required=True))
    args = parser.parse_args(["matrix", "diff", *map(str, argv)])
    code = args.handler(args, fake_execute.execute)
    assert isinstance(code, int)
    return code


def records() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((HERE / "records").glob("*.json"))]


def find(raw: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(r for r in raw if "{norm}/{train}/{seed}".format(**r["cell"]) == name)


def folder(path: Path, raw: list[dict[str, Any]]) -> Path:
    (path / "records").mkdir(parents=True)
    for record in raw:
        (path / "records" / f"{record['id']}.json").write_text(json.dumps(record))
    return path


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return folder(tmp_path / "a", records())


def of(raw: list[dict[str, Any]]) -> dict[str, Record]:
    return {record["id"]: Record.from_json(record) for record in raw}


def test_a_rerun_elsewhere_with_the_same_numbers_is_equal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, again = records(), records()
    for record in first:
        for made in filter(None, (record["fit"], *record["validate"].values(), *record["adapted"].values())):
            made.update(finished="today", config={"root": "/w"}, checkpoint="/z", ranks=1)
    for record in again:
        record["log"] = "elsewhere"
        for made in filter(None, (record["fit"], *record["validate"].values(), *record["adapted"].values())):
            made.update(device="another", finished="tomorrow", config={"root": "/x"}, checkpoint="/y", ranks=2)
            made["commit"] = {"sha": "f" * 40, "dirty": True}
        if record["fit"]:
            record["fit"]["cost"] = {"seconds": 1}
            record["fit"]["a fact of later versions"] = 1
    a, b = folder(tmp_path / "a", first), folder(tmp_path / "b", again)
    assert diff(a, b) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"A: {a}, 17 records"
    assert "device:  NVIDIA A100-SXM4-80GB | another" in out
    assert "commit:  0123456789            | ffffffffff with uncommitted changes" in out
    assert out[-1] == "equal 16, failed in both 1, differ 0, other settings 0, only in A 0, only in B 0"
    assert sum(line.startswith("equal ") for line in out) == 17


def test_what_differs_is_named_with_how_much(a: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = records()
    first = find(raw, FIRST)
    before = first["validate"]["web_images"]["metrics"]["top1"]
    first["validate"]["web_images"]["metrics"]["top1"] = before + 0.001
    first["adapted"]["web_images"]["metrics"]["ece"] = None
    find(raw, "SwitchNorm/photos/0")["fit"]["epochs"] = 90
    find(raw, "ExemplarNorm/web_images/1")["reason"] = "another"
    b = folder(tmp_path / "b", raw)
    assert diff(a, b) == 1
    out = capsys.readouterr().out
    told = " ".join(out.split())
    assert f"validate web_images metrics top1 {before:.10g} | {before + 0.001:.10g} +0.001 " in told
    assert re.search(r" adapted web_images metrics ece 0\.\d+ \| none ", told)
    assert " fit epochs 100 | 90 -10 " in told
    assert " reason torch.OutOfMemoryError" in told
    assert out.splitlines()[-1].startswith("equal 14, failed in both 0, differ 3")
    assert diff(a, b, "--tolerance", 0.002) == 1
    assert "top1" not in capsys.readouterr().out
    assert diff(a, b, "--tolerance", 1000) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert " fit epochs 100 | 90 -10 " in told, "a tolerance is for what is measured"


@pytest.mark.parametrize(("tolerance", "equal"), [(0.0, False), (0.0099, False), (0.0101, True)])
def test_tolerance_is_absolute_and_for_numbers(tolerance: float, equal: bool) -> None:
    raw = records()
    find(raw, FIRST)["validate"]["photos"]["metrics"]["top1"] += 0.01
    assert same(compare(of(records()), of(raw), tolerance)) is equal


@pytest.mark.parametrize("value", [None, float("nan")])
def test_no_tolerance_makes_a_diverged_training_equal(value: float | None) -> None:
    raw = records()
    find(raw, FIRST)["validate"]["photos"]["metrics"]["top1"] = value
    (differing,) = [c for c in compare(of(records()), of(raw), 1e9) if c.verdict is Verdict.DIFFERS]
    assert differing.name == FIRST


def test_a_metric_or_a_validation_on_one_side_only_differs() -> None:
    raw = records()
    first = find(raw, FIRST)
    del first["validate"]["photos"]
    first["validate"]["web_images"]["metrics"]["new"] = 1.0
    (differing,) = [c for c in compare(of(records()), of(raw)) if c.verdict is Verdict.DIFFERS]
    assert [d.row() for d in differing.differences] == [
        ("validate photos", "there", "none", ""),
        ("validate web_images metrics new", "none", "1", ""),
    ]


def test_no_moments_to_adapt_on_one_side_only_differs() -> None:
    raw = records()
    first = find(raw, FIRST)
    del first["adapted"]["web_images"]
    first["no_moments"] = {"web_images": {"set": "web_images/train", "normalisers": 0}}
    (differing,) = [c for c in compare(of(records()), of(raw)) if c.verdict is Verdict.DIFFERS]
    assert [d.row() for d in differing.differences] == [
        ("adapted web_images", "there", "none", ""),
        ("no_moments web_images", "none", "there", ""),
    ]


def test_cells_on_one_side_and_cells_of_other_settings(
    a: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = records()
    gone, other = find(raw, "SwitchNorm/photos/2"), find(raw, FIRST)
    raw.remove(gone)
    other["id"], other["overlays"] = "f" * 16, {**other["overlays"], "model": {"lr": 0.2}}
    new = json.loads(json.dumps(find(raw, "BatchNorm/photos/1")))
    new["id"], new["cell"]["seed"] = "e" * 16, 7
    b = folder(tmp_path / "b", [*raw, new])
    assert diff(a, b) == 1
    out = capsys.readouterr().out
    assert "    model.lr  none | 0.2" in out
    assert out.splitlines()[-1] == "equal 14, failed in both 1, differ 0, other settings 1, only in A 1, only in B 1"
    found = {c.name: c.verdict for c in compare(of(records()), of([*raw, new]))}
    assert found["SwitchNorm/photos/2"] is Verdict.ONLY_A and found["BatchNorm/photos/7"] is Verdict.ONLY_B


def test_of_a_class_with_arguments_what_differs_is_told() -> None:
    raw, others = records(), records()
    norm = {"class_path": "ExemplarNorm", "init_args": {"groups": 8, "eps": 1e-5}}
    find(raw, FIRST)["overlays"] = {"model": {"norm": norm, "head": "linear"}}
    other = find(others, FIRST)
    other["id"] = "f" * 16
    other["overlays"] = {
        "model": {"norm": {**norm, "init_args": {"groups": 4, "eps": 1e-5}}, "head": {"class_path": "x"}}
    }
    (differing,) = [c for c in compare(of(raw), of(others)) if c.verdict is Verdict.OTHER_SETTINGS]
    assert [d.row() for d in differing.differences] == [
        ("model.norm.init_args.groups", "8", "4", "-4"),
        ("model.head", "linear", '{"class_path": "x"}', ""),
    ]


def test_columns_stand_below_each_other_and_an_empty_side_is_said(
    a: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    diff(a, folder(tmp_path / "b", []))
    out = capsys.readouterr().out.splitlines()
    assert "device:    NVIDIA A100-SXM4-80GB | none" in out
    cells = [line for line in out if line.startswith("only in A ")]
    assert len(cells) == 17 and len({len(line) for line in cells}) == 1


def test_records_of_former_settings_are_all_told() -> None:
    """A folder keeps them, under the same name."""
    former = json.loads(json.dumps(find(records(), FIRST)))
    former["id"] = "f" * 16
    raw = records()
    raw.remove(find(raw, FIRST))
    found = compare(of([*records(), former]), of(raw))
    assert [c.verdict for c in found if c.name == FIRST] == [Verdict.ONLY_A, Verdict.ONLY_A]
    assert counted(found) == "equal 15, failed in both 1, differ 0, other settings 0, only in A 2, only in B 0"
    other = {**json.loads(json.dumps(former)), "id": "e" * 16}
    assert counted(compare(of([*records(), former]), of([*raw, other]))).endswith("only in A 2, only in B 1")


def test_with_the_specification_what_both_lack_is_told_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = {**records()[0], "id": "f" * 16}
    folder(tmp_path / "results" / "paper", [*records(), foreign])
    b = folder(tmp_path / "b", records())
    assert diff(HERE / "paper.yaml", b / "records", "--results", tmp_path / "results") == 0
    out = capsys.readouterr().out
    assert "17 records, and 1 of no cell of the specification" in out
    assert out.splitlines()[-2:] == [
        "missing         BatchNorm/web_images/2",
        "equal 16, failed in both 1, differ 0, other settings 0, only in A 0, only in B 0, missing in both 1",
    ]


def test_nothing_to_compare_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = folder(tmp_path / "results" / "paper", []), folder(tmp_path / "b", [])
    for command in ([a, b], [HERE / "paper.yaml", b, "--results", tmp_path / "results"]):
        assert diff(*command) == 1
        assert capsys.readouterr().out.splitlines()[-1].startswith("nothing was compared")


@pytest.mark.parametrize("label", ["cost", "device", "config", "checkpoint"])
def test_a_validation_set_may_be_called_as_what_is_not_compared(label: str) -> None:
    both = records(), records()
    for raw, top1 in zip(both, (0.1, 0.9), strict=True):
        first = find(raw, FIRST)
        first["validate"][label] = {**first["validate"]["photos"], "metrics": {"top1": top1}}
        first["targets"][label] = {"data.val": f"{label}/val"}
    (differing,) = [c for c in compare(*map(of, both)) if c.verdict is Verdict.DIFFERS]
    assert [d.row() for d in differing.differences] == [(f"validate {label} metrics top1", "0.1", "0.9", "+0.8")]


def test_cells_that_failed_on_both_sides_are_told_apart_and_are_no_success_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (failed,) = [record for record in records() if record["status"] == "failed"]
    a, b = folder(tmp_path / "a", [failed]), folder(tmp_path / "b", [failed])
    assert diff(a, b) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[-2:] == [
        "equal 0, failed in both 1, differ 0, other settings 0, only in A 0, only in B 0",
        "no numbers were compared: all cells failed on both sides",
    ]
    (trained,) = compare(of([failed]), of([{**failed, "fit": find(records(), FIRST)["fit"]}]))
    assert trained.verdict is Verdict.DIFFERS and [d.row() for d in trained.differences] == [
        ("fit", "none", "there", "")
    ]


def test_damaged_records_are_warned_of(a: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    b = folder(tmp_path / "b", records())
    next(iter((b / "records").iterdir())).write_text("{")
    assert diff(a, b) == 1
    captured = capsys.readouterr()
    assert "ignored" in captured.err and captured.out.splitlines()[-1].startswith(
        "equal 15, failed in both 1, differ 0"
    )
    assert "only in A 1" in captured.out


@pytest.mark.parametrize("tolerance", ["-1", "nan", "inf"])
def test_what_is_no_tolerance(tolerance: str, a: Path) -> None:
    with pytest.raises(InputError, match="--tolerance"):
        diff(a, a, f"--tolerance={tolerance}")


def test_what_is_no_folder_of_results(a: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no folder records/ in it: give a matrix's folder"):
        diff(a, tmp_path / "nowhere")


def test_results_of_one_run_survive_their_own_files(tmp_path: Path) -> None:
    results = Results(tmp_path)
    for record in of(records()).values():
        results.save(record)
    assert same(compare(results.load()[0], of(records())))


def test_as_a_command_without_torch(a: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "en_bench", "matrix", "diff", str(a), str(a)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.endswith("equal 16, failed in both 1, differ 0, other settings 0, only in A 0, only in B 0\n")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert not imported & {"torch", "lightning", "scipy", "matplotlib"}


def test_the_collector_is_on_again_after_an_error(a: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        diff(a, tmp_path / "nowhere")
    assert gc.isenabled()


def test_a_part_of_a_set_is_not_the_whole_of_one_that_says_nothing() -> None:
    part, silent = records(), records()
    for raw, said in ((part, {"whole_set": False}), (silent, {})):
        for label, result in raw[0]["validate"].items():
            raw[0]["validate"][label] = {k: v for k, v in result.items() if k != "whole_set"} | said
    found = compare(of(part), of(silent))
    assert not same(found)
    (differing,) = (one for one in found if one.verdict is Verdict.DIFFERS)
    assert {d.where[-1] for d in differing.differences} == {"whole_set"}
    said = records()
    for label in said[0]["validate"]:
        said[0]["validate"][label]["whole_set"] = True
    assert same(compare(of(said), of(silent))), "what says nothing is whole"

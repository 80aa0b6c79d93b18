"""What `en-bench bench norms` makes of times: figures, verdicts and tables of records made by hand; taking turns."""

import math
from typing import Any

import pytest
import torch

from en_bench.benchmark.contenders import BATCH_NORM, CONTROL
from en_bench.benchmark.goals import CPU_STEPS, Goal
from en_bench.benchmark.settings import SHAPES
from en_bench.benchmark.summary import summarise
from en_bench.benchmark.table import Table
from en_bench.benchmark.tabulate import tables
from en_bench.benchmark.timing import Reading, WallClock, interleaved


def timing(seconds: float) -> dict[str, float]:
    return {"median": seconds, "lower": seconds, "upper": seconds, "n": 15}


def layers_record(**changes: Any) -> dict[str, Any]:
    """EN at 0.8 and 1.25 of BatchNorm in each memory format: a geometric mean of 1."""
    cases = [
        {
            "shape": list(shape),
            "format": form,
            "dtype": "bfloat16",
            "timings": {BATCH_NORM: timing(1e-3), "ExemplarNorm": timing(seconds)},
        }
        for form in changes.get("formats", ["contiguous", "channels_last"])
        for shape, seconds in (((32, 64, 56, 56), 0.8e-3), ((128, 64, 8, 8), 1.25e-3))
    ]
    settings = {
        "norms": ["ExemplarNorm"],
        "shapes": [list(shape) for shape in SHAPES],
        "formats": ["contiguous", "channels_last"],
        "dtypes": ["bfloat16"],
        "repeats": 15,
    }
    record = {
        "quick": False,
        "kind": "cpu",
        "device": "a processor, 2 threads",
        "threads": 2,
        "mode": "compiled",
        "warnings": [],
        "peak_gbs": None,
        "settings": {**settings, **{key: value for key, value in changes.items() if key in settings}},
        "sections": {"layers": {"pairs": [["ExemplarNorm", BATCH_NORM]], "cases": cases}},
    }
    return {**record, **{key: value for key, value in changes.items() if key not in settings}}


def test_geometric_mean_worst_and_verdict():
    (row,) = summarise(layers_record())["layers"]
    assert math.isclose(row["geometric_mean"], 1.0)
    assert math.isclose(row["worst"], 1.25) and row["worst_at"] == "128x64x8x8 contiguous"
    assert row["goal"] == "<= 1.15 and 1.80 (stretch 1.00 and 1.50)"
    assert row["verdict"].startswith("met")


def test_a_verdict_says_by_how_much_a_goal_was_missed():
    goal = Goal(1.0, 1.3, (0.9, 1.1))
    assert goal.verdict(1.0, 1.3) == "met"
    assert goal.verdict(0.9, 1.1) == "met, and the stretch"
    assert goal.verdict(0.9, 1.2) == "met"
    assert goal.verdict(1.25, 1.3) == "missed by 25%"
    assert goal.verdict(0.9, 2.6) == "missed worst by 100%"
    assert goal.verdict(1.1, 1.43) == "missed by 10%, worst by 10%"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"quick": True}, "--quick"),
        ({"mode": "eager"}, "EN_BENCH_NORMS is eager"),
        ({"warnings": ["normalisers run in plain PyTorch"]}, "plain PyTorch"),
        ({"repeats": 14}, "median of 14"),
        ({"threads": 1}, "1 thread, not 2"),
        ({"shapes": [[32, 64, 56, 56]]}, "other shapes"),
        ({"formats": ["channels_last"]}, "memory formats channels_last"),
        ({"kind": "cuda", "formats": ["channels_last"], "device": "NVIDIA A100"}, "NVIDIA A100, not an H100"),
    ],
)
def test_other_conditions_get_no_verdict_and_the_reason(changes, told):
    record = layers_record(**changes)
    if record["kind"] == "cuda":
        give_host_times(record)
    (row,) = summarise(record)["layers"]
    assert row["verdict"] == "none"
    assert told in tables(record)["layers"][-1].notes[-1]


@pytest.mark.parametrize(("again", "verdict"), [(1.04e-3, "met"), (1.06e-3, "none"), (0.9e-3, "none")])
def test_a_machine_that_was_not_quiet_gets_no_verdict(again, verdict):
    record = layers_record()
    for case in record["sections"]["layers"]["cases"]:
        case["timings"][CONTROL] = timing(again)
    assert summarise(record)["layers"][0]["verdict"].partition(",")[0] == verdict
    assert ("not quiet" in tables(record)["layers"][-1].text()) == (verdict == "none")


def give_host_times(record: dict[str, Any]) -> None:
    for case in record["sections"]["layers"]["cases"]:
        for found in case["timings"].values():
            found["host"] = 50e-6


def test_a_gpu_s_record_has_its_own_goal_and_its_share_of_the_bandwidth():
    device = {"kind": "cuda", "device": "NVIDIA H200", "formats": ["channels_last"], "peak_gbs": 200.0}
    record = layers_record(**device)
    give_host_times(record)
    (row,) = summarise(record)["layers"]
    assert (row["goal"], row["verdict"]) == ("<= 1.10", "met")
    ratios, bandwidth, host, summary = tables(record)["layers"]
    # 8 maps of 32 * 64 * 56 * 56 values in bfloat16 are 102.76 MB; in 0.8 ms that is 128.45 GB/s of 200.
    assert bandwidth.rows[1][:2] == ["ExemplarNorm", "64%"]
    assert host.rows[0][1:] == ["50", "50"]
    assert ratios.rows[-1][2:] == ["0.80", "1.25"] and summary.rows[0][3] == "1.00"


def test_what_did_not_fit_into_memory_is_told_and_gets_no_verdict():
    record = layers_record()
    for case in record["sections"]["layers"]["cases"][1::2]:
        case["timings"]["ExemplarNorm"] = None
    (row,) = summarise(record)["layers"]
    assert math.isclose(row["worst"], 0.8) and row["cases"] == 2 and row["verdict"] == "none"
    assert tables(record)["layers"][-2].rows[-1][2:] == ["0.80", "memory"]


def test_steps_memory_and_first_use_are_judged():
    step = {"network": "timm/resnet50", "batch": 16, "size": 224, "dtype": "float32", "compiled": False}
    names = {BATCH_NORM: timing(1.0), "ExemplarNorm": timing(1.02), "obvious ExemplarNorm": timing(2.5)}
    about = {"network": "timm/resnet50", "batch": 16, "size": 224, "dtype": "float32"}
    process = {"shapes": 12, "graphs": 2, "process": 20.0, "fallbacks": []}
    uses = {"first": {**process, "compiling": 50.0}, "second": {**process, "compiling": 4.0}}
    record = layers_record(dtypes=["float32"]) | {
        "sections": {
            "steps": {"cases": [{**step, "timings": names}]},
            "memory": {"cases": [{**about, "bytes": {BATCH_NORM: 1000, "ExemplarNorm": 1030}}]},
            "first_use": {"cases": [{"network": "timm/resnet50", "size": 224, "norm": "ExemplarNorm", **uses}]},
        }
    }
    found = summarise(record)
    assert CPU_STEPS["timm/resnet50", "float32"] == 1.03
    assert [(row["goal"], row["verdict"]) for row in found["steps"]] == [("<= 1.03", "met"), ("", "")]
    assert [row["verdict"] for row in found["memory"]] == ["missed by 1%"]
    assert [row["verdict"] for row in found["first_use"]] == ["missed by 11%", "met"]
    printed = "".join(table.text() for made in tables(record).values() for table in made)
    assert "1.020" in printed and "<= 45 s" in printed and "no verdicts" not in printed


def test_tables_align_in_text_and_in_markdown():
    table = Table("Title", "lr", ["name", "ms"], [["a|b", "1.00"], ["long name", "10.00"]], ["a note"])
    assert table.text() == "Title\nname          ms\na|b         1.00\nlong name  10.00\na note\n"
    assert "| --- | ---: |\n| a\\|b | 1.00 |" in table.markdown()


# ---- Taking turns


class Scripted:
    """Readings that are known: the n-th of a call takes n seconds."""

    def __init__(self) -> None:
        self.order: list[object] = []

    def prepare(self, call: Any) -> int:
        return 1

    def read(self, call: Any, prepared: int) -> Reading:
        self.order.append(call())
        return Reading(float(self.order.count(self.order[-1])), None)


def test_calls_take_turns_in_changing_order():
    watch = Scripted()
    found = interleaved({name: lambda name=name: name for name in "abc"}, watch, 5)
    rounds = [tuple(watch.order[i : i + 3]) for i in range(0, 15, 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert len(set(rounds)) > 1
    assert found["b"] == {"median": 3.0, "lower": 2.0, "upper": 4.0, "n": 5}


def test_a_call_without_memory_leaves_the_others_measured():
    def fails() -> None:
        raise torch.OutOfMemoryError

    found = interleaved({"small": lambda: None, "large": fails}, WallClock(torch.device("cpu"), 0.0), 2)
    assert found["large"] is None and found["small"]["n"] == 2


def test_short_calls_are_repeated_within_a_reading():
    calls = []
    clock = WallClock(torch.device("cpu"), block=0.01)
    prepared = clock.prepare(lambda: calls.append(1))
    assert prepared > 100
    calls.clear()
    clock.read(lambda: calls.append(1), prepared)
    assert len(calls) == prepared

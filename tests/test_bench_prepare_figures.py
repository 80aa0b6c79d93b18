"""What `en-bench bench prepare` makes of times: figures, verdicts, hours and tables of records made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from en_bench.benchmark import prepare_workers
from en_bench.benchmark.prepare_rates import (
    CONTROL,
    ENCODER_KEPT,
    ENCODER_RESIZED,
    PILLOW,
    PROTOTYPE,
    SIMPLEJPEG,
    TAR,
    TAR_SYNC,
    WRITE_COPIED,
    WRITE_KEPT,
    WRITE_RESIZED,
)
from en_bench.benchmark.prepare_settings import REPEATS
from en_bench.benchmark.prepare_summary import summarise
from en_bench.benchmark.prepare_tables import tables


def timing(seconds: float) -> dict[str, float]:
    return {"median": seconds, "lower": seconds, "upper": seconds, "n": 8}


def record(**changes: Any) -> dict[str, Any]:
    """1,000 images: written at 500/s kept, at 300/s resized; copied at 80 % of tar; two workers at 95 and 85 %."""
    seconds = {WRITE_KEPT: 2.0, PILLOW: 2.2, SIMPLEJPEG: 1.7, CONTROL: 1.7, ENCODER_KEPT: 1.9}
    seconds |= {WRITE_RESIZED: 4.0, ENCODER_RESIZED: 3.8, PROTOTYPE: 5.0}
    both = {"images": 1000, "bytes": 10**8}
    writing, alone = prepare_workers.writing, prepare_workers.alone
    cases = [
        {
            "work": work,
            "images": 1000,
            "workers": [1, 2],
            "timings": {
                writing(1): timing(one),
                writing(2): timing(one / 2 / efficiency),
                alone(1): timing(1.0),
                alone(2): timing(0.5),
            },
        }
        for work, one, efficiency in (("kept", 2.0, 0.95), ("resized", 4.0, 0.85))
    ]
    made = {
        "quick": False,
        "cores": 2,
        "images": {"archive": "a.tar", "distinct": 10, "left_out": 0, "mean_bytes": 1e5, "copies": 1000, "parts": 8},
        "settings": {
            "gigabytes": 2.0,
            "short_side": 352,
            "quality": 90,
            "workers": [1, 2],
            "repeats": dict(REPEATS),
            **changes.pop("settings", {}),
        },
        "sections": {
            "rates": {**both, "timings": {name: timing(value) for name, value in seconds.items()}},
            "copy": {**both, "timings": {WRITE_COPIED: timing(1.0), TAR: timing(0.8), TAR_SYNC: timing(1.1)}},
            "workers": {"shards": 8, "cases": cases},
        },
    }
    return {**made, **changes}


def test_shares_are_of_rates_and_judged_by_their_goals() -> None:
    made = summarise(record())
    rows = {
        (row["name"], row["against"]): (round(row["share"], 4), row["verdict"]) for row in made["rates"] + made["copy"]
    }
    assert rows == {
        (WRITE_KEPT, PILLOW): (1.1, "met"),
        (WRITE_KEPT, SIMPLEJPEG): (0.85, "missed by 5.6%"),  # 1 - 0.85 / 0.9
        (WRITE_KEPT, ENCODER_KEPT): (0.95, ""),
        (WRITE_RESIZED, ENCODER_RESIZED): (0.95, "met"),
        (WRITE_RESIZED, PROTOTYPE): (1.25, "met"),
        (CONTROL, SIMPLEJPEG): (1.0, ""),
        (WRITE_COPIED, TAR): (0.8, "met"),
        (WRITE_COPIED, TAR_SYNC): (1.1, ""),
    }


def test_efficiency_and_hours_by_hand() -> None:
    made = summarise(record())
    rows = {(row["work"], row["workers"]): row for row in made["workers"]}
    assert rows["kept", 1]["rate"] == 500 and rows["kept", 1]["verdict"] == ""
    assert rows["kept", 2]["efficiency"] == pytest.approx(0.95) and rows["kept", 2]["verdict"] == "met"
    assert rows["kept", 2]["rate"] == pytest.approx(950) and rows["kept", 2]["alone"] == 1
    assert rows["resized", 2]["verdict"] == "missed by 5.6%"
    hours = {(row["dataset"].split()[0], row["work"]): row["hours"] for row in made["projection"]}
    assert hours["ImageNet", "kept"] == pytest.approx(1_331_167 / (16 * 475) / 3600)
    assert hours["WebVision", "resized"] == pytest.approx(2_489_574 / (16 * 250 * 0.85) / 3600)


def test_more_workers_than_cores_are_neither_judged_nor_projected() -> None:
    made = summarise(record(cores=1))
    assert {row["verdict"] for row in made["workers"]} == {""}
    assert {row["workers_measured"] for row in made["projection"]} == {1}


@pytest.mark.parametrize(
    ("changes", "section", "words"),
    [
        ({"quick": True}, "rates", "--quick"),
        ({"settings": {"gigabytes": 0.5}}, "copy", "0.5 GB of images, not 2"),
        ({"settings": {"quality": 80}}, "rates", "shorter side 352 and quality 80"),
        ({"settings": {"repeats": {"rates": 8, "copy": 5, "workers": 2}}}, "workers", "median of 2, not of 3"),
    ],
)
def test_no_verdict_where_the_conditions_are_others(changes: dict[str, Any], section: str, words: str) -> None:
    made = record(**changes)
    assert {row["verdict"] for row in summarise(made)[section]} <= {"none", ""}
    assert any(words in note for table in tables(made)[section] for note in table.notes)


def test_no_verdict_on_a_machine_that_was_not_quiet() -> None:
    made = record()
    made["sections"]["rates"]["timings"][CONTROL] = timing(1.7 * 1.06)
    assert {row["verdict"] for rows in list(summarise(made).values())[:3] for row in rows} == {"none", ""}
    assert "the machine was not quiet" in tables(made)["copy"][-1].notes[-1]


def test_tables_show_rates_per_process() -> None:
    made = tables(record())
    assert ["write_split, kept", "500", "500", "500", "50", "8"] in list(map(list, made["rates"][0].rows))
    assert ["without resizing", "2", "950", "475", "0.950", "1.000", "8", ">= 0.90", "met"] in made["workers"][0].rows
    assert made["workers"][1].rows[0] == ["ImageNet (1,281,167 + 50,000)", "without resizing", "475", "0.05"]

"""The figures that a measurement of preparing comes down to, with goals and verdicts. Pure over records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from en_bench.benchmark.conditions import ratio
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
from en_bench.benchmark.prepare_settings import GIGABYTES, QUALITY, REPEATS, SHORT_SIDE
from en_bench.benchmark.prepare_workers import alone, writing

Row = dict[str, Any]

QUIET = 0.05  # how far from 1 the same thing measured twice may be
CORES = 16  # of the projection
NEAR_LINEAR = 0.9  # of so many times one process
DATASETS = {"ImageNet (1,281,167 + 50,000)": 1_331_167, "WebVision 1.0 (2,439,574 + 50,000)": 2_489_574}

# Of which of two rates the project wants at least which share of the other; None where there is no goal.
SHARES: dict[str, list[tuple[str, str, float | None]]] = {
    "rates": [
        (WRITE_KEPT, PILLOW, 0.9),
        (WRITE_KEPT, SIMPLEJPEG, 0.9),
        (WRITE_KEPT, ENCODER_KEPT, None),
        (WRITE_RESIZED, ENCODER_RESIZED, 0.9),
        (WRITE_RESIZED, PROTOTYPE, 1.0),
        (CONTROL, SIMPLEJPEG, None),
    ],
    "copy": [(WRITE_COPIED, TAR, 0.8), (WRITE_COPIED, TAR_SYNC, None)],
}


def summarise(record: Mapping[str, Any]) -> dict[str, list[Row]]:
    """For each section of a record its rows; with `workers` those of the projection too."""
    made: dict[str, list[Row]] = {}
    for section in record["sections"]:
        if section in SHARES:
            made[section] = list(_shares(record, section))
        elif section == "workers":
            made[section] = list(_efficiencies(record))
            made["projection"] = list(_projection(record))
    return made


def deviations(record: Mapping[str, Any], section: str) -> list[str]:
    """In what a measurement differs from what the goals are set for: with any of these there is no verdict."""
    settings, found = record["settings"], []
    if record["quick"]:
        found.append("--quick")
    if settings["gigabytes"] < GIGABYTES:
        found.append(f"{settings['gigabytes']:g} GB of images, not {GIGABYTES:g}")
    if (settings["short_side"], settings["quality"]) != (SHORT_SIDE, QUALITY) and section != "copy":
        found.append(f"shorter side {settings['short_side']} and quality {settings['quality']}")
    if settings["repeats"][section] < REPEATS[section]:
        found.append(f"median of {settings['repeats'][section]}, not of {REPEATS[section]} or more")
    rates = record["sections"].get("rates")
    noise = None if rates is None else ratio(rates["timings"], CONTROL, SIMPLEJPEG)
    if noise is not None and abs(noise - 1) > QUIET:
        found.append(f"{CONTROL} took {noise:.2f} of itself: the machine was not quiet")
    return found


def _shares(record: Mapping[str, Any], section: str) -> Iterator[Row]:
    timings = record["sections"][section]["timings"]
    for name, against, goal in SHARES[section]:
        share = ratio(timings, against, name)  # rates are as the inverse of times
        if share is not None:
            yield {"name": name, "against": against, "share": share, **_judged(record, section, goal, share)}


def _efficiencies(record: Mapping[str, Any]) -> Iterator[Row]:
    for case in record["sections"]["workers"]["cases"]:
        timings = case["timings"]
        for workers in case["workers"]:
            efficiency = timings[writing(1)]["median"] / timings[writing(workers)]["median"] / workers
            goal = NEAR_LINEAR if 1 < workers <= record["cores"] else None
            yield {
                "work": case["work"],
                "workers": workers,
                "rate": case["images"] / timings[writing(workers)]["median"],
                "efficiency": efficiency,
                "alone": timings[alone(1)]["median"] / timings[alone(workers)]["median"] / workers,
                **_judged(record, "workers", goal, efficiency),
            }


def _projection(record: Mapping[str, Any]) -> Iterator[Row]:
    """Hours on CORES cores: the rate of one process, by the efficiency of most processes that had a core each."""
    for case in record["sections"]["workers"]["cases"]:
        rows = [row for row in _efficiencies(record) if row["work"] == case["work"]]
        most = max((row for row in rows if row["workers"] <= record["cores"]), key=lambda row: int(row["workers"]))
        rate = rows[0]["rate"] * min(1.0, most["efficiency"])
        for dataset, images in DATASETS.items():
            about = {"dataset": dataset, "work": case["work"], "workers_measured": most["workers"]}
            yield {**about, "rate": rate, "hours": images / (CORES * rate) / 3600}


def _judged(record: Mapping[str, Any], section: str, goal: float | None, value: float) -> dict[str, str]:
    if goal is None:
        return {"goal": "", "verdict": ""}
    verdict = "met" if value >= goal else f"missed by {1 - value / goal:.1%}"
    if deviations(record, section):
        verdict = "none"
    return {"goal": f">= {goal:.2f}", "verdict": verdict}

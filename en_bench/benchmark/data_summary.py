"""The figures that a measurement of streams comes down to, with goals and verdicts. Pure over records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from en_bench.benchmark import data_goals as goals
from en_bench.benchmark.conditions import ratio
from en_bench.benchmark.data_compared import OURS, SAME_DECODER, WAYS, timing
from en_bench.benchmark.data_goals import Bound
from en_bench.benchmark.data_memory import slope
from en_bench.benchmark.data_rates import (
    BYTES,
    GPU,
    PEER_BYTES,
    Images,
    Stage,
    alone,
    control,
    standard,
    stream,
)
from en_bench.benchmark.data_settings import EPOCHS, REPEATS, SAMPLES
from en_bench.benchmark.data_turns import NOT_INSTALLED, first_epoch

Row = dict[str, Any]

QUIET = 0.05  # how far from 1 the same thing measured twice may be
_SIZE = 224  # pixels of crops that the goals are set for


def summarise(record: Mapping[str, Any]) -> dict[str, list[Row]]:
    """For each section of a record its rows: `what`, `against`, `value`, `digits`, `unit`, `goal` and `verdict`."""
    made: dict[str, Callable[[Mapping[str, Any]], Iterator[Row]]] = {
        "rates": _rates,
        "peers": _peers,
        "memory": _memory,
        "scale": _scale,
        "training": _training,
    }
    return {section: list(made[section](record)) for section in record["sections"] if section in made}


def deviations(record: Mapping[str, Any], section: str) -> list[str]:
    """In what a measurement differs from what the goals are set for: with any of these there is no verdict."""
    settings, found = record["settings"], []
    if record["quick"]:
        found.append("--quick")
    if section != "memory" and settings["repeats"] < REPEATS:
        found.append(f"median of {settings['repeats']}, not of {REPEATS} or more")
    if section == "memory" and settings["epochs"] < EPOCHS:
        found.append(f"{settings['epochs']} epochs, not {EPOCHS}")
    if section in ("rates", "peers"):
        if settings["samples"] < SAMPLES[settings["padded"]]:
            found.append(f"{settings['samples']:,} images, not {SAMPLES[settings['padded']]:,}")
        if not settings["padded"] and settings["size"] != _SIZE:
            found.append(f"crops of {settings['size']} px, not {_SIZE}")
        rates = record["sections"].get("rates")
        noise = rates and _ratio(rates, control("train", "shards"), alone("train", "shards"))
        if noise is not None and abs(noise - 1) > QUIET:
            found.append(f"{control('train', 'shards')} ran at {noise:.2f} of itself: the machine was not quiet")
    return found


def rate(section: Mapping[str, Any], name: str) -> float | None:
    """Images/s; None for what is not there."""
    found = section["timings"].get(name)
    return None if found is None or found == NOT_INSTALLED else 1 / found["median"]


def best_standard(section: Mapping[str, Any], stage: Stage, images: Images) -> str:
    """The standard recipe in one process: itself or a worker of it, whichever is faster.

    A worker must pass its large float32 batches on, which may cost more than what it works off.
    """
    return max((standard(stage, images, workers) for workers in (1, 0)), key=lambda name: rate(section, name) or 0.0)


def best_peer(section: Mapping[str, Any], way: str) -> str | None:
    """The fastest of the others, None where none is installed."""
    rates = {name: found for name in section["peers"] if (found := rate(section, timing(name, way))) is not None}
    return max(rates, key=lambda name: rates[name]) if rates else None


def _ratio(section: Mapping[str, Any], name: str, against: str) -> float | None:
    """Of two rates; None where one of them is not there."""
    timings = {key: found for key, found in section["timings"].items() if found != NOT_INSTALLED}
    return ratio(timings, against, name)  # rates are as the inverse of times


def _rates(record: Mapping[str, Any]) -> Iterator[Row]:
    section, padded = record["sections"]["rates"], record["settings"]["padded"]
    images: list[Images] = list(section["images"])
    source = images[-1]  # the original files, where there are any
    stages: tuple[Stage, ...] = ("train", "eval")
    pairs: list[tuple[str, str, Bound | None]] = []
    for stage in stages:
        for kind in images:
            ours, goal = stream(stage, kind, 1), None
            if not padded and source == "original":
                goal = goals.OF_STANDARD if kind == "shards" else goals.OF_STANDARD_ORIGINAL
            pairs.append((ours, best_standard(section, stage, source), goal))
            if kind != source:
                pairs.append((ours, best_standard(section, stage, kind), None))
            pairs.append((ours, alone(stage, kind), None if padded else goals.OF_ALONE))
    pairs += [
        (BYTES, PEER_BYTES, None),
        (GPU, alone("train", "shards"), None),
        (control("train", "shards"), alone("train", "shards"), None),
    ]
    for name, against, goal in pairs:
        value = _ratio(section, name, against)
        if value is not None:
            yield {"what": name, "against": against, **_judged(record, "rates", goal, value)}
    if padded:
        for stage in stages:
            name = stream(stage, "shards", 1)
            for what, goal in ((first_epoch(name), goals.SMALL_FIRST), (name, goals.SMALL_LATER)):
                found = rate(section, what)
                assert found is not None
                yield {"what": what, "against": "", **_judged(record, "rates", goal, found)}


def _peers(record: Mapping[str, Any]) -> Iterator[Row]:
    section = record["sections"]["peers"]
    for way in WAYS:
        best = best_peer(section, way)
        if best is None:
            continue
        every = all(rate(section, timing(name, way)) is not None for name in section["peers"])
        ours = timing(OURS, way)
        goal = goals.OF_PEERS[way] if every else None
        compared: list[tuple[str, Bound | None]] = [(ours, goal)]
        if way == "decoded":
            compared = [(first_epoch(ours), goal), (ours, goal), (timing(SAME_DECODER, way), None)]
        for name, bound in compared:
            value = _ratio(section, name, timing(best, way))
            assert value is not None
            row = {"what": name, "against": timing(best, way)}
            yield {**row, **_judged(record, "peers", bound, value)}


def _memory(record: Mapping[str, Any]) -> Iterator[Row]:
    section = record["sections"]["memory"]
    for case in section["cases"]:
        where = f"{case['workers']} worker{'s' * (case['workers'] != 1)}"
        settled = case["files"][min(section["settled"], len(case["files"]) - 1) :]
        for what, goal, value in (
            (f"growth of own memory, {where}", goals.SLOPE_MB, slope(case["own"]) / 1e6),
            (f"growth of RSS, {where}", goals.SLOPE_MB, slope(case["rss"]) / 1e6),
            (f"new open files, {where}", goals.NEW_FILES, max(settled) - settled[0]),
        ):
            yield {"what": what, "against": "", **_judged(record, "memory", goal, value)}


def _scale(record: Mapping[str, Any]) -> Iterator[Row]:
    section = record["sections"]["scale"]
    timings = section["timings"]
    started, loaded = f"{section['started']:,} samples", f"{section['loaded']:,} samples"
    for what, goal, value in (
        (f"epoch to first request, {started}", goals.ORDER_S, timings["order"]["median"]),
        (f"manifest and index, {loaded}", goals.LOAD_S, timings["load"]["median"]),
        (f"memory for it at most, {loaded}", goals.LOAD_MB, section["peak"] / 1e6),
        (f"memory for it then, {loaded}", goals.LOAD_MB, section["grown"] / 1e6),
        (f"manifest, index and data set, {started}", None, timings["dataset"]["median"]),
    ):
        row = _judged(record, "scale", goal, value)
        yield {"what": what, "against": "", **({**row, "unit": " s"} if goal is None else row)}


def _training(record: Mapping[str, Any]) -> Iterator[Row]:
    for case in record["sections"]["training"]["cases"]:
        timings = {name: found["median"] for name, found in case["timings"].items()}
        waiting = 1 - timings["resident"] / timings["loader"]
        row = {"what": f"share of time spent on waiting for data, {case['workers']} workers", "against": ""}
        yield {**row, **_judged(record, "training", None, max(0.0, waiting))}


def _judged(record: Mapping[str, Any], section: str, goal: Bound | None, value: float) -> dict[str, Any]:
    if goal is None:
        return {"value": value, "digits": 2, "unit": "", "goal": "", "verdict": ""}
    verdict = "none" if deviations(record, section) else goal.verdict(value)
    return {"value": value, "digits": goal.digits, "unit": goal.unit, "goal": str(goal), "verdict": verdict}

"""The figures that a measurement comes down to, with goal and verdict. Pure over records."""

from collections.abc import Iterator, Mapping
from typing import Any

from en_bench.benchmark.conditions import deviations, geometric_mean, ratio
from en_bench.benchmark.contenders import BATCH_NORM
from en_bench.benchmark.goals import FIRST_USE_S, MEMORY, Goal, layer_goal, step_goal

Row = dict[str, Any]


def summarise(record: Mapping[str, Any]) -> dict[str, list[Row]]:
    """For each section of a record its rows: what is compared, the figures, `goal` and `verdict`, which may be ""."""
    made = {"layers": _layers, "steps": _steps, "memory": _memory, "first_use": _first_use}
    return {section: list(made[section](record)) for section in record["sections"]}


def _layers(record: Mapping[str, Any]) -> Iterator[Row]:
    section = record["sections"]["layers"]
    for dtype in record["settings"]["dtypes"]:
        cases = [case for case in section["cases"] if case["dtype"] == dtype]
        for norm, against in section["pairs"]:
            pairs = [(ratio(case["timings"], norm, against), case) for case in cases]
            fitted = [(value, case) for value, case in pairs if value is not None]
            if not fitted:
                continue
            worst, where = max(fitted, key=lambda pair: pair[0])
            mean = geometric_mean(value for value, _ in fitted)
            goal = layer_goal(record["kind"], norm, against, dtype)
            yield {
                "norm": norm,
                "against": against,
                "dtype": dtype,
                "geometric_mean": mean,
                "worst": worst,
                "worst_at": f"{'x'.join(map(str, where['shape']))} {where['format']}",
                "cases": len(fitted),
                **_judged(record, "layers", goal, mean, worst, whole=len(fitted) == len(cases)),
            }


def _steps(record: Mapping[str, Any]) -> Iterator[Row]:
    for case in record["sections"]["steps"]["cases"]:
        about = {key: case[key] for key in ("network", "batch", "size", "dtype", "compiled")}
        for norm in case["timings"]:
            value = ratio(case["timings"], norm, BATCH_NORM)
            if norm == BATCH_NORM or value is None:
                continue
            goal = step_goal(record["kind"], norm, case)
            yield {"norm": norm, **about, "ratio": value, **_judged(record, "steps", goal, value, value)}


def _memory(record: Mapping[str, Any]) -> Iterator[Row]:
    for case in record["sections"]["memory"]["cases"]:
        for norm, kept in case["bytes"].items():
            if norm == BATCH_NORM:
                continue
            value = kept / case["bytes"][BATCH_NORM]
            goal = None if norm.startswith("obvious") else Goal(MEMORY)
            yield {
                "norm": norm,
                "dtype": case["dtype"],
                "ratio": value,
                **_judged(record, "memory", goal, value, value),
            }


def _first_use(record: Mapping[str, Any]) -> Iterator[Row]:
    for case in record["sections"]["first_use"]["cases"]:
        for which, bound in FIRST_USE_S.items():
            seconds = case[which]["compiling"]
            judged = _judged(record, "first_use", Goal(bound), seconds, seconds)
            goal = {"goal": f"<= {bound:.0f} s"}
            yield {"norm": case["norm"], "process": which, "seconds": seconds, **judged, **goal}


def _judged(
    record: Mapping[str, Any], section: str, goal: Goal | None, mean: float, worst: float, whole: bool = True
) -> dict[str, str]:
    if goal is None:
        return {"goal": "", "verdict": ""}
    if not whole or deviations(record, section):
        return {"goal": str(goal), "verdict": "none"}
    return {"goal": str(goal), "verdict": goal.verdict(mean, worst)}

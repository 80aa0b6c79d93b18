"""Whether a measurement may say that a goal is reached. Pure over records.

A record is the JSON file of a run, as a dict.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from en_bench.benchmark.contenders import BATCH_NORM, CONTROL
from en_bench.benchmark.settings import FORMATS, SHAPES

ENOUGH_REPEATS = 15
QUIET = {"layers": 0.05, "steps": 0.03}  # how far from 1 the same thing measured twice may be


def ratio(timings: Mapping[str, Mapping[str, float] | None], name: str, against: str) -> float | None:
    """Of the medians; None where one of the two is not there, or did not fit into memory."""
    one, other = timings.get(name), timings.get(against)
    return None if one is None or other is None else one["median"] / other["median"]


def geometric_mean(values: Iterable[float]) -> float:
    logarithms = [math.log(value) for value in values]
    return math.exp(math.fsum(logarithms) / len(logarithms))


def control(record: Mapping[str, Any], section: str) -> float | None:
    """torch's BatchNorm against itself: the geometric mean of layers, and of steps what is furthest from 1."""
    found = [ratio(case["timings"], CONTROL, BATCH_NORM) for case in record["sections"][section]["cases"]]
    values = [value for value in found if value is not None]
    if not values:
        return None
    return geometric_mean(values) if section == "layers" else max(values, key=lambda value: abs(math.log(value)))


def deviations(record: Mapping[str, Any], section: str) -> list[str]:
    """In what a measurement differs from what the goals are set for: with any of these there is no verdict."""
    settings, found = record["settings"], []
    if record["quick"]:
        found.append("--quick")
    if record["mode"] != "compiled":
        found.append(f"EN_BENCH_NORMS is {record['mode']}, not compiled")
    found += record["warnings"]
    if section in ("layers", "steps"):
        if settings["repeats"] < ENOUGH_REPEATS:
            found.append(f"median of {settings['repeats']}, not of {ENOUGH_REPEATS} or more")
        if record["kind"] == "cpu" and record["threads"] != 2:
            found.append(f"{record['threads']} thread{'s' * (record['threads'] != 1)}, not 2")
        if record["kind"] == "cuda" and not re.search(r"\bG?H[12]00\b", record["device"]):
            found.append(f"{record['device']}, not an H100 or H200")
        if (noise := control(record, section)) is not None and abs(noise - 1) > QUIET[section]:
            found.append(f"{CONTROL} took {noise:.2f} of itself: the machine was not quiet")
    if section == "layers":
        formats = set(FORMATS) if record["kind"] == "cpu" else {"channels_last"}
        if {tuple(shape) for shape in settings["shapes"]} != set(SHAPES):
            found.append("other shapes")
        if set(settings["formats"]) != formats:
            found.append(f"memory formats {' and '.join(settings['formats'])}, not {' and '.join(sorted(formats))}")
    return found

"""The tables of a record, in the order of its sections."""

from collections.abc import Iterator, Mapping
from typing import Any

from en_bench.benchmark.conditions import deviations, ratio
from en_bench.benchmark.contenders import BATCH_NORM, CONTROL, TORCH_LAYERS
from en_bench.benchmark.summary import summarise
from en_bench.benchmark.table import Table

_MAPS_MOVED = 8  # forward reads x twice and writes y; backward reads dy and x twice each and writes dx
_BYTES = {"float32": 4, "bfloat16": 2}
_LOST = "memory"  # what a cell says whose contender did not fit


def tables(record: Mapping[str, Any]) -> dict[str, list[Table]]:
    made = {"layers": _layers, "steps": _steps, "memory": _memory, "first_use": _first_use}
    return {section: list(made[section](record)) for section in record["sections"]}


def _layers(record: Mapping[str, Any]) -> Iterator[Table]:
    section, settings = record["sections"]["layers"], record["settings"]
    for dtype in settings["dtypes"]:
        for form in settings["formats"]:
            cases = [case for case in section["cases"] if (case["dtype"], case["format"]) == (dtype, form)]
            yield _ratios(section["pairs"], cases, f"Layers, {dtype}, {form}: time of torch's own layer = 1")
            if record["peak_gbs"] is not None:
                yield _bandwidth(cases, record["peak_gbs"], f"{dtype}, {form}")
            if record["kind"] == "cuda":
                yield _host(cases, f"{dtype}, {form}")
    rows = [
        [
            *(row["norm"], row["against"], row["dtype"], f"{row['geometric_mean']:.2f}"),
            *(f"{row['worst']:.2f}", row["worst_at"], row["goal"], row["verdict"]),
        ]
        for row in summarise(record)["layers"]
    ]
    title = f"Layers, forward and backward: ratios of medians of {settings['repeats']} interleaved repeats"
    header = ["normaliser", "against", "dtype", "geometric mean", "worst", "worst at", "the project's goal", "verdict"]
    told = ["obvious: the mixture as it is written without thinking of its cost; what would be paid otherwise"]
    if any(norm == "LayerNorm" for norm, _ in section["pairs"]):
        told.append("nn.LayerNorm(C, H, W) has an affine map for every value, so it is another function")
    yield Table(title, "lllrrlll", header, rows, [*told, *_verdicts(record, "layers")])


def _ratios(pairs: list[list[str]], cases: list[Mapping[str, Any]], title: str) -> Table:
    header = ["normaliser", "against", *("x".join(map(str, case["shape"])) for case in cases)]
    rows = [[name, "", *(_milliseconds(case["timings"][name]) for case in cases)] for name in _torch_layers(cases)]
    for name, against in pairs:
        values = [ratio(case["timings"], name, against) for case in cases]
        rows.append([name, against, *(_LOST if value is None else f"{value:.2f}" for value in values)])
    return Table(title, "ll" + "r" * len(cases), header, rows)


def _torch_layers(cases: list[Mapping[str, Any]]) -> list[str]:
    return [name for name in TORCH_LAYERS if name != CONTROL and name in cases[0]["timings"]]


def _bandwidth(cases: list[Mapping[str, Any]], peak_gbs: float, about: str) -> Table:
    header = ["layer", *("x".join(map(str, case["shape"])) for case in cases)]
    rows = []
    for name in cases[0]["timings"]:
        shares = []
        for case in cases:
            n, c, h, w = case["shape"]
            moved = _MAPS_MOVED * n * c * h * w * _BYTES[case["dtype"]]
            timing = case["timings"][name]
            shares.append(_LOST if timing is None else f"{moved / timing['median'] / (peak_gbs * 1e9):.0%}")
        rows.append([name, *shares])
    note = f"{_MAPS_MOVED} feature maps moved at the least: x is read four times, dy twice, y and dx are written"
    return Table(f"Layers, {about}: share of {peak_gbs:.0f} GB/s", "l" + "r" * len(cases), header, rows, [note])


def _host(cases: list[Mapping[str, Any]], about: str) -> Table:
    header = ["layer", *("x".join(map(str, case["shape"])) for case in cases)]
    rows = [
        [name, *(_LOST if (t := case["timings"][name]) is None else f"{t['host'] * 1e6:.0f}" for case in cases)]
        for name in cases[0]["timings"]
    ]
    note = "Where this exceeds the time on the device, an eager network waits for its host."
    title = f"Layers, {about}: microseconds in which the host queues a call"
    return Table(title, "l" + "r" * len(cases), header, rows, [note])


def _steps(record: Mapping[str, Any]) -> Iterator[Table]:
    judged = {(row["norm"], *_about(row)): row for row in summarise(record)["steps"]}
    rows = []
    for case in record["sections"]["steps"]["cases"]:
        way = f"{case['dtype']}{' autocast' * (case['dtype'] != 'float32')}{', compiled' * case['compiled']}"
        about = f"{case['network']}, {case['batch']} of {case['size']}"
        for norm, timing in case["timings"].items():
            row = judged.get((norm, *_about(case)))
            value = "1.00" if norm == BATCH_NORM else _LOST if row is None else f"{row['ratio']:.3f}"
            told = ("", "") if row is None else (row["goal"], row["verdict"])
            rows.append([about, way, norm, _milliseconds(timing), value, *told])
    header = ["network", "precision", "normaliser", "time", "ratio", "the project's goal", "verdict"]
    title = f"Training steps, channels_last, SGD: medians of {record['settings']['repeats']} interleaved repeats"
    yield Table(title, "lllrrll", header, rows, _verdicts(record, "steps"))


def _about(case: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(case[key] for key in ("network", "dtype", "compiled"))


def _memory(record: Mapping[str, Any]) -> Iterator[Table]:
    judged = {(row["norm"], row["dtype"]): row for row in summarise(record)["memory"]}
    rows = []
    for case in record["sections"]["memory"]["cases"]:
        for norm, kept in case["bytes"].items():
            row = judged.get((norm, case["dtype"]), {"ratio": 1.0, "goal": "", "verdict": ""})
            figures = (f"{kept / 2**20:.4g} MiB", f"{row['ratio']:.3f}", row["goal"], row["verdict"])
            rows.append([case["dtype"], norm, *figures])
    case = record["sections"]["memory"]["cases"][0]
    title = f"Activations kept for backward, {case['network']}, {case['batch']} images of {case['size']}"
    header = ["precision", "normaliser", "kept", "ratio", "the project's goal", "verdict"]
    note = "all that autograd saves in a forward pass, each storage once, without parameters and buffers"
    yield Table(title, "llrrll", header, rows, [note, *_verdicts(record, "memory")])


def _first_use(record: Mapping[str, Any]) -> Iterator[Table]:
    judged = {(row["norm"], row["process"]): row for row in summarise(record)["first_use"]}
    rows = []
    for case in record["sections"]["first_use"]["cases"]:
        for process, cache in (("first", "empty"), ("second", "filled by the first")):
            row, told = judged[case["norm"], process], case[process]
            counts = (str(told["shapes"]), str(told["graphs"]))
            seconds = (f"{told[key]:.1f} s" for key in ("compiling", "process"))
            rows.append([case["norm"], cache, *counts, *seconds, row["goal"], row["verdict"]])
    case = record["sections"]["first_use"]["cases"][0]
    title = f"First use, all shapes of {case['network']} at {case['size']}, training and evaluation"
    header = ["normaliser", "cache", "shapes", "graphs", "compiling", "whole process", "the project's goal", "verdict"]
    note = "compiling: what the first pass over the shapes takes longer than the second; the goal is for this"
    yield Table(title, "llrrrrll", header, rows, [note, *_verdicts(record, "first_use")])


def _verdicts(record: Mapping[str, Any], section: str) -> list[str]:
    found = deviations(record, section)
    return [f"no verdicts, as the goals are for other conditions: {'; '.join(found)}"] if found else []


def _milliseconds(timing: Mapping[str, float] | None) -> str:
    return _LOST if timing is None else f"{timing['median'] * 1e3:.3g} ms"

"""`en-bench bench dynamics`: training steps with and without a record of every sample."""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from en_bench.benchmark.conditions import QUIET, ratio
from en_bench.benchmark.networks import CLASSES, Task, network
from en_bench.benchmark.records import Benchmark, Record, tell
from en_bench.benchmark.table import Table
from en_bench.benchmark.timing import Call, WallClock, interleaved
from en_bench.dynamics.files import require_pyarrow, write_rows
from en_bench.dynamics.measures import Samples, predictions
from en_bench.dynamics.memorisation import OUTCOMES, outcomes
from en_bench.dynamics.recording import Recording, Tables, layers_with_ratios
from en_bench.errors import InputError
from en_bench.norms.mode import mode

ALONE, CONTROL = "training", "training again"
RECORDED = {  # what is recorded: whether the record, and whether its ratios, and whether memorisation
    "memorisation": (False, False, True),
    "dynamics": (True, False, False),
    "dynamics with ratios": (True, True, False),
    "all of it": (True, True, True),
}
GOAL = 1.03
EPOCH_BATCHES = 390  # of CIFAR's 50,000 images in batches of 128: one file for each epoch
_ENOUGH_REPEATS = 15


def bench_dynamics(args: argparse.Namespace) -> int:
    """Returns the exit code. Raises InputError before anything is measured for what cannot be."""
    DYNAMICS.check_files(args)
    record = DYNAMICS.show(args.source) if args.source is not None else _measured(args)
    DYNAMICS.write_markdown(record, args.markdown)
    return 0


def _measured(args: argparse.Namespace) -> Record:
    require_pyarrow()
    for flag, value in (("--threads", args.threads), ("--repeats", args.repeats)):
        if value is not None and value < 1:
            raise InputError(f"{flag} {value} is too few: use 1 or more")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    repeats = args.repeats or (2 if args.quick else _ENOUGH_REPEATS)
    record = DYNAMICS.begin(device, quick=args.quick, mode=mode(), repeats=repeats)
    task = Task("cifar/resnet8", 4, 16) if args.quick else Task("cifar/resnet20", 128, 32)
    DYNAMICS.measure(record, {"steps": functools.partial(measure, task, device, repeats, args.quick)}, args)
    return record


def measure(task: Task, device: torch.device, repeats: int, quick: bool) -> dict[str, Any]:
    """The times of a step in each way, and in `writing` what is done once an epoch, for all of it."""
    tell(f"steps: {task.network}, {task.batch} of {task.size}, ExemplarNorm")
    clock = WallClock(device, 0.0 if quick else 0.02)
    calls = {name: _step(task, device, *RECORDED.get(name, (False, False, False))) for name in (ALONE, CONTROL)}
    calls |= {name: _step(task, device, *what) for name, what in RECORDED.items()}
    timings = interleaved(calls, clock, repeats)
    tell(f"writing: to the host's memory and a file, {EPOCH_BATCHES} batches")
    with tempfile.TemporaryDirectory() as folder:
        written = {
            name: _writing(task, device, Path(folder) / name, ratios)
            for name, (recorded, ratios, _) in RECORDED.items()
            if recorded
        }
        writing = interleaved(written, clock, max(2, repeats // 3), warm_ups=1)
        sizes = {name: (Path(folder) / name).stat().st_size for name in written}
    about = {"network": task.network, "batch": task.batch, "size": task.size}
    return {**about, "timings": timings, "writing": writing, "bytes": sizes}


def _step(task: Task, device: torch.device, recorded: bool, ratios: bool, counted: bool) -> Call:
    """A training step as `fit` takes it, and what its callbacks do in every one.

    What they do once in many steps would be in few of the times, and not in their median: `_writing` takes all of it.
    """
    model = network(task, "ExemplarNorm", device)
    images, target = task.images(device), torch.arange(task.batch, device=device) % CLASSES
    row = torch.arange(task.batch, device=device)
    clean = (target + row % 2) % CLASSES  # every second label is wrong
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
    recording = Recording(layers_with_ratios(model) if ratios else {})
    counts = torch.zeros(len(OUTCOMES), dtype=torch.int64, device=device)
    kept: deque[Tables] = deque(maxlen=EPOCH_BATCHES)  # on the device, as in a training

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with recording.watching() if recorded else nullcontext():
            logits = model(images).float()
            loss = F.cross_entropy(logits, target)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        samples = Samples(row, target, logits.detach())
        if counted:
            counts.add_(outcomes(predictions(samples.logits), samples.target, clean[samples.row]))
        if recorded:
            kept.append(recording.tables_of(samples, len(kept)))

    return step


def _writing(task: Task, device: torch.device, path: Path, ratios: bool) -> Callable[[], None]:
    """Moves what the steps of an epoch have recorded to the host's memory, in as many turns as `fit`, and writes it."""
    model = network(task, "ExemplarNorm", device)
    recording = Recording(layers_with_ratios(model) if ratios else {})
    with torch.no_grad(), recording.watching():
        logits = model(task.images(device))
    seen = dict(recording.ratios)
    recorded = []
    for step in range(EPOCH_BATCHES):
        row = torch.arange(task.batch, device=device) + step * task.batch
        # Other digits in every batch, as what repeats would be packed into nothing.
        recording.ratios = {name: table * (1 + step / EPOCH_BATCHES) for name, table in seen.items()}
        samples = Samples(row, row % CLASSES, logits + step / EPOCH_BATCHES * logits)
        recorded.append(recording.tables_of(samples, step))

    def write() -> None:
        for tables in recorded:
            recording.keep(tables)
        write_rows(path, recording.take(), {"epoch": 0})

    return write


def summarise(record: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """For each way what a step and its share of what is done once an epoch take, in units of the step alone."""
    return {section: list(_rows(record, found)) for section, found in record["sections"].items()}


def _rows(record: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    alone = found["timings"][ALONE]["median"]
    told = deviations(record)
    for name in (CONTROL, *RECORDED):
        step = ratio(found["timings"], name, ALONE)
        assert step is not None
        written = found["writing"].get(name)
        value = step + (written["median"] / EPOCH_BATCHES / alone if written else 0.0)
        judged = {"goal": "", "verdict": ""}
        if name != CONTROL:
            verdict = "none" if told else "met" if value <= GOAL else f"missed by {value / GOAL - 1:.1%}"
            judged = {"goal": f"<= {GOAL:.2f}", "verdict": verdict}
        yield {"recorded": name, "step": step, "ratio": value, **judged}


def deviations(record: Mapping[str, Any]) -> list[str]:
    """In what a measurement differs from what the goal is set for: with any of these there is no verdict."""
    found = ["--quick"] if record["quick"] else []
    if record["mode"] != "compiled":
        found.append(f"EN_BENCH_NORMS is {record['mode']}, not compiled")
    if record["repeats"] < _ENOUGH_REPEATS:
        found.append(f"median of {record['repeats']}, not of {_ENOUGH_REPEATS} or more")
    for section in record["sections"].values():
        noise = ratio(section["timings"], CONTROL, ALONE)
        # The goal is 3 %: twice the same must differ by much less.
        if noise is not None and abs(noise - 1) > QUIET["steps"] / 3:
            found.append(f"{CONTROL} took {noise:.3f} of itself: the machine was not quiet")
    return found


def tables(record: Mapping[str, Any]) -> dict[str, list[Table]]:
    made = {}
    for section, found in record["sections"].items():
        rows = [[ALONE, _milliseconds(found["timings"][ALONE]), "", "1.00", "", "", ""]]
        for row in summarise(record)[section]:
            name = row["recorded"]
            size = found["bytes"].get(name)
            rows.append(
                [
                    *(name, _milliseconds(found["timings"][name]), _milliseconds(found["writing"].get(name))),
                    *(f"{row['ratio']:.3f}", "" if size is None else f"{size / 2**20:.2f} MiB"),
                    *(row["goal"], row["verdict"]),
                ]
            )
        title = (
            f"{found['network']} with ExemplarNorm, {found['batch']} of {found['size']}: medians of "
            f"{record['repeats']} interleaved repeats"
        )
        header = ["recorded", "step", "once an epoch", "ratio", "file", "the project's goal", "verdict"]
        told = deviations(record)
        notes = [
            f"once an epoch of {EPOCH_BATCHES} steps: what they recorded to the host's memory, and to a file",
            "ratio: of a step and its share of that to the step alone",
        ]
        notes += [f"no verdicts, as the goal is for other conditions: {'; '.join(told)}"] if told else []
        made[section] = [Table(title, "lrrrrll", header, rows, notes)]
    return made


def _milliseconds(timing: Mapping[str, float] | None) -> str:
    return "" if timing is None else f"{timing['median'] * 1e3:.4g} ms"


DYNAMICS = Benchmark(
    "en-bench bench dynamics",
    "What a record of every training sample costs",
    "en_bench dynamics benchmark 2",
    summarise,
    tables,
)

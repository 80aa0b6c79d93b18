"""A plan as lines for a terminal and as JSON for scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from en_bench.duration import duration
from en_bench.matrix.cost.amount import Unknown
from en_bench.matrix.cost.costs import FORWARD_SHARE, CellCost, Cost, Disk, Seconds
from en_bench.matrix.cost.not_counted import not_counted_lines
from en_bench.matrix.plan import PlannedCell, State
from en_bench.matrix.spec import Spec
from en_bench.plural import counted
from en_bench.resume.reached import Reached


def cell_lines(
    planned: Sequence[PlannedCell], cost: Cost, at_work: Mapping[str, str], reached: Mapping[str, Reached]
) -> Iterator[str]:
    """A line for each cell: id, name, state, and the time it takes (of a cell that is half done also what is left).

    `at_work` says which cells are running or queued, and `reached` how far their trainings are, by id.
    """
    states = [at_work.get(item.cell.id, item.state.value) for item in planned]
    names, widest = max(len(str(item.cell)) for item in planned), max(map(len, states))
    for item, state, one in zip(planned, states, cost.cells, strict=True):
        place = "" if (at := reached.get(item.cell.id)) is None else f"  (at {at})"
        yield f"{item.cell.id}  {item.cell!s:<{names}}  {state:<{widest}}  {_cell(item, one)}{place}".rstrip()


def at_work_line(at_work: Mapping[str, str]) -> str | None:
    """How many of the cells that are not done are running or queued; None if none is."""
    counted = Counter(at_work.values())
    told = ", ".join(f"{name} {counted[name]}" for name in ("running", "queued") if counted[name])
    return f"of those that are not done: {told}" if told else None


def summary_lines(
    spec: Spec, planned: Sequence[PlannedCell], cost: Cost, disk: Disk, slots: int, folder: str
) -> Iterator[str]:
    """Seconds per step of each shape, then cost, time and disk, each with what it does not count."""
    trainings = len(spec.norms) * len(spec.train) * len(spec.seeds)
    yield (
        f"{counted(len(spec.norms), 'normaliser')} x {counted(len(spec.train), 'training set')} x "
        f"{counted(len(spec.seeds), 'seed')} = {counted(trainings, 'training')}, each validated on "
        f"{counted(len(spec.validate), 'set')}"
    )
    yield from _rates(cost)
    yield f"the whole: {_hours(cost, [True] * len(planned))}"
    to_do = [item.state is not State.DONE for item in planned]
    yield f"the rest: {_hours(cost, to_do, rest=True)}"
    yield from not_counted_lines(cost)
    if any(cell.rest.total for cell in cost.known()):
        yield _wall(cost, slots)
    yield _disk(disk, len(planned), folder)
    if not disk.fits:
        yield (
            f"WARNING: checkpoints to come take {size(disk.rest)}, and {folder} has {size(disk.free)} free: make room, "
            "or choose other --results"
        )


def plan_json(
    spec: Spec, planned: Sequence[PlannedCell], cost: Cost, disk: Disk, slots: int, at_work: Mapping[str, str]
) -> dict[str, Any]:
    """Everything of a plan, in seconds and bytes; null is what is not known."""
    return {
        "format": "en_bench.plan 1",
        "spec": spec.name,
        "states": {state.value: n for state, n in Counter(item.state for item in planned).items()},
        "at_work": dict(Counter(at_work.values())),
        "cells": [
            {**_cell_json(item, one, checkpoint), "at_work": at_work.get(item.cell.id)}
            for item, one, checkpoint in _rows(planned, cost)
        ],
        "whole_seconds": cost.whole().total,
        "rest_seconds": cost.rest().total,
        "rest_device_seconds": sum(cell.rest.total * cell.ranks for cell in cost.known()),
        "not_counted": dict(cost.unknown()),
        "slots": slots,
        "wall_seconds": cost.wall_time(slots),
        "checkpoints": {
            "whole_bytes": disk.whole,
            "rest_bytes": disk.rest,
            "cells_not_counted": disk.unknown,
            "free_bytes": disk.free,
            "fits": disk.fits,
        },
    }


def size(count: int) -> str:
    """Bytes for people: `1.2 GB`."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def _rows(planned: Sequence[PlannedCell], cost: Cost) -> Iterator[tuple[PlannedCell, CellCost | Unknown, int | None]]:
    return zip(planned, cost.cells, cost.checkpoints, strict=True)


def _cell(item: PlannedCell, cost: CellCost | Unknown) -> str:
    if isinstance(cost, Unknown):
        return "" if item.state is State.DONE else "unknown"
    if item.state is State.DONE or cost.rest == cost.whole:
        return duration(cost.whole.total)
    return f"{duration(cost.whole.total)}, {duration(cost.rest.total)} left"


def _rates(cost: Cost) -> Iterator[str]:
    rows: dict[tuple[str, str, str], list[CellCost]] = {}
    for one in cost.known():
        rows.setdefault((str(one.shape), f"{one.rate.step:.4g}", one.rate.source), []).append(one)
    width = max((len(shape) for shape, *_ in rows), default=0)
    if rows:
        yield "seconds per step (a batch on every rank), and where they are from:"
    for (shape, step, source), cells in rows.items():
        yield f"  {shape:<{width}}  {step:>8} s  x {_steps(cells)}  ({source})"
    if any(one.rate.validation is None for one in cost.known()):
        yield f"  a validated image is taken to need {FORWARD_SHARE:.2f} of a training image: nothing measured tells"


def _steps(cells: Sequence[CellCost]) -> str:
    found = sorted({cell.amount.steps for cell in cells})
    return counted(found[0], "step") if len(found) == 1 else f"{found[0]:,} to {found[-1]:,} steps"


def _hours(cost: Cost, chosen: Sequence[bool], rest: bool = False) -> str:
    cells = [one for one, meant in zip(cost.cells, chosen, strict=True) if meant]
    known = [cell for cell in cells if isinstance(cell, CellCost)]
    total = sum((cell.rest if rest else cell.whole for cell in known), Seconds())
    devices = sum((cell.rest if rest else cell.whole).total * cell.ranks for cell in known)
    told = counted(len(cells), "cell")
    if known:
        told += f", {duration(total.total)}, of it {duration(total.validating)} validating"
        told += f"; {devices / 3600:.1f} device hours" if any(cell.ranks > 1 for cell in known) else ""
    missed = len(cells) - len(known)
    return told + (f"; {missed} not counted" if missed else "")


def _wall(cost: Cost, slots: int) -> str:
    wall = cost.wall_time(slots)
    name = counted(slots, "slot")
    if wall is None:
        most = max(cell.ranks for cell in cost.known() if cell.rest.total)
        return f"time with {name}: none, a cell needs {most} devices: give --slots {most} or more"
    known = "" if not cost.unknown() else " for what is counted"
    return f"time with {name}: {duration(wall)}{known}"


def _disk(disk: Disk, cells: int, folder: str) -> str:
    if disk.unknown == cells:
        return f"checkpoints: size unknown; {size(disk.free)} free in {folder}"
    how = "" if disk.measured else " (from the number of parameters)"
    missed = f"; {counted(disk.unknown, 'cell')} not counted: size unknown" if disk.unknown else ""
    return (
        f"checkpoints: {size(disk.whole)}, {size(disk.rest)} to come{how}{missed}; {size(disk.free)} free in {folder}"
    )


def _cell_json(item: PlannedCell, cost: CellCost | Unknown, checkpoint: int | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "id": item.cell.id,
        "norm": item.cell.norm,
        "train": item.cell.train,
        "seed": item.cell.seed,
        "state": item.state.value,
        "checkpoint_bytes": checkpoint,
    }
    if isinstance(cost, Unknown):
        return {**facts, "whole_seconds": None, "rest_seconds": None, "reason": cost.reason}
    return {
        **facts,
        "ranks": cost.ranks,
        "steps": cost.amount.steps,
        "seconds_per_step": cost.rate.step,
        "source": cost.rate.source,
        "whole_seconds": cost.whole.total,
        "validating_seconds": cost.whole.validating,
        "rest_seconds": cost.rest.total,
    }

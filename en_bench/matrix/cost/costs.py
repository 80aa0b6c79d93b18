"""What a matrix costs: hours of each cell, in all and of what remains, and disk for checkpoints."""

from __future__ import annotations

import heapq
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from en_bench.matrix.cost.amount import Amount, Sizes, Unknown, amount_of
from en_bench.matrix.cost.given import seconds_for
from en_bench.matrix.cost.known import Known, Rate
from en_bench.matrix.cost.shape import Shape, section, shape_of
from en_bench.matrix.plan import Cell, PlannedCell
from en_bench.matrix.spec import Spec

# Of a training image's seconds, where no record tells those of a validated one: forward alone, the backward pass taking
# about twice as long.
FORWARD_SHARE = 1 / 3


@dataclass(frozen=True)
class Seconds:
    """Of training and of validating."""

    training: float = 0.0
    validating: float = 0.0

    @property
    def total(self) -> float:
        return self.training + self.validating

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.training + other.training, self.validating + other.validating)


@dataclass(frozen=True)
class CellCost:
    """Of one cell: `whole` if it were run from the start, `rest` what is not done of it; on `ranks` devices."""

    shape: Shape
    rate: Rate
    ranks: int
    amount: Amount
    whole: Seconds
    rest: Seconds


@dataclass(frozen=True)
class Rest:
    """What is left of a cell: the `share` of its training (from 0 to 1), by label the validations `after` it, and those
    with `adapted` running moments."""

    share: float
    after: frozenset[str] = frozenset()
    adapted: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Cost:
    """Of a matrix. `cells` in the order of the plan, `checkpoints` the bytes of each (None if unknown)."""

    planned: Sequence[PlannedCell]
    cells: Sequence[CellCost | Unknown]
    checkpoints: Sequence[int | None]
    on_disk: Sequence[bool]

    def known(self) -> list[CellCost]:
        return [cell for cell in self.cells if isinstance(cell, CellCost)]

    def whole(self) -> Seconds:
        return sum((cell.whole for cell in self.known()), Seconds())

    def rest(self) -> Seconds:
        return sum((cell.rest for cell in self.known()), Seconds())

    def unknown(self, of: Callable[[int], bool] = lambda index: True) -> Counter[str]:
        """How many cells are not counted, by reason."""
        found = ((i, cell) for i, cell in enumerate(self.cells) if isinstance(cell, Unknown))
        return Counter(cell.reason for i, cell in found if of(i))

    def wall_time(self, slots: int) -> float | None:
        """Seconds until `slots` devices have done the rest, cell by cell in the plan's order.

        None if a cell needs more devices than there are.
        """
        free = [0.0] * slots
        end = 0.0
        for cell in self.known():
            if cell.rest.total == 0:
                continue
            if cell.ranks > slots:
                return None
            taken = [heapq.heappop(free) for _ in range(cell.ranks)]
            end = max(end, taken[-1] + cell.rest.total)
            for _ in taken:
                heapq.heappush(free, taken[-1] + cell.rest.total)
        return end


def cost_of(
    spec: Spec,
    planned: Sequence[PlannedCell],
    known: Known,
    sizes: Sizes,
    rest: Callable[[PlannedCell], Rest],
    given: Mapping[str, float],
) -> Cost:
    """The cost of a planned matrix. `given` seconds per step come before those that are known."""
    rates, checkpoints = cache(known.rate), cache(known.checkpoint_bytes)
    amounts: dict[tuple[int, int], Amount | Unknown] = {}
    shapes: dict[int, Shape] = {}

    def amount(cell: Cell, ranks: int) -> Amount | Unknown:
        key = id(cell.config), ranks  # the seeds of a normaliser and training set share their configuration
        if key not in amounts:
            amounts[key] = amount_of(cell, spec, ranks, sizes)
        return amounts[key]

    cells: list[CellCost | Unknown] = []
    sizes_on_disk: list[tuple[int, bool] | None] = []
    for item in planned:
        shape = shapes.setdefault(id(item.cell.config), shape_of(item.cell.config))
        sizes_on_disk.append(
            _with_table(checkpoints(shape), item.cell, sizes) if shape.remembers else checkpoints(shape)
        )
        rate = rates(shape)
        seconds = seconds_for(item.cell, given)
        if seconds is not None:
            # Steps that are given may be of other machines: what validating takes follows from them too.
            rate = Rate(seconds, None, shape.ranks or (rate.ranks if rate else 1), "given")
        if rate is None:
            # Where data are missing, too, they come first: nothing could be measured without.
            much = amount(item.cell, shape.ranks or 1)
            why = much if isinstance(much, Unknown) else Unknown(known.why_not())
            cells.append(replace(why, no_rate=True))
            continue
        much = amount(item.cell, rate.ranks)
        cells.append(much if isinstance(much, Unknown) else _cell_cost(shape, rate, much, rest(item)))
    return Cost(
        planned, cells, [found and found[0] for found in sizes_on_disk], [bool(f and f[1]) for f in sizes_on_disk]
    )


def _cell_cost(shape: Shape, rate: Rate, amount: Amount, rest: Rest) -> CellCost:
    image = rate.validation or rate.step / (shape.batch * rate.ranks) * FORWARD_SHARE
    training = Seconds(amount.steps * rate.step, amount.watched * image)
    after = {label: n * image for label, n in amount.after.items()}
    # One rank recalibrates, at its own speed; the others wait.
    adapted = {label: n * image * rate.ranks + after[label] for label, n in amount.adapted.items()}
    whole = training + Seconds(0.0, sum(after.values()) + sum(adapted.values()))
    parts = ((after, rest.after), (adapted, rest.adapted))
    to_come = sum(seconds for part, labels in parts for label, seconds in part.items() if label in labels)
    left = Seconds(training.training * rest.share, training.validating * rest.share + to_come)
    return CellCost(shape, rate, rate.ranks, amount, whole, left)


def _with_table(network: tuple[int, bool] | None, cell: Cell, sizes: Sizes) -> tuple[int, bool] | None:
    """Bytes of a checkpoint that holds, beside the network's, a row for each sample of the training set."""
    train = str(section(cell.config, "data").get("train"))
    samples, classes = sizes.samples(train), sizes.classes(train)
    if network is None or samples is None or classes is None:
        return None
    return network[0] + samples * (4 * classes + 8), network[1]  # float32 each, and an int64, the step of its writing


@dataclass(frozen=True)
class Disk:
    """Bytes of checkpoints: of all cells and of those to come; `unknown` cells are in neither. `free` on the disk."""

    whole: int
    rest: int
    unknown: int
    free: int
    measured: bool

    @property
    def fits(self) -> bool:
        return self.rest <= self.free


@dataclass(frozen=True)
class Saving:
    """Whether a cell has yet to save checkpoints, and whether one comes to stay beside what lies there now."""

    some: bool
    stays: bool


def disk_of(cost: Cost, folder: Path, saving: Callable[[PlannedCell], Saving], slots: int) -> Disk:
    """What the checkpoints of a matrix take in `folder`, which need not exist yet.

    In each slot one that is replaced stays until the new one is whole, and so does one with recalibrated running
    moments while it is validated: not both at a time.
    """
    sizes = [size for size in cost.checkpoints if size is not None]
    pairs = zip(cost.planned, cost.checkpoints, strict=True)
    to_save = [(size, found) for item, size in pairs if size is not None and (found := saving(item)).some]
    here = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
    return Disk(
        whole=sum(sizes),
        rest=sum(size for size, found in to_save if found.stays) + sum(sorted(size for size, _ in to_save)[-slots:]),
        unknown=len(cost.checkpoints) - len(sizes),
        free=shutil.disk_usage(here).free,
        measured=all(seen for size, seen in zip(cost.checkpoints, cost.on_disk, strict=True) if size is not None),
    )

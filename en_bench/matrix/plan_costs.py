"""The cost of a matrix as it lies there: from its specification, records, runs and data."""

from __future__ import annotations

from collections.abc import Mapping

from en_bench.matrix.amount import set_sizes
from en_bench.matrix.commands import checkpoint_path
from en_bench.matrix.cost import Cost, Disk, Rest, cost_of, disk_of
from en_bench.matrix.cost_known import Known
from en_bench.matrix.opened import OpenedMatrix
from en_bench.matrix.plan import PlannedCell, State
from en_bench.matrix.run import outstanding


def known_costs(matrix: OpenedMatrix, planned: list[PlannedCell], device: str = "*") -> Known:
    """What records and probes tell of devices whose name matches a pattern."""
    return Known(matrix.results, [item.record for item in planned if item.record is not None], device)


def matrix_cost(matrix: OpenedMatrix, planned: list[PlannedCell], known: Known, given: Mapping[str, float]) -> Cost:
    """What the planned cells cost, and what is left of them."""
    records = [item.record for item in planned if item.record is not None]
    sizes = set_sizes(matrix.shards, records)
    return cost_of(matrix.spec, planned, known, sizes, lambda item: _rest(matrix, item), given)


def checkpoint_disk(matrix: OpenedMatrix, cost: Cost, slots: int) -> Disk:
    """What the checkpoints of a matrix take of the disk that its results lie on."""

    def is_over(item: PlannedCell) -> bool:
        return item.state is State.DONE or checkpoint_path(matrix.results.run(item.cell.id)).is_file()

    return disk_of(cost, matrix.results.folder, is_over, slots)


def _rest(matrix: OpenedMatrix, item: PlannedCell) -> Rest:
    if item.state is State.DONE:
        return Rest(0.0, frozenset())
    work = outstanding(matrix.spec, item, matrix.results, matrix.digests)
    return Rest(1.0 if work.fit else 0.0, frozenset(work.labels))

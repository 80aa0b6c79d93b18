"""Which cells can be run with the data that are here: told before anything runs, not cell by cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from en_bench.data.places import shown
from en_bench.errors import InputError
from en_bench.matrix.cell_run import outstanding
from en_bench.matrix.cost.amount import PREPARE
from en_bench.matrix.cost.shape import section
from en_bench.matrix.opened import OpenedMatrix, missing_data
from en_bench.matrix.plan import PlannedCell, State
from en_bench.plural import counted

_MOST_NAMED = 6


@dataclass(frozen=True)
class DataHere:
    """Of `waiting` cells that are not done, those that lack a set for the command that comes next are `left_out`, and
    those that lack one for a command after it come to it `later`. `lacking` are all these sets, and `where` is the
    place in which they have no manifest."""

    waiting: int
    left_out: tuple[PlannedCell, ...]
    later: tuple[PlannedCell, ...]
    lacking: tuple[str, ...]
    where: str

    def told(self) -> str | None:
        """What is missing and what becomes of the cells, in one line; None where nothing is."""
        if not self.lacking:
            return None
        parts = [f"{len(self.left_out)} are left out"] if self.left_out else []
        parts += [f"{len(self.later)} run until they need it, and are then FAILED"] if self.later else []
        return f"{self._missing()}: of {counted(self.waiting, 'cell')} to run {', '.join(parts)}: {PREPARE}"

    def told_of_jobs(self) -> str | None:
        """As `told`, where other machines run the cells, which may have what is missing here."""
        if not self.lacking:
            return None
        cells = counted(len(self.left_out) + len(self.later), "cell")
        return f"{self._missing()} on this machine: {cells} will be FAILED unless the nodes have them"

    def require_some(self) -> None:
        """Raises InputError where cells are to run and none can."""
        if self.left_out and len(self.left_out) == self.waiting:
            raise InputError(f"no cell can run: {self._missing()}: {PREPARE}")

    def _missing(self) -> str:
        more = f" and {len(self.lacking) - _MOST_NAMED} more" if len(self.lacking) > _MOST_NAMED else ""
        return f"no manifest of {', '.join(self.lacking[:_MOST_NAMED])}{more} in {self.where}"


def data_here(matrix: OpenedMatrix, chosen: Sequence[PlannedCell]) -> DataHere:
    """What is here of the data that `chosen` cells need yet; finished ones need none. Raises InputError for a URL out
    of reach, and for a folder that was given and is none."""
    waiting = [item for item in chosen if item.state is not State.DONE]
    left_out: list[PlannedCell] = []
    later: list[PlannedCell] = []
    lacking: dict[str, None] = {}
    for item in waiting:
        commands = [[name for name in names if matrix.digests(name) is None] for names in _sets_of(matrix, item)]
        lacking |= {name: None for names in commands for name in names}
        if any(commands):
            (left_out if commands[0] else later).append(item)
    if lacking and (missing := missing_data(matrix)) is not None:
        raise InputError(missing)
    return DataHere(len(waiting), tuple(left_out), tuple(later), tuple(lacking), shown(matrix.shards))


def _sets_of(matrix: OpenedMatrix, item: PlannedCell) -> Iterator[tuple[str, ...]]:
    """The sets that each command reads that a cell needs yet, in their order."""
    work = outstanding(matrix.spec, item, matrix.results, matrix.digests)
    data = section(item.cell.config, "data")
    own = str(data.get("val"))
    if work.fit:
        yield str(data.get("train")), own
    for label in work.labels:
        yield (matrix.spec.target(label).get("data.val", own),)
    for label in work.adapted:
        yield matrix.spec.adapted[label], matrix.spec.target(label).get("data.val", own)

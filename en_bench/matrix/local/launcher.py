"""Runs the cells of a matrix in several processes of this machine, one for each slot: a GPU, or some CPU threads."""

from __future__ import annotations

import selectors
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from en_bench.errors import InputError
from en_bench.matrix.local.crew import STOPS, Member
from en_bench.matrix.local.devices import Slot, devices_wanted, fitting_slots
from en_bench.matrix.local.live import Screen
from en_bench.matrix.local.others import Others
from en_bench.matrix.local.requests import StopRequests
from en_bench.matrix.local.stopping import Stopping, named
from en_bench.matrix.local.tally import Settled, Tally
from en_bench.matrix.plan import PlannedCell
from en_bench.matrix.run import INTERRUPTED, Runner, look_for_freed, more_to_do
from en_bench.matrix.silent import SilentHolders
from en_bench.matrix.stopped_cells import StoppedCells, told_of_stopped
from en_bench.resume.interrupt import TOLD
from en_bench.stop import STOPPED, told_of_stop
from en_bench.tied import Tie, tie

_MOST_DEATHS = 3  # of processes that ran the same cell, or that did not even start
_AS_ASKED = (INTERRUPTED, STOPPED)  # exit codes of a process that was asked to stop
_OF_EACH = ("", TOLD, told_of_stop(STOPS))  # what all processes say that are asked to
_SECONDS_TO_LOOK = 0.25
_SECONDS_TO_POLL = 0.02
_SECONDS_TO_END = 10.0
_SECONDS_TO_SAVE = 600.0  # a validation may have to end first; whoever waits can end it sooner


@dataclass
class LocalLauncher:
    """Gives each process of `slots` a cell after the other.

    `runner` knows the matrix and runs nothing itself; `arguments` are those of the processes, `environment` what they
    are to find in theirs, by slots. A cell that wants several devices gets as many slots at once: those cells come
    first, since what they leave free can be filled up with others.

    A process that dies loses its cell only, which is taken up again from its checkpoint; the cell that three have died
    of is recorded as failed. Slots in which no process starts any more are given up.
    """

    runner: Runner
    slots: Sequence[Slot]
    arguments: Sequence[str]
    environment: Callable[[Sequence[Slot]], dict[str, str]]
    screen: Screen = field(default_factory=Screen)
    _crew: list[Member] = field(default_factory=list)
    _deaths: Counter[str] = field(default_factory=Counter)
    _failed_starts: Counter[tuple[int, ...]] = field(default_factory=Counter)  # by slots: in others they may work
    _given_up: set[tuple[int, ...]] = field(default_factory=set)  # in each of these slots others may work, too
    _why_given_up: str = ""

    def run(self, planned: Sequence[PlannedCell]) -> int:
        """Runs those that are not done. Returns 0, 1 if a cell failed, 130 if interrupted. Raises InputError."""
        cells = self.runner.cells
        in_order = sorted(planned, key=lambda item: -self._places(item))
        others = Others(self.runner.leases, cells.results)
        tally = Tally(cells.spec, cells.results, in_order, len(self.slots), self._places, others, cells.reached)
        requests = StopRequests()
        stopping = Stopping(cells.results, cells.spec.metric, self.screen.say)
        with self.screen, tie() as tied, requests.received(), selectors.DefaultSelector() as selector:
            self.screen.say(tally.head())
            try:
                self._run_all(tally, tied, selector, requests, stopping)
            finally:
                self._end(requests)
            if requests.asked:
                stopping.end()
            for line in [] if requests.asked else self.runner.left_to_others(tally.held):
                self.screen.say(line)
        if requests.asked:
            requests.obey()
            return INTERRUPTED
        return 1 if tally.failed else 0

    def _run_all(
        self,
        tally: Tally,
        tied: Tie,
        selector: selectors.BaseSelector,
        requests: StopRequests,
        stopping: Stopping,
    ) -> None:
        obeyed = 0
        stopped = StoppedCells(self.runner.cells.standing)
        silent = SilentHolders(self.runner.leases, self.screen.say)
        while True:
            if obeyed < requests.level:
                if not obeyed:
                    stopping.begin(self._running())
                obeyed = requests.level
                self._stop(at_once=obeyed == 2)
            if obeyed:
                stopping.wait({str(item.cell): tally.row(item) for item in self._running()})
            else:
                if not tally.waiting and self._running() and self._free():
                    look_for_freed(tally, silent)
                self._assign(tally, tied, selector)
                if tally.waiting and self._given_up and not self._running():
                    raise InputError(self._why_given_up)
            if not self._running() and (obeyed or not more_to_do(tally, silent)):
                return
            self.screen.show(partial(tally.view, stopping=bool(obeyed)))
            selector.select(_SECONDS_TO_LOOK)
            for member in list(self._crew):
                item = self._hear(member, tally, selector, stopping=bool(obeyed))
                if item is not None and obeyed:
                    self._leave(item, member, tally, stopping)
                elif item is not None:
                    self._lose(item, member, tally, stopped)

    def _running(self) -> list[PlannedCell]:
        return [member.item for member in self._crew if member.item is not None]

    def _stop(self, at_once: bool) -> None:
        for member in self._crew:
            if at_once:
                member.kill()
            elif member.item is None:
                member.dismiss()
            else:
                member.stop()

    def _end(self, requests: StopRequests) -> None:
        """Lets all processes end together; those that an error of ours leaves with a cell save their step."""
        for member in self._crew:
            member.dismiss()
        seconds = _SECONDS_TO_END
        if not requests.asked and (left := self._running()):
            seconds = _SECONDS_TO_SAVE
            self.screen.say(f"stopping, as the run cannot go on: waits for {named(left)} to save; Ctrl-C stops at once")
            self._stop(at_once=False)
        deadline, asked = time.monotonic() + seconds, len(requests.asked)
        while any(member.ended() is None for member in self._crew) and time.monotonic() < deadline:
            if signal.SIGINT in requests.asked[asked:]:
                self._stop(at_once=True)
            for member in self._crew:
                self._say_lines(member, stopping=True)  # who waits for room to print does not end
            time.sleep(_SECONDS_TO_POLL)
        for member in self._crew:
            member.close(0.0)

    def _assign(self, tally: Tally, tied: Tie, selector: selectors.BaseSelector) -> None:
        free = self._free()
        # A process that has imported torch already is worth more than a slot of its own.
        warm = {member.places[0] for member in self._crew if not member.item and len(member.places) == 1}
        free.sort(key=lambda place: (sum(place in places for places in self._given_up), place not in warm))
        for item in list(tally.waiting):
            if not free:
                return
            places = fitting_slots(self.slots, free, devices_wanted(item.cell.config))
            if places is None or places in self._given_up:
                continue
            free = [place for place in free if place not in places]
            own = [self.slots[place] for place in places]
            member = self._member(places, own, tied, selector)
            tally.begin(item, ", ".join(slot.name for slot in own), len(places))
            member.give(item)

    def _free(self) -> list[int]:
        """The slots that can be given cells."""
        busy = {place for member in self._crew if member.item for place in member.places}
        return [place for place in range(len(self.slots)) if place not in busy and (place,) not in self._given_up]

    def _member(
        self, places: tuple[int, ...], own: Sequence[Slot], tied: Tie, selector: selectors.BaseSelector
    ) -> Member:
        """The idle process in these slots, or a new one. Others that hold memory of their GPUs end before."""
        for member in [member for member in self._crew if set(member.places) & set(places)]:
            if member.places == places and member.ended() is None:
                return member
            self._part_with(member, selector)
        member = Member(self.arguments, places, self.environment(own), tied)
        for stream in member.streams:
            selector.register(stream, selectors.EVENT_READ)
        self._crew.append(member)
        return member

    def _part_with(self, member: Member, selector: selectors.BaseSelector) -> None:
        for stream in member.streams:
            selector.unregister(stream)
        member.close(_SECONDS_TO_END)
        self._crew.remove(member)

    def _say_lines(self, member: Member, stopping: bool) -> None:
        for line in member.lines():
            # Each would say the same, and what is interrupted as it starts says where.
            if not stopping or (member.ready and line not in _OF_EACH):
                self.screen.say(line)

    def _hear(
        self, member: Member, tally: Tally, selector: selectors.BaseSelector, stopping: bool
    ) -> PlannedCell | None:
        """What a process has printed and answered; returns the cell with which it has ended, if it has."""
        ended = member.ended() is not None  # before its last words are read
        self._say_lines(member, stopping)
        for answer in member.answers():
            item, member.item = member.item, None
            assert item is not None
            self._settle(item, answer, tally)
        if member.ready:
            self._failed_starts[member.places] = 0
        if not ended:
            return None
        member.kill()  # what it has left running
        item = member.item
        self._part_with(member, selector)
        return item

    def _settle(self, item: PlannedCell, answer: object, tally: Tally) -> None:
        settled = None
        if isinstance(answer, dict) and "failed" in answer:
            settled = self.runner.fail(item, str(answer["failed"]))
        elif isinstance(answer, dict) and answer.get("settled"):
            record = self.runner.cells.results.find(item.cell.id)
            settled = None if record is None else Settled(record, answer.get("seconds"))
        self._tell(item, settled, tally)

    def _leave(self, item: PlannedCell, member: Member, tally: Tally, stopping: Stopping) -> None:
        """A process has ended, with a cell, that was asked to stop."""
        if member.cut_short:
            stopping.cut_short(item)
        elif member.ended() in _AS_ASKED:
            stopping.saved(item)
        else:
            stopping.lose(item, tally.row(item))
        tally.wait(item)

    def _lose(self, item: PlannedCell, member: Member, tally: Tally, stopped: StoppedCells) -> None:
        """A process has ended, with a cell, that we had not asked to."""
        how = member.how_it_ended()
        if member.ready and member.ended() in _AS_ASKED:  # by somebody else's signal, or before ours has come
            if (reason := stopped.stopped(item)) is not None:
                self._tell(item, self.runner.fail(item, reason), tally)
                return
            self.screen.say(told_of_stopped(item, "process"))
            tally.wait(item)
            return
        if not member.ready:
            self._failed_starts[member.places] += 1
            if self._failed_starts[member.places] == _MOST_DEATHS:
                self._give_up(member, how)
            tally.wait(item)
            return
        self._deaths[item.cell.id] += 1
        if self._deaths[item.cell.id] < _MOST_DEATHS:
            self.screen.say(f"{item.cell}: its process {how}: it is taken up again")
            tally.wait(item)
            return
        reason = f"{_MOST_DEATHS} processes that ran it have died: the last one {how}"
        self._tell(item, self.runner.fail(item, reason, begins_anew=True), tally)

    def _give_up(self, member: Member, how: str) -> None:
        """No process starts in its slots together: cells that run in others go on, and those take what waits."""
        self._given_up.add(member.places)
        self._why_given_up = f"processes for cells cannot start: the last one {how}"
        if self._running():
            names = ", ".join(self.slots[place].name for place in member.places)
            where = f"slot {names}" if len(member.places) == 1 else f"slots {names} together"
            self.screen.say(f"{self._why_given_up}: no more cells in {where}")

    def _tell(self, item: PlannedCell, settled: Settled | None, tally: Tally) -> None:
        if settled is None:
            tally.leave(item)
        elif (line := tally.settle(item, settled)) is not None:
            self.screen.say(line)

    def _places(self, item: PlannedCell) -> int:
        """How many slots a cell takes."""
        places = fitting_slots(self.slots, range(len(self.slots)), devices_wanted(item.cell.config))
        return len(places or ())

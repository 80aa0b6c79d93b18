"""One cell: what it still needs of training and validations, command by command, and the record of it."""

import errno
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from en_bench.data.places import Place
from en_bench.errors import InputError
from en_bench.lease_guard import require_lease
from en_bench.matrix.adapting import (
    adapted_path,
    recalibrated_checkpoint,
    recalibration_path,
    remove_adapted,
    still_holds,
    written_adapted,
    written_no_moments,
)
from en_bench.matrix.commands import adapt_commands, checkpoint_path, fit_command, result_path, validate_command
from en_bench.matrix.local.live import tell
from en_bench.matrix.overlays import Config
from en_bench.matrix.plan import Cell, Digests, PlannedCell, State, fit_is_stale, is_stale, overlay_change
from en_bench.matrix.process import Execute, one_line, run_here, run_isolated
from en_bench.matrix.records import (
    Json,
    Record,
    check_adapted,
    check_fit,
    check_recalibration,
    check_validation,
    read_json,
)
from en_bench.matrix.results import Results
from en_bench.matrix.spec import Spec
from en_bench.matrix.stopped_cells import Standing
from en_bench.matrix.training import (
    FIT,
    LOG,
    claim_training,
    finished_fit,
    make_room,
    mark_started,
    trained_so_far,
    unmark_started,
    validated_targets,
    was_cut_off,
)
from en_bench.resume.reached import Reached

ENDS_ALL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of a disk that no further cell could be recorded on."""


@dataclass(frozen=True)
class Work:
    """What a cell still needs: the training or not, the validations, and those with adapted running moments."""

    fit: bool
    labels: tuple[str, ...]
    adapted: tuple[str, ...]


@dataclass(frozen=True)
class CellRun:
    """Runs cells of `spec` into `results`, one at a time, each under a lease that the caller holds.

    `data_root` is what the user gave, and is passed on; `isolate` gives each command a process of its own (cells that
    may use several devices always get one, because Lightning starts further ranks by executing the command again).
    `starter` are words before each command, `srun` and its options, which start all ranks instead.
    """

    spec: Spec
    execute: Execute
    results: Results
    digests: Digests
    data_root: Place | None = None
    isolate: bool = False
    starter: tuple[str, ...] = ()

    def run(self, item: PlannedCell, generation: int) -> Record:
        """Run what the cell needs, and save the record. Raises LeaseLost once somebody else has taken it over."""
        cell, run = item.cell, self.results.run(item.cell.id)
        try:
            work = outstanding(self.spec, item, self.results, self.digests)
            reason = self._train(cell, run) if work.fit else None
            if reason is None:
                reason = self._validate(cell, work.labels, run)
            if reason is None:
                reason = self._adapt(cell, work.adapted, run)
        except OSError as error:  # of this cell's files only, as a rule: the others can be run
            if error.errno in ENDS_ALL:
                raise
            reason = one_line(told_of(error))
        return self.record(cell, generation, reason)

    def record(self, cell: Cell, generation: int, reason: str | None = None) -> Record:
        """Save what lies in the cell's folder as its record: done, or failed for a `reason`."""
        record = self.unsaved(cell, generation, reason)
        self.results.save(record)
        return record

    def unsaved(self, cell: Cell, generation: int, reason: str | None = None) -> Record:
        """The record that `record` would save."""
        run = self.results.run(cell.id)
        targets = validated_targets(run)
        return Record(
            id=cell.id,
            spec=self.spec.name,
            status="failed" if reason else "done",
            norm=cell.norm,
            train=cell.train,
            seed=cell.seed,
            overlays=cell.config,
            log=str((run / LOG).relative_to(self.results.folder)),
            reason=reason,
            fit=finished_fit(run, cell) or {},
            validate=_found(_written_result, run, targets),
            targets=targets,
            generation=generation,
            adapted=_found(written_adapted, run, targets),
            no_moments=_found(written_no_moments, run, targets),
        )

    def reached(self, item: PlannedCell) -> Reached | None:
        """How far the training of a cell is that was cut off and goes on in its next run."""
        return trained_so_far(self.results.run(item.cell.id), item.cell, self.digests)

    def standing(self, item: PlannedCell) -> Standing:
        """How far a cell is that is not done."""
        work = outstanding(self.spec, item, self.results, self.digests)
        return Standing(work.fit + len(work.labels) + len(work.adapted), self.reached(item))

    def _train(self, cell: Cell, run: Path) -> str | None:
        """Train a cell in a folder made clear for it; the reason why that failed, if it did."""
        reason = overlay_change(cell)
        if reason is None:
            require_lease()
            goes_on = was_cut_off(run, cell, self.digests)
            if goes_on:
                reached = trained_so_far(run, cell, self.digests)
                told: str | None = "goes on where it was cut off" + ("" if reached is None else f", at {reached}")
            else:
                told = make_room(run)
                mark_started(run, cell, self.digests)
            if told is not None:
                tell(f"{cell}: {told}")
                _note(run, told)
            argv = fit_command(cell, run, self.data_root)
            # The command reads the overlays itself, moments after they were compared.
            reason = self._perform(cell, argv, run / FIT, check_fit) or overlay_change(cell)
            require_lease()
            if reason is not None and goes_on:
                unmark_started(run)  # the checkpoint may be the reason: the next run begins anew
        if reason is not None:
            _note(run, reason)
        return reason

    def _validate(self, cell: Cell, labels: Sequence[str], run: Path) -> str | None:
        """Validate the training in `run` on some sets up to the first that fails; the reason why, if one does."""
        require_lease()
        for label in labels:
            result_path(run, label).unlink(missing_ok=True)
            remove_adapted(run, label)
        # Results of validation sets that the specification no longer names stay, with what selected them.
        targets = validated_targets(run) | {label: self.spec.target(label) for label in self.spec.validate}
        claim_training(run, cell, targets)
        for label in labels:
            argv = validate_command(self.spec, label, run, self.data_root)
            reason = self._perform(cell, argv, result_path(run, label), check_validation)
            if reason is not None:
                return reason
        return None

    def _adapt(self, cell: Cell, labels: Sequence[str], run: Path) -> str | None:
        """Validate on some sets with running moments of their unlabelled images, up to the first that fails."""
        for label in labels:
            require_lease()
            remove_adapted(run, label)
            recalibrate, validate = adapt_commands(self.spec, label, run, self.data_root)
            reason = self._perform(cell, recalibrate, recalibration_path(run, label), check_recalibration)
            if reason is None and written_no_moments(run, label) is not None:
                told = f"no normaliser has running moments: nothing to adapt to {label}"
                tell(f"{cell}: {told}")
                _note(run, told)
                continue
            if reason is None:
                reason = self._perform(cell, validate, adapted_path(run, label), check_adapted)
            recalibrated_checkpoint(run, label).unlink(missing_ok=True)
            if reason is not None:
                return reason
        return None

    def _perform(self, cell: Cell, argv: list[str], output: Path, check: Callable[[Json], None]) -> str | None:
        """Run a command of a cell and look at what it has written; the reason of a failure, if it is one."""
        require_lease()
        log = self.results.run(cell.id) / LOG
        with log.open("a", encoding="utf-8") as stream:
            stream.write(f"$ {shlex.join(['en-bench', *argv])}\n")
        if self.starter or self.isolate or needs_own_process(cell.config):
            reason = run_isolated(argv, log, self.starter)
        else:
            reason = run_here(self.execute, argv, log)
        if reason is not None:
            return reason
        try:
            check(read_json(output))
        except InputError as error:
            return one_line(f"{argv[0]} ended well but left no usable {output.name}: {error}")
        return None


def outstanding(spec: Spec, item: PlannedCell, results: Results, digests: Digests) -> Work:
    """What a cell needs beyond what lies in its run's folder, whether or not there is a record of it."""
    if item.state is State.DONE:
        return Work(False, (), ())
    run = results.run(item.cell.id)
    fit = finished_fit(run, item.cell)
    if fit is None or not checkpoint_path(run).is_file() or fit_is_stale(fit, digests):
        return Work(True, tuple(spec.validate), tuple(spec.adapted))
    targets = validated_targets(run)

    def is_there(label: str) -> bool:
        result = _written_result(run, label)
        return result is not None and targets.get(label) == spec.target(label) and not is_stale(result, digests)

    def is_adapted(label: str) -> bool:
        found = written_adapted(run, label), written_no_moments(run, label)
        return still_holds(*found, spec.adapted[label], partial(is_stale, digests=digests))

    labels = tuple(label for label in spec.validate if not is_there(label))
    return Work(False, labels, tuple(label for label in spec.adapted if label in labels or not is_adapted(label)))


def needs_own_process(config: Config) -> bool:
    """Whether a training may use more than one device, node or process: all but those that ask for a single device."""
    trainer = config.get("trainer")
    if not isinstance(trainer, dict):
        return True
    # Without a number of devices Lightning takes all there are.
    several = trainer.get("devices") not in (1, "1", [0]) or trainer.get("num_nodes", 1) != 1
    return several or any(name in str(trainer.get("strategy")).lower() for name in ("ddp", "fsdp", "deepspeed"))


def told_of(error: OSError) -> str:
    """Which file it is about, and what is wrong with it."""
    return f"{error.filename or 'a file'}: {error.strerror or error}"


def _note(run: Path, text: str) -> None:
    require_lease()
    run.mkdir(parents=True, exist_ok=True)
    with (run / LOG).open("a", encoding="utf-8") as stream:
        stream.write(f"# {text}\n")


def _found(written: Callable[[Path, str], Json | None], run: Path, labels: Iterable[str]) -> dict[str, Json]:
    """Without their configurations, which are the training's: they would be half of each record."""
    results = {label: result for label in labels if (result := written(run, label)) is not None}
    return {label: {k: v for k, v in result.items() if k != "config"} for label, result in results.items()}


def _written_result(run: Path, label: str) -> Json | None:
    try:
        result = read_json(result_path(run, label))
        check_validation(result)
    except InputError:
        return None
    return result

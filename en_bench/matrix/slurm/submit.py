"""Submitting cells to Slurm: one array of jobs per shape of resources, through submitit, which submits and no more.

What a job runs is our own command (`slurm_job`): neither submitit's pickles nor its handlers of signals are there.
"""

from __future__ import annotations

import contextlib
import io
import shlex
import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from en_bench.data.places import is_remote
from en_bench.errors import InputError
from en_bench.files import write_json
from en_bench.matrix.lease import Lease, Leases
from en_bench.matrix.opened import OpenedMatrix
from en_bench.matrix.plan import Cell, PlannedCell
from en_bench.matrix.results import Results
from en_bench.matrix.slurm.leases import note_submitted, submitting_holder
from en_bench.matrix.slurm.options import Shape
from en_bench.matrix.slurm.queue import SlurmUnreachable, cluster_facts, queued_jobs

if TYPE_CHECKING:
    from submitit import SlurmExecutor

SUBMISSION = "submission.json"
FORMAT, VERSION = "en_bench.submission", 1
NOTHING_SUBMITTED = (
    "nothing was submitted; jobs that run go on: try again where, and when, Slurm answers, "
    "or leave out --launcher slurm and the cells run here"
)


@dataclass(frozen=True)
class Submitted:
    """An array of jobs: its number, and the cells in the order of its tasks."""

    array: str
    shape: Shape
    cells: tuple[Cell, ...]


def slurm_folder(results: Results) -> Path:
    """Where scripts and logs of jobs lie, a folder for each array."""
    return results.folder / "slurm"


def by_shape(
    cells: Sequence[PlannedCell], matrix: OpenedMatrix, flags: Mapping[str, Any]
) -> list[tuple[Shape, list[PlannedCell]]]:
    """The cells that need the same. Raises InputError."""
    groups: list[tuple[Shape, list[PlannedCell]]] = []
    for item in cells:
        shape = matrix.spec.slurm.shape(item.cell, flags)
        for known, group in groups:
            if known == shape:
                group.append(item)
                break
        else:
            groups.append((shape, [item]))
    return groups


def submit(
    cells: Sequence[PlannedCell], matrix: OpenedMatrix, leases: Leases, flags: Mapping[str, Any]
) -> Iterator[Submitted]:
    """Takes the leases of `cells` that nobody holds, and submits them. Raises InputError where Slurm refuses."""
    groups = by_shape(cells, matrix, flags)
    try:
        cluster, largest = cluster_facts()
    except SlurmUnreachable as error:
        raise InputError(f"{error}: {NOTHING_SUBMITTED}") from None
    if largest < 1:
        raise InputError("this cluster takes no arrays of jobs (MaxArraySize=0 in slurm.conf): ask who runs it")
    for shape, group in groups:
        for first in range(0, len(group), largest):
            submitted = _submit_array(group[first : first + largest], shape, matrix, leases, cluster)
            if submitted is not None:
                yield submitted


def script(shape: Shape, count: int, matrix: OpenedMatrix) -> str:
    """What sbatch would be given for `count` cells of a shape."""
    name = f"{_prefix(matrix)}-00000000"
    folder = slurm_folder(matrix.results).resolve() / name
    executor = _executor(shape, count, name, folder)
    return str(executor._make_submission_file_text(_command(matrix, folder), "dry-run"))


def _submit_array(
    group: Sequence[PlannedCell], shape: Shape, matrix: OpenedMatrix, leases: Leases, cluster: str
) -> Submitted | None:
    name = f"{_prefix(matrix)}-{uuid.uuid4().hex[:8]}"
    taken: list[tuple[Cell, Lease]] = []
    results = matrix.results
    generations = results.generations()
    for item in group:
        known = item.record.generation if item.record is not None else 0
        generation = generations.get(item.cell.id, 0)
        if generation > known:
            continue  # somebody has just ended it
        lease = leases.take(item.cell.id, after=generation, holder=submitting_holder(name, len(taken), cluster))
        if lease is not None:
            taken.append((item.cell, lease))
    if not taken:
        return None
    folder = slurm_folder(results).resolve() / name
    write_json(
        folder / SUBMISSION,
        {
            "format": FORMAT,
            "version": VERSION,
            "name": name,
            "tasks": shape.tasks,
            "nodes": shape.nodes,
            "cpus_per_task": shape.options.cpus_per_task,
            "signal_seconds": shape.options.signal_seconds,
            "cells": [{"cell": cell.id, "token": lease.token} for cell, lease in taken],
        },
    )
    try:
        array = _sbatch(_executor(shape, len(taken), name, folder), _command(matrix, folder))
    except InputError:
        if not _is_known(name):  # an answer that was lost is no refusal
            for _, lease in taken:
                lease.give_back()
            shutil.rmtree(folder, ignore_errors=True)
        raise
    for _, lease in taken:
        note_submitted(lease, array)
    return Submitted(array, shape, tuple(cell for cell, _ in taken))


def _is_known(name: str) -> bool:
    """Whether Slurm has a job of that name, or does not say."""
    try:
        return any(found == name for found, _ in queued_jobs())
    except SlurmUnreachable:
        return True


def _sbatch(executor: SlurmExecutor, command: str) -> str:
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what sbatch says, and raises it too
            return str(executor._submit_command(command).job_id)
    except (FailedJobError, FailedSubmissionError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.startswith("sbatch: ")]
        raise InputError(f"sbatch refused the jobs: {'; '.join(lines) or ' '.join(str(error).split())}") from None


def _executor(shape: Shape, count: int, name: str, folder: Path) -> SlurmExecutor:
    try:
        from submitit import SlurmExecutor
    except ModuleNotFoundError:
        raise InputError("--launcher slurm needs submitit: pip install 'en_bench[slurm]'") from None

    class Executor(SlurmExecutor):  # type: ignore[misc]
        @classmethod
        def affinity(cls) -> int:
            return 1  # its own answer looks for srun, which nobody needs to see the script

    options = shape.options
    given = {
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "mem": options.memory,
        "cpus_per_task": options.cpus_per_task,
        "gpus_per_node": options.gpus_per_node or None,
        "array_parallelism": options.at_once or count,
    }
    executor = Executor(folder=folder)
    executor.parameters = {
        **{key: value for key, value in given.items() if value is not None},
        # Left out, submitit would set five minutes and a key of its own; without a limit the partition's holds.
        "time": options.minutes,
        "wckey": None,
        "job_name": name,
        "nodes": shape.nodes,
        "ntasks_per_node": shape.tasks_per_node,
        "stderr_to_stdout": True,
        "use_srun": False,
        # Until our handler is there, a signal must not end the shell or the interpreter that is starting.
        "setup": ["trap '' USR1 TERM", *options.setup],
        "map_count": count,
        "additional_parameters": {
            **options.parameters,
            "requeue": True,
            "signal": f"B:USR1@{options.signal_seconds}",
            "chdir": str(Path.cwd()),
        },
    }
    return executor


def _command(matrix: OpenedMatrix, folder: Path) -> str:
    """What a task of the array runs, in place of its shell, so that the signal reaches it."""
    data = matrix.data_root
    root = [] if data is None else ["--data-root", str(data if is_remote(data) else data.resolve())]
    words = ["run", str(matrix.spec.path.resolve()), "--results", str(matrix.results.folder.resolve().parent), *root]
    return shlex.join(["exec", sys.executable, "-u", "-m", "en_bench", "matrix", *words, "--slurm-job", str(folder)])


def _prefix(matrix: OpenedMatrix) -> str:
    return f"en_bench-{matrix.spec.name}"

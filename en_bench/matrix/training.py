"""The folder of a cell's training: whose it is, whether it can be taken, and making room for a new one."""

import itertools
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from en_bench.errors import InputError
from en_bench.files import write_json
from en_bench.matrix.commands import checkpoint_path
from en_bench.matrix.label_files import label_files
from en_bench.matrix.overlays import REPLACED, same_class
from en_bench.matrix.plan import Cell, Digests, without_seed_and_places
from en_bench.matrix.progress import PROGRESS
from en_bench.matrix.records import Json, check_fit, read_json
from en_bench.resume.reached import Reached, read_reached

FIT, LOG, _OWNER, _STARTED = "fit.json", "log.txt", "cell.json", "started.json"


def finished_fit(run: Path, cell: Cell) -> Json | None:
    """What the training in `run` wrote, if it is this cell's: by the runner's own mark, else by its configuration.

    The runner marks a training only once it has ended under the overlays it was planned with; without the mark (the
    command was typed by hand, or the runner was killed) the resolved configuration has to hold every value of the cell.
    """
    try:
        fit = read_json(run / FIT)
        check_fit(fit)
    except InputError:
        return None
    if fit["seed"] != cell.seed:
        return None
    owner = _owner(run)
    if owner is not None:
        return fit if owner.get("id") == cell.id else None
    return fit if holds(fit.get("config"), without_seed_and_places(cell.config)) else None


def claim_training(run: Path, cell: Cell, targets: Mapping[str, Json]) -> None:
    """Mark the training in `run` as the cell's; `targets` are the settings that select each label's validation set."""
    write_json(run / _OWNER, {"id": cell.id, "targets": targets})


def validated_targets(run: Path) -> dict[str, Json]:
    """The settings that selected the validation sets of the results in `run`, by label."""
    targets = (_owner(run) or {}).get("targets")
    return dict(targets) if isinstance(targets, dict) else {}


def mark_started(run: Path, cell: Cell, digests: Digests) -> None:
    """Note whose training begins in `run`, on which sets and with which files of its loss and noise."""
    write_json(run / _STARTED, _start_of(cell, digests))


def unmark_started(run: Path) -> None:
    """Lets the next run begin the training anew."""
    (run / _STARTED).unlink(missing_ok=True)


def was_cut_off(run: Path, cell: Cell, digests: Digests) -> bool:
    """Whether `run` holds a training of this cell, on the sets and files that are here now, that can go on."""
    if (run / FIT).exists() or not checkpoint_path(run).is_file():
        return False
    try:
        return read_json(run / _STARTED) == _start_of(cell, digests)
    except InputError:
        return False


def trained_so_far(run: Path, cell: Cell, digests: Digests) -> Reached | None:
    """How far the training in `run` is that can go on; None where it has to begin anew, or nothing tells."""
    try:
        return read_reached(checkpoint_path(run)) if was_cut_off(run, cell, digests) else None
    except OSError:  # a folder that refuses fails its cell, when that runs
        return None


def _start_of(cell: Cell, digests: Digests) -> Json:
    data = cell.config.get("data")
    names = [str(data[key]) for key in ("train", "val") if key in data] if isinstance(data, Mapping) else []
    files = label_files(cell.config)
    return {"id": cell.id, "digests": {name: digests(name) for name in names}, **({"files": files} if files else {})}


def _is_bare(run: Path) -> bool:
    """Whether nothing lies there but what a command has yet to write: the runner was killed just before it."""
    return run.is_dir() and all(path.name.startswith(".") or path.name == PROGRESS for path in run.iterdir())


def is_kept(run: Path) -> bool:
    """Whether what lies in `run` moves aside for a new training: one that has ended, or what is not the runner's."""
    return (run / FIT).exists() or not (_is_bare(run) or (run / LOG).exists() or (run / _STARTED).exists())


def make_room(run: Path) -> str | None:
    """Clear `run` for a new training. Remains of one that the runner cut off go, all else moves aside.

    Returns what was moved and where to, in one line, or None.
    """
    moved = None
    if run.exists():
        if is_kept(run):
            numbers = itertools.count(1)
            aside = next(p for n in numbers if not (p := run.with_name(f"{run.name}.set-aside-{n}")).exists())
            run.rename(aside)
            moved = f"{run.name} held a training that is not this cell's or no longer valid: moved to {aside.name}"
        else:
            _remove(run)
    run.mkdir(parents=True)
    return moved


def _remove(run: Path) -> None:
    """Removes a folder in which somebody may still write who does not know yet that the cell was taken over.

    So it moves out of their way first. What cannot be removed, or was left there by a kill, goes the next time.
    """
    run.rename(run.with_name(f".{run.name}.{uuid.uuid4().hex}"))
    for remains in run.parent.glob(f".{run.name}.*"):
        shutil.rmtree(remains, ignore_errors=True)


def holds(resolved: object, wanted: object) -> bool:
    """Whether a resolved configuration holds every value of the overlays `wanted`, which may leave others open.

    Classes compare by the last part of their path, since overlays may write `ExemplarNorm` for
    `en_bench.norms.ExemplarNorm`, also without `class_path`. Numbers compare by value, whole or not.
    """
    if isinstance(wanted, Mapping):
        if not isinstance(resolved, Mapping):
            return not wanted and resolved is None
        return all(
            key in resolved and (same_class if key == "class_path" else holds)(resolved[key], value)
            for key, value in wanted.items()
            if key != REPLACED
        )
    if isinstance(wanted, str) and isinstance(resolved, Mapping):
        return same_class(resolved.get("class_path"), wanted)
    if isinstance(wanted, list):
        return isinstance(resolved, list) and len(resolved) == len(wanted) and all(map(holds, resolved, wanted))
    if isinstance(wanted, bool) or isinstance(resolved, bool):
        return wanted is resolved
    if isinstance(wanted, int | float) and isinstance(resolved, str):
        return str(wanted) == resolved  # an option that takes both, such as trainer.devices, resolves to text
    return wanted == resolved


def _owner(run: Path) -> Json | None:
    try:
        return read_json(run / _OWNER)
    except InputError:
        return None

"""Results of adapted validations: where they lie, what they hold, and whether they still do.

The running moments of a training are recalibrated on unlabelled images, the network is validated with them, and the
recalibrated checkpoint goes. A network without running moments has nothing to adapt, which its recalibration says.
"""

from collections.abc import Callable
from pathlib import Path

from en_bench.errors import InputError
from en_bench.matrix.records import Json, check_adapted, check_recalibration, read_json


def adapted_path(run: Path, label: str) -> Path:
    """Where the adapted validation on `label` writes its result."""
    return run / "validate" / f"{label}.adapted.json"


def recalibrated_checkpoint(run: Path, label: str) -> Path:
    """The checkpoint with other running moments, there for as long as its validation takes."""
    return run / "adapted" / f"{label}.ckpt"


def recalibration_path(run: Path, label: str) -> Path:
    """Where the recalibration writes what it did."""
    return run / "adapted" / f"{label}.json"


def written_adapted(run: Path, label: str) -> Json | None:
    """The result in `run` of the adapted validation on `label`, or None."""
    return _read(adapted_path(run, label), check_adapted)


def written_no_moments(run: Path, label: str) -> Json | None:
    """What the recalibration in `run` for `label` wrote, if it found no running moments, or None."""
    found = _read(recalibration_path(run, label), check_recalibration)
    return found if found is not None and found["normalisers"] == 0 else None


def _read(path: Path, check: Callable[[Json], None]) -> Json | None:
    try:
        result = read_json(path)
        check(result)
    except InputError:
        return None
    return result


def remove_adapted(run: Path, label: str) -> None:
    """Removes all that an earlier adaptation to `label` has left."""
    for path in (adapted_path(run, label), recalibration_path(run, label), recalibrated_checkpoint(run, label)):
        path.unlink(missing_ok=True)


def still_holds(adapted: Json | None, no_moments: Json | None, split: str, stale: Callable[[Json], bool]) -> bool:
    """Whether one of them is by the images of `split` as they are now, and of a validation set as it is now.

    `stale` tells whether the set named in a result has changed.
    """
    if adapted is not None:
        images = adapted["recalibrated"]
        return images["set"] == split and not stale(images) and not stale(adapted)
    return no_moments is not None and no_moments["set"] == split and not stale(no_moments)

"""Results of adapted validations: where they lie, what they hold, and whether they still do.

The running moments of a training are recalibrated on unlabelled images, the network is validated with them, and the
recalibrated checkpoint goes. A network without running moments has nothing to adapt: the facts of its recalibration,
with 0 normalisers, are its result then.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from en_bench.errors import InputError
from en_bench.matrix.records import Json, check_adapted, read_json


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
    """The result for `label` in `run`, or None: of a validation, or of a recalibration that had nothing to do."""
    for path in (adapted_path(run, label), recalibration_path(run, label)):
        try:
            result = read_json(path)
            check_adapted(result)
        except InputError:
            continue
        return result
    return None


def remove_adapted(run: Path, label: str) -> None:
    """Removes all that an earlier adaptation to `label` has left."""
    for path in (adapted_path(run, label), recalibration_path(run, label), recalibrated_checkpoint(run, label)):
        path.unlink(missing_ok=True)


def unlabelled(result: Json) -> Json:
    """Which images the moments are of: `set` and `digest`, and how many `normalisers` took them."""
    of: dict[str, Any] = dict(result.get("recalibrated", result))
    return of


def is_of(result: Json, split: str, stale: Callable[[Json], bool]) -> bool:
    """Whether a result is by the unlabelled images of `split` as they are now, and of a set as it is now."""
    images = unlabelled(result)
    return images["set"] == split and not stale(images) and not stale(result)

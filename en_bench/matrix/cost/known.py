"""What trainings have cost so far: in records of this matrix and of others, and in probes."""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from en_bench.errors import InputError
from en_bench.files import write_json
from en_bench.matrix.commands import checkpoint_path
from en_bench.matrix.cost.shape import Shape, shape_of
from en_bench.matrix.plan import Cell
from en_bench.matrix.records import Json, Record, read_json
from en_bench.matrix.results import Results
from en_bench.plural import counted
from en_bench.resume.reached import Pace

PROBE = "probe.json"
NO_RATE = "seconds per step unknown: give --seconds-per-step, or measure with --probe"
MOST_RECORDS_OF_OTHERS = 500
_PROBE_FORMAT = "en_bench.probe 2"  # those of 1 did not tell the loss
_BYTES_PER_PARAMETER = 8  # float32: the weight and the momentum of SGD


@dataclass(frozen=True)
class Measured:
    """What one training tells of its shape, or one probe does.

    `step` are the seconds of one batch on every rank, `validation` those of one validated image over all ranks;
    `checkpoint` its bytes on disk. `finished` is an ISO time. `start_up` is whether `step` is the mean of all steps,
    with what starting up and compiling took: records of former versions, or of a few steps, have no other.
    """

    shape: Shape
    device: str
    ranks: int
    step: float
    validation: float | None
    parameters: int | None
    checkpoint: int | None
    finished: str
    start_up: bool = False


@dataclass(frozen=True)
class Rate:
    """Seconds per step and per validated image of a shape, on how many ranks, and where that comes from in words."""

    step: float
    validation: float | None
    ranks: int
    source: str


@dataclass(frozen=True)
class _Source:
    """Measurements by shape. One of them is called `name`, and `rest` follows: `1 record of other matrices`."""

    name: str
    rest: str
    by_shape: Mapping[Shape, list[Measured]]

    def told(self, count: int) -> str:
        return counted(count, self.name) + self.rest


class Known:
    """What is known of shapes: records of this matrix first, then its `unfinished` trainings, then records of other
    matrices below the same folder, then probes.

    `device` is a shell pattern that the device's name has to match.
    """

    def __init__(
        self, results: Results, records: Sequence[Record], device: str = "*", unfinished: Iterable[Measured] = ()
    ) -> None:
        self._results, self._device = results, device
        self._passed_over: set[str] = set()  # devices that do not match
        own = [measured for record in records if (measured := of_record(record, results)) is not None]
        self._sources = [
            _Source("record", "", self._by_shape(own)),
            _Source("unfinished training", "", self._by_shape(unfinished)),
        ]
        self._to_read = [("record", " of other matrices", _of_others), ("probe", "", _of_probes)]

    def rate(self, shape: Shape) -> Rate | None:
        """Medians over the measurements on the device (and number of ranks) that was last used for the shape.

        Where some leave start-up out, over those.
        """
        for source in self._all():
            if shape in source.by_shape:
                newest = max(source.by_shape[shape], key=lambda found: found.finished)
                alike = [f for f in source.by_shape[shape] if (f.device, f.ranks) == (newest.device, newest.ranks)]
                alike = [found for found in alike if not found.start_up] or alike
                validations = [found.validation for found in alike if found.validation is not None]
                told = ", start-up and compiling included" if alike[0].start_up else ""
                return Rate(
                    statistics.median(found.step for found in alike),
                    statistics.median(validations) if validations else None,
                    newest.ranks,
                    f"{source.told(len(alike))}, {newest.device}{told}",
                )
        return None

    def why_not(self) -> str:
        """What to say of a shape that has no rate, with the cure."""
        for _ in self._all():  # all there is, so that the devices are known
            pass
        if self._device == "*" or not self._passed_over:
            return NO_RATE
        there = ", ".join(sorted(self._passed_over))
        return f"nothing measured on a device like --device {self._device!r}: correct or leave it out; there is {there}"

    def checkpoint_bytes(self, shape: Shape) -> tuple[int, bool] | None:
        """Of the network of `shape`, and whether that was seen on disk, not made up from the number of parameters.

        What a loss remembers of samples is not in it.
        """
        parameters = None
        for source in self._all():
            for found in itertools.chain.from_iterable(source.by_shape.values()):
                if found.shape.weights == shape.weights:
                    if found.checkpoint is not None and not found.shape.remembers:
                        return found.checkpoint, True
                    parameters = parameters or found.parameters
        return None if parameters is None else (parameters * _BYTES_PER_PARAMETER, False)

    def _all(self) -> Iterable[_Source]:
        """Other matrices are read only when this one's records do not tell."""
        yield from list(self._sources)
        while self._to_read:
            name, rest, read = self._to_read.pop(0)
            self._sources.append(_Source(name, rest, self._by_shape(read(self._results))))
            yield self._sources[-1]

    def _by_shape(self, measured: Iterable[Measured]) -> dict[Shape, list[Measured]]:
        found: defaultdict[Shape, list[Measured]] = defaultdict(list)
        for one in measured:
            if fnmatchcase(one.device, self._device):
                found[one.shape].append(one)
            else:
                self._passed_over.add(one.device)
        return dict(found)


def of_record(record: Record, results: Results) -> Measured | None:
    """What a record tells, None if it holds no finished training with its costs."""
    fit = record.fit
    cost = fit.get("cost") or {}
    speed, ranks = _number(cost.get("images_per_second")), fit.get("ranks", 1)
    shape = shape_of(record.overlays)
    if speed is None or not isinstance(ranks, int) or shape.ranks not in (None, ranks):
        return None
    step = _number(cost.get("seconds_per_step"))
    own = [_number(cost.get("validation_images_per_second"))]
    later = [_number((result.get("cost") or {}).get("images_per_second")) for result in record.validate.values()]
    validations = [1 / speed for speed in own + later if speed is not None]
    parameters = cost.get("parameters")
    return Measured(
        shape,
        str(fit.get("device", "?")),
        ranks,
        step or shape.batch * ranks / speed,
        statistics.median(validations) if validations else None,
        parameters if isinstance(parameters, int) else None,
        _size(checkpoint_path(results.run(record.id))),
        str(fit.get("finished", "")),
        step is None,
    )


def of_unfinished(cell: Cell, pace: Pace, results: Results) -> Measured | None:
    """What the checkpoint of a training tells that has not ended; None if it ran on other ranks than it will."""
    shape, checkpoint = shape_of(cell.config), checkpoint_path(results.run(cell.id))
    if shape.ranks not in (None, pace.ranks):
        return None
    speed = pace.validation_images_per_second
    saved = datetime.fromtimestamp(checkpoint.stat().st_mtime, UTC) if checkpoint.is_file() else None
    return Measured(
        shape,
        pace.device,
        pace.ranks,
        pace.seconds_per_step,
        None if speed is None else 1 / speed,
        None,
        _size(checkpoint),
        "" if saved is None else saved.isoformat(timespec="seconds"),
    )


def read_probes(results: Results) -> list[Measured]:
    """The probes of a matrix; a file that is none counts as none."""
    return [measured for measured, _ in _probes(results)]


def keep_probe(results: Results, measured: Measured, conditions: Json) -> Path:
    """Add a probe to the file of a matrix, in the place of an earlier one of its shape on the device."""
    path = results.folder / PROBE
    kept = [raw for found, raw in _probes(results) if not _same(found, measured)]
    write_json(path, {"format": _PROBE_FORMAT, "probes": [*kept, {**asdict(measured), "conditions": conditions}]})
    return path


def _probes(results: Results) -> list[tuple[Measured, Json]]:
    try:
        raw = read_json(results.folder / PROBE)
        return [(_from_json(probe), probe) for probe in raw["probes"]] if raw.get("format") == _PROBE_FORMAT else []
    except (InputError, KeyError, TypeError, ValueError):
        return []


def _same(one: Measured, other: Measured) -> bool:
    return (one.shape, one.device, one.ranks) == (other.shape, other.device, other.ranks)


def _from_json(raw: dict[str, Any]) -> Measured:
    fields = {name: raw[name] for name in Measured.__dataclass_fields__ if name in raw}
    measured = Measured(**{**fields, "shape": Shape(**raw["shape"])})
    if _number(measured.step) is None or not isinstance(measured.ranks, int):
        raise ValueError(f"no probe: {raw}")
    return measured


def _of_others(results: Results) -> Iterable[Measured]:
    """Of the newest records below the same folder: enough to know shapes, and few enough to list at once."""
    files = [
        (file.stat().st_mtime, file)
        for folder in _other_folders(results)
        if (folder / "records").is_dir()
        for file in (folder / "records").glob("*.json")
    ]
    for _, file in sorted(files, reverse=True)[:MOST_RECORDS_OF_OTHERS]:
        try:
            measured = of_record(Record.from_json(read_json(file)), Results(file.parent.parent))
        except InputError:  # its own matrix tells of it
            continue
        if measured is not None:
            yield measured


def _of_probes(results: Results) -> Iterable[Measured]:
    for folder in (results.folder, *_other_folders(results)):
        yield from read_probes(Results(folder))


def _other_folders(results: Results) -> list[Path]:
    above = results.folder.parent
    if not above.is_dir():
        return []
    return sorted(folder for folder in above.iterdir() if folder.is_dir() and folder.name != results.folder.name)


def _number(value: object) -> float | None:
    """A number above 0."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None

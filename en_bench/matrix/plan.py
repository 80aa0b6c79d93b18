"""Planning: the cells of a matrix, their identities, and what is done of them."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from en_bench.data.places import Place, is_remote, reason, shown
from en_bench.errors import InputError
from en_bench.matrix.adapting import still_holds
from en_bench.matrix.label_files import changed_files
from en_bench.matrix.overlays import Config, Overlay, merge, read_overlay
from en_bench.matrix.records import Json, Record
from en_bench.matrix.spec import Spec

if TYPE_CHECKING:
    from en_bench.data.fetch import Patience

# Where output goes, how it is shown and how many workers load data make no other experiment. Where data lie makes none
# either, but that no overlay may say.
_NO_IDENTITY = (
    ("data", "workers"),
    ("data", "decoded_cache_mb"),
    ("data", "cache"),
    ("data", "cache_gb"),
    ("data", "on_change"),
    ("checkpoint", "every_n_steps"),
    ("checkpoint", "every_minutes"),
    ("dynamics", "every_n_epochs"),
    ("dynamics", "ratios"),
    ("trainer", "default_root_dir"),
    ("trainer", "logger"),
    ("trainer", "enable_progress_bar"),
)

Digests = Callable[[str], str | None]
"""From a set's name to the digest of its manifest, None where the set is not here."""


@dataclass(frozen=True)
class Cell:
    """One training: `overlays` in the order in which they add up to `config`, and a seed."""

    id: str
    norm: str
    train: str
    seed: int
    overlays: tuple[Overlay, ...]
    config: Config

    def __str__(self) -> str:
        return f"{self.norm}/{self.train}/{self.seed}"


class State(StrEnum):
    DONE = "done"
    MISSING = "missing"
    FAILED = "failed"
    STALE = "stale"


@dataclass(frozen=True)
class PlannedCell:
    """A cell and what is known of it.

    `fresh` are the validation sets whose recorded result can be believed, `fresh_adapted` those of which the same holds
    for the result with adapted running moments.
    """

    cell: Cell
    state: State
    record: Record | None
    fresh: frozenset[str]
    fresh_adapted: frozenset[str] = frozenset()

    def result(self, label: str) -> Json | None:
        """What the validation on set `label` wrote, if that still holds."""
        return self.record.validate[label] if self.record is not None and label in self.fresh else None

    def adapted(self, label: str) -> Json | None:
        """What the validation on set `label` with adapted running moments wrote, if there is one and it still holds."""
        return self.record.adapted.get(label) if self.record is not None and label in self.fresh_adapted else None

    def has_no_moments(self, label: str) -> bool:
        """Whether adapting to set `label` found that the network has no running moments."""
        return label in self.fresh_adapted and self.adapted(label) is None


def cell_id(config: Mapping[str, Any], seed: int) -> str:
    """16 hexadecimal digits of the SHA-256 of configuration and seed, without output paths and display."""
    return _id(_canonical(config), seed)


def _canonical(config: Mapping[str, Any]) -> str:
    return json.dumps(without_seed_and_places(config), sort_keys=True, separators=(",", ":"))


def _id(canonical: str, seed: int) -> str:
    """Of a configuration's text, which all seeds share: to make it takes most of the time."""
    return hashlib.sha256(f'{{"config":{canonical},"seed":{seed}}}'.encode()).hexdigest()[:16]


def without_places(config: Mapping[str, Any]) -> Config:
    """What of a configuration makes it another experiment."""
    identity = dict(config)
    for section, key in _NO_IDENTITY:
        inner = identity.get(section)
        if isinstance(inner, dict) and key in inner:
            identity[section] = {k: v for k, v in inner.items() if k != key}
            if not identity[section]:
                del identity[section]
    return identity


def without_seed_and_places(config: Mapping[str, Any]) -> Config:
    """As `without_places`, of overlays: over a `seed_everything` among them each cell's own seed wins."""
    return {key: value for key, value in without_places(config).items() if key != "seed_everything"}


def overlay_change(cell: Cell) -> str | None:
    """Which overlay's file no longer makes the configuration that `cell` was planned with, in one line, or None."""
    try:
        now = [overlay if overlay.path is None else read_overlay(overlay.path) for overlay in cell.overlays]
    except InputError as error:
        return str(error)
    if cell_id(merge(overlay.config for overlay in now), cell.seed) == cell.id:
        return None
    pairs = zip(cell.overlays, now, strict=True)
    changed = [str(new.path) for planned, new in pairs if new.config != planned.config]
    return f"{', '.join(changed)} changed since this run was planned: start it again"


def plan_cells(spec: Spec) -> list[Cell]:
    """All cells, by training set, normaliser and seed; InputError if two of them are the same run."""
    cells: list[Cell] = []
    seen: dict[str, Cell] = {}
    for train, data in spec.train.items():
        for norm, overlays in spec.norms.items():
            chain = spec.base + data + overlays
            config = merge(overlay.config for overlay in chain)
            canonical = _canonical(config)
            for seed in spec.seeds:
                cell = Cell(_id(canonical, seed), norm, train, seed, chain, config)
                if cell.id in seen:
                    raise InputError(
                        f"{spec.path}: {seen[cell.id]} and {cell} are the same run ({cell.id}): "
                        "their overlays add up to the same configuration, remove one"
                    )
                seen[cell.id] = cell
                cells.append(cell)
    return cells


def plan(spec: Spec, records: Mapping[str, Record], digests: Digests) -> list[PlannedCell]:
    """Every cell of `spec` with its state."""
    targets = {label: spec.target(label) for label in spec.validate}
    return [plan_cell(cell, records.get(cell.id), targets, digests, spec.adapted) for cell in plan_cells(spec)]


def plan_cell(
    cell: Cell,
    record: Record | None,
    targets: Mapping[str, Json],
    digests: Digests,
    adapted: Mapping[str, str] = MappingProxyType({}),
) -> PlannedCell:
    """A cell with its state by its record.

    `targets` are the settings that select each label's validation set, `adapted` the splits of unlabelled images by the
    label that they are to be adapted to.
    """
    if record is None:
        return PlannedCell(cell, State.MISSING, None, frozenset())
    # Without its training, which a damaged fit.json loses, a result counts for nothing.
    measured = record.validate if record.fit else {}
    present = {label for label in targets if label in measured and record.targets.get(label) == targets[label]}
    fresh = present - {label for label in present if is_stale(record.validate[label], digests)}
    stale_set = partial(is_stale, digests=digests)
    present_adapted = adapted.keys() & present & (record.adapted.keys() | record.no_moments.keys())
    fresh_adapted = {
        label
        for label in present_adapted & fresh
        if still_holds(record.adapted.get(label), record.no_moments.get(label), adapted[label], stale_set)
    }
    if fit_is_stale(record.fit, digests):
        fresh, fresh_adapted, stale = set(), set(), True
    else:
        stale = fresh != present or fresh_adapted != present_adapted
    if record.status == "failed":
        state = State.FAILED
    elif stale:
        state = State.STALE
    else:
        state = State.DONE if fresh == targets.keys() and fresh_adapted == adapted.keys() else State.MISSING
    return PlannedCell(cell, state, record, frozenset(fresh), frozenset(fresh_adapted))


def fit_is_stale(fit: Json, digests: Digests) -> bool:
    """Whether a set, or a file of a transition matrix or class map, that a training read is no longer what it was."""
    return any(is_stale(fit[part], digests) for part in ("train", "val") if part in fit) or bool(changed_files(fit))


def is_stale(counted: Json, digests: Digests) -> bool:
    """Whether the set named in `counted` is here and is no longer what it was."""
    here = digests(counted["set"])
    return here is not None and here != counted.get("digest")


def manifest_digests(data_root: Place, patience: "Patience | None" = None) -> Digests:
    """Digests of the manifests below `data_root`, each read once, from a URL with `patience` (default: as all that is
    fetched). They raise InputError for a URL out of reach."""

    @cache
    def digest(name: str) -> str | None:
        folder = data_root / name
        if not is_remote(folder) and not folder.is_dir():
            return None
        from en_bench.data.manifest import manifest_digest

        try:
            return manifest_digest(folder, patience)
        except OSError as error:
            raise InputError(
                f"{shown(folder)}: whether it is what was trained on cannot be told: {reason(error)}: try again, or "
                "give another --data-root"
            ) from None

    return digest


def count_states(planned: Sequence[PlannedCell]) -> str:
    """The line `done D, missing M, failed F`; stale cells have to run again and count as missing."""
    states = Counter(item.state for item in planned)
    missing = states[State.MISSING] + states[State.STALE]
    return f"done {states[State.DONE]}, missing {missing}, failed {states[State.FAILED]}"

"""The specification of a matrix: which normalisers, training sets, validation sets and seeds."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from en_bench.errors import InputError
from en_bench.matrix.adapted import parse_adapted
from en_bench.matrix.closest import did_you_mean
from en_bench.matrix.cost.given import seconds_in_spec
from en_bench.matrix.metrics import METRICS
from en_bench.matrix.overlays import merge, read_yaml, settings
from en_bench.matrix.reported import Labels, Reported, parse_reported
from en_bench.matrix.slurm.options import SlurmSection, parse_slurm
from en_bench.matrix.spec_overlays import Overlays, data_of, overlays_at
from en_bench.matrix.tuning import parse_tuning

_KEYS = (
    *("name", "title", "base", "norms", "train", "validate", "seeds", "metric"),
    *("adapted", "reported", "tuning", "baseline", "seconds_per_step", "slurm"),
)
_OWN = "own"  # the validation set that each training has itself
_TRAINED_AND_VALIDATED_ON = ("train", "val", "val_labels")
_VALIDATED_ON = ("val", "val_labels")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_LARGEST_SEED = 2**32 - 1  # of numpy, and so of Lightning's seed_everything


@dataclass(frozen=True)
class Spec:
    """A matrix. `norms`, `train` and `validate` map a label to the overlays that are added to `base` for it.

    `own` are the validation labels that stand for each training's own validation set. What follows makes no other cell:
    `adapted` maps validation labels to the split whose unlabelled images recalibrate the running moments for a second
    validation, `reported` holds published numbers, `tuning` the number of recipes tried by normaliser, `baseline` names
    the normaliser that the others are compared with.
    """

    path: Path
    name: str
    title: str
    base: Overlays
    norms: dict[str, Overlays]
    train: dict[str, Overlays]
    validate: dict[str, Overlays]
    seeds: tuple[int, ...]
    metric: str
    own: frozenset[str] = frozenset()
    adapted: dict[str, str] = field(default_factory=dict)
    reported: tuple[Reported, ...] = ()
    tuning: dict[str, int] = field(default_factory=dict)
    baseline: str = ""
    seconds_per_step: dict[str, float] = field(default_factory=dict)
    slurm: SlurmSection = field(default_factory=SlurmSection)

    def target(self, label: str) -> dict[str, str]:
        """The settings that select validation set `label`: `data.val` and, where given, `data.val_labels`.

        None for a label that stands for each training's own, which the training's configuration selects.
        """
        if label in self.own:
            return {}
        data = data_of(merge(o.config for o in self.base + self.validate[label]))
        return {f"data.{key}": data[key] for key in _VALIDATED_ON if data.get(key) is not None}

    def own_targets(self) -> dict[str, str]:
        """The label of each training set's own validation set, without those that are not validated on it."""
        targets = {label: self.target(label) for label in self.validate}
        found: dict[str, str] = {}
        for train in self.train:
            selected = self.own_target(train)
            # Of several labels for one set that of the training set, if it is one of them.
            labels = [label for label in (train, *targets) if label in self.own or targets.get(label) == selected]
            if labels:
                found[train] = labels[0]
        return found

    def resolved(self, train: str, label: str) -> dict[str, str]:
        """As `target`, of a label that stands for each training's own the settings that a training on `train` has."""
        return self.own_target(train) if label in self.own else self.target(label)

    def trained_and_validated_on(self, train: str) -> tuple[str | None, str | None]:
        """The names of the training set `train` and of its own validation set."""
        data = _trained_on(self, train)
        return data.get("train"), data.get("val")

    def own_target(self, train: str) -> dict[str, str]:
        """As `target`, of the set that trainings on `train` validate on themselves."""
        data = _trained_on(self, train)
        return {f"data.{key}": data[key] for key in _VALIDATED_ON if data.get(key) is not None}


def load_spec(path: Path) -> Spec:
    """Read and check a specification; InputError names file, key and cure."""
    if path.is_dir():
        verb = ", or compare it with en-bench matrix diff" if (path / "records").is_dir() else ""
        what = "a matrix's results" if verb else "a folder"
        raise InputError(f"{path}: {what}, no specification: give the matrix's YAML file{verb}")
    raw = read_yaml(path)
    for key in raw:
        if key not in _KEYS:
            raise InputError(f"{path}: unknown key {key!r}{did_you_mean(key, _KEYS)}; the keys are {', '.join(_KEYS)}")
    for key in ("name", "norms", "train", "seeds"):
        if key not in raw:
            raise InputError(f"{path}: the key {key!r} is missing")
    norms, train = _axis(raw["norms"], path, "norms"), _axis(raw["train"], path, "train")
    metric = _metric(raw.get("metric", METRICS[0]), path)
    validate, own = _validate(raw.get("validate", list(train)), train, path)
    spec = Spec(
        path=path,
        name=_label(raw["name"], f"{path}: name"),
        title=_text(raw.get("title", raw["name"]), f"{path}: title"),
        base=overlays_at(raw.get("base", []), path, "base"),
        norms=norms,
        train=train,
        validate=validate,
        seeds=_seeds(raw["seeds"], path),
        metric=metric,
        own=own,
        reported=parse_reported(raw.get("reported"), path, Labels(norms, train, validate), metric),
        tuning=parse_tuning(raw.get("tuning"), f"{path}: tuning", norms),
        baseline=_baseline(raw.get("baseline", next(iter(norms))), norms, path),
        seconds_per_step=seconds_in_spec(raw.get("seconds_per_step", {}), f"{path}: seconds_per_step"),
        slurm=parse_slurm(raw.get("slurm", {}), f"{path}: slurm"),
    )
    _check_norms(spec)
    _check_data(spec)
    _check_targets(spec)
    _check_selections(spec)
    trained_on = {label: _trained_on(spec, label)["train"] for label in train}
    return replace(spec, adapted=parse_adapted(raw.get("adapted"), f"{path}: adapted", validate, own, trained_on))


def _check_norms(spec: Spec) -> None:
    for label, overlays in spec.norms.items():
        for key in data_of(merge(o.config for o in overlays)):
            # It would override the training set's own choice, and the cell would not be what its name says.
            if key in _TRAINED_AND_VALIDATED_ON:
                raise InputError(
                    f"{spec.path}: norms.{label}: a normaliser's overlays set data.{key}: move it to train or validate"
                )


def _check_targets(spec: Spec) -> None:
    for label, overlays in spec.validate.items():
        if overlays == spec.train.get(label):
            continue  # validates on the training set's own, whose other settings belong to the training
        for keys, _ in settings(merge(o.config for o in overlays)):
            if keys not in (("data", "val"), ("data", "val_labels")):
                raise InputError(
                    f"{spec.path}: validate.{label}: its overlays set {'.'.join(keys)}, which no validation would take "
                    "over: leave only data.val and data.val_labels"
                )


def _check_selections(spec: Spec) -> None:
    for one in spec.reported:
        if one.selection != "last" and spec.resolved(one.train, one.target) != spec.own_target(one.train):
            raise InputError(
                f"{spec.path}: reported: {one.train}: {one.target}: selection '{one.selection}': a training says it "
                "only of its own validation set"
            )


def _check_data(spec: Spec) -> None:
    trained_on = {label: _trained_on(spec, label) for label in spec.train}
    for label, data in trained_on.items():
        for key in ("train", "val"):
            if not isinstance(data.get(key), str):
                raise InputError(f"{spec.path}: train.{label}: its overlays set no data.{key}: add it to one of them")
    with_labels = next((label for label, data in trained_on.items() if data.get("val_labels") is not None), None)
    for label in (label for label in spec.validate if label not in spec.own):
        target = spec.target(label)
        if not isinstance(target.get("data.val"), str):
            raise InputError(f"{spec.path}: validate.{label}: its overlays set no data.val: add it to one of them")
        # A validation starts from the training's configuration and would silently take over its choice of labels.
        if with_labels is not None and "data.val_labels" not in target:
            raise InputError(
                f"{spec.path}: validate.{label}: its overlays leave data.val_labels open, though training set "
                f"{with_labels} sets it: set it for {label} too"
            )


def _trained_on(spec: Spec, label: str) -> dict[str, Any]:
    """What the overlays of training set `label` say of its data."""
    return data_of(merge(overlay.config for overlay in spec.base + spec.train[label]))


def _axis(raw: object, path: Path, key: str) -> dict[str, Overlays]:
    if isinstance(raw, list):
        raise InputError(f"{path}: {key}: it is a list: give each a label, as in {key}: {{LABEL: OVERLAY, ...}}")
    if not isinstance(raw, dict) or not raw:
        raise InputError(f"{path}: {key}: expected at least one 'label: overlay'")
    _check_distinct(raw, f"{path}: {key}")
    return {_label(label, f"{path}: {key}"): overlays_at(value, path, f"{key}.{label}") for label, value in raw.items()}


def _validate(raw: object, train: dict[str, Overlays], path: Path) -> tuple[dict[str, Overlays], frozenset[str]]:
    """The validation sets, and which of their labels stand for each training's own."""
    raw = {_OWN: _OWN} if raw == _OWN else raw
    if isinstance(raw, dict):
        own = frozenset(label for label, part in raw.items() if part == _OWN)
        for label in own & train.keys():
            raise InputError(
                f"{path}: validate.{label}: it stands for each training's own set, and is the name of one: rename it"
            )
        return _axis({label: [] if label in own else part for label, part in raw.items()}, path, "validate"), own
    if not isinstance(raw, list):
        return _axis(raw, path, "validate"), frozenset()
    if not raw:
        raise InputError(f"{path}: validate: the list is empty: name a training set, or leave the key out for all")
    for label in raw:
        if label not in list(train):  # which asks for no hash: anything may stand in a file
            cure = did_you_mean(label, train) if isinstance(label, str) else "; other sets need a mapping of all labels"
            raise InputError(f"{path}: validate: {label!r} is no label of train{cure}")
    _check_distinct(raw, f"{path}: validate")
    return {label: train[label] for label in raw}, frozenset()


def _label(raw: object, where: str) -> str:
    if not isinstance(raw, str) or not _LABEL.fullmatch(raw):
        raise InputError(
            f"{where}: {raw!r} cannot name a file: use at most 64 letters, digits and . _ + -, a letter or digit first"
        )
    return raw


def _check_distinct(labels: Iterable[object], where: str) -> None:
    seen: set[str] = set()
    for label in labels:
        # Labels name files, and some file systems do not tell upper from lower case.
        folded = str(label).casefold()
        if folded in seen:
            raise InputError(f"{where}: the label {label!r} stands twice: rename one")
        seen.add(folded)


def _text(raw: object, where: str) -> str:
    if not isinstance(raw, str) or len(raw.splitlines()) != 1:
        raise InputError(f"{where}: expected one line of text")
    return raw


def _seeds(raw: object, path: Path) -> tuple[int, ...]:
    if not isinstance(raw, list) or not raw:
        raise InputError(f"{path}: seeds: expected a list of whole numbers such as [0, 1, 2]")
    for seed in raw:
        if type(seed) is not int or not 0 <= seed <= _LARGEST_SEED:
            raise InputError(f"{path}: seeds: {seed!r} is no whole number from 0 to {_LARGEST_SEED}")
    if len(set(raw)) < len(raw):
        raise InputError(f"{path}: seeds: a seed stands twice: the runs would be the same")
    return tuple(raw)


def _metric(raw: object, path: Path) -> str:
    if raw not in METRICS:
        raise InputError(f"{path}: metric: {raw!r} is not one of {', '.join(METRICS)}{did_you_mean(raw, METRICS)}")
    return str(raw)


def _baseline(raw: object, norms: Iterable[str], path: Path) -> str:
    if raw not in list(norms):
        raise InputError(f"{path}: baseline: {raw!r} is no label of norms{did_you_mean(raw, norms)}")
    return str(raw)

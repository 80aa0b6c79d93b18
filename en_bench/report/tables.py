"""The numbers of a matrix: cells summarised over seeds, holes with their cause, and where all of it comes from."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from en_bench.accuracies import LABELS
from en_bench.matrix.plan import PlannedCell, State, count_states
from en_bench.matrix.records import covers_set
from en_bench.matrix.spec import Spec
from en_bench.matrix.stats import Summary, summarise
from en_bench.noise.base import labels_told


@dataclass(frozen=True)
class Metric:
    """How a metric is shown: values (fractions, or nats) times `scale`, with `digits` after the point."""

    title: str
    scale: float
    digits: int
    higher_is_better: bool

    def show(self, value: float) -> str:
        return f"{value * self.scale:.{self.digits}f}"


METRICS: Mapping[str, Metric] = {
    "top1": Metric("top-1 accuracy, %", 100, 1, True),
    "top5": Metric("top-5 accuracy, %", 100, 1, True),
    "nll": Metric("negative log-likelihood, nats", 1, 3, False),
    "ece": Metric("expected calibration error, %", 100, 1, False),
}


PART = "PART"


@dataclass(frozen=True)
class Entry:
    """A normaliser trained on one set and validated on another, over seeds.

    `values` holds what can be believed, by seed; `parts` counts those of them that come from a part of the validation
    set only; `holes` counts the other seeds by state (missing, failed or stale).
    """

    train: str
    norm: str
    target: str
    values: Mapping[int, float]
    holes: Counter[State]
    summary: Summary | None
    parts: int = 0
    best: bool = False

    def marks(self) -> list[str]:
        """PART, FAILED and STALE where a seed is; – where nothing is there and nothing else says why."""
        said = [PART] if self.parts else []
        said += [state.upper() for state in (State.FAILED, State.STALE) if self.holes[state]]
        return said or ([] if self.summary else ["–"])

    def show(self, metric: Metric) -> str:
        """`93.1 ± 0.8 (3)`: mean, 95 % interval (from three seeds on) and number of seeds, then the marks."""
        if self.summary is None:
            return " ".join(self.marks())
        spread = "" if self.summary.half_width is None else f" ± {metric.show(self.summary.half_width)}"
        return " ".join([f"{metric.show(self.summary.mean)}{spread} ({self.summary.n})", *self.marks()])


@dataclass(frozen=True)
class Table:
    """A matrix in numbers. `entries` by (train, norm, target); `notes` and `failures` are lines to stand below it.

    `accuracies` by (train, norm, name of `en_bench.accuracies.LABELS`): top-1 on the training's own validation set, in
    three ways; empty where no training says.
    """

    name: str
    title: str
    metric: Metric
    metric_name: str
    trains: tuple[str, ...]
    norms: tuple[str, ...]
    targets: tuple[str, ...]
    entries: Mapping[tuple[str, str, str], Entry]
    notes: tuple[tuple[str, str], ...]
    failures: tuple[str, ...]
    accuracies: Mapping[tuple[str, str, str], Entry]

    @property
    def headline(self) -> str:
        """What the entries are."""
        return f"{self.metric.title}, last epoch"

    @property
    def has_best(self) -> bool:
        return any(entry.best for entry in self.entries.values())


def build_table(spec: Spec, planned: Sequence[PlannedCell]) -> Table:
    """The table of a planned matrix."""
    metric = METRICS[spec.metric]
    groups: dict[tuple[str, str], list[PlannedCell]] = {}
    for item in planned:
        groups.setdefault((item.cell.train, item.cell.norm), []).append(item)
    entries: dict[tuple[str, str, str], Entry] = {}
    for train in spec.train:
        for target in spec.validate:
            column = [
                _entry(groups.get((train, norm), []), train, norm, target, partial(_validated, target, spec.metric))
                for norm in spec.norms
            ]
            best = _best(column, metric)
            for entry in column:
                entries[train, entry.norm, target] = (
                    entry if entry is not best else Entry(**{**vars(entry), "best": True})
                )
    return Table(
        spec.name,
        spec.title,
        metric,
        spec.metric,
        tuple(spec.train),
        tuple(spec.norms),
        tuple(spec.validate),
        entries,
        tuple(_notes(spec, planned)),
        tuple(
            f"{item.cell}: {item.record.reason} (cell {item.cell.id})"
            for item in planned
            if item.state is State.FAILED and item.record is not None
        ),
        _accuracies(spec, groups),
    )


Found = Callable[[PlannedCell], tuple[float | None, bool] | None]
"""The value in a cell (None where it is no number) and whether it is over a whole set; None if there is none."""


def _validated(target: str, metric: str, item: PlannedCell) -> tuple[float | None, bool] | None:
    result = item.result(target)
    return (result["metrics"][metric], covers_set(result)) if result and metric in result["metrics"] else None


def _trained(name: str, item: PlannedCell) -> tuple[float | None, bool] | None:
    """Of the accuracies that a training says of itself, like its costs, if it has a number in the matrix."""
    said = item.record.fit.get("accuracies") if item.record is not None and item.fresh else None
    found = said.get(name) if said else None
    return (found["top1"], covers_set(found)) if found else None


def _accuracies(
    spec: Spec, groups: Mapping[tuple[str, str], Sequence[PlannedCell]]
) -> Mapping[tuple[str, str, str], Entry]:
    entries = {
        (train, norm, name): _entry(groups.get((train, norm), []), train, norm, name, partial(_trained, name))
        for train in spec.train
        for norm in spec.norms
        for name in LABELS
    }
    return entries if any(entry.values for entry in entries.values()) else {}


def _entry(group: Sequence[PlannedCell], train: str, norm: str, target: str, find: Found) -> Entry:
    values: dict[int, float] = {}
    holes: Counter[State] = Counter()
    parts = 0
    for item in group:
        found = find(item)
        if found is not None:
            value, whole = found
            values[item.cell.seed] = math.nan if value is None else float(value)
            parts += not whole
        elif item.state is State.DONE:
            holes[State.MISSING] += 1
        else:
            holes[item.state] += 1
    summary = summarise(list(values.values())) if values else None
    return Entry(train, norm, target, values, holes, summary, parts)


def _best(column: Sequence[Entry], metric: Metric) -> Entry | None:
    """The best mean among the normalisers of one training set; none unless there are rivals, each with three seeds.

    A mean over a part of the validation set is no rival, and leaves open which one is best.
    """
    rivals = [
        (entry.summary.mean, entry)
        for entry in column
        if entry.summary is not None and entry.summary.n >= 3 and not entry.parts
    ]
    with_numbers = sum(entry.summary is not None for entry in column)
    if len(rivals) < 2 or len(rivals) < with_numbers or any(mean != mean for mean, _ in rivals):
        return None
    choose: Callable[..., tuple[float, Entry]] = max if metric.higher_is_better else min
    return choose(rivals, key=lambda rival: rival[0])[1]


def _notes(spec: Spec, planned: Sequence[PlannedCell]) -> Iterable[tuple[str, str]]:
    # Of the trainings only those with a number in the table.
    fits = [(item, item.record.fit) for item in planned if item.record is not None and item.fresh]
    runs = [fit for _, fit in fits]
    results = {label: [r for item in planned if (r := item.result(label)) is not None] for label in spec.validate}
    for label in spec.train:
        yield (
            f"trained on {label}",
            _mixed(_set(fit.get("train", {}), _of_training(fit)) for item, fit in fits if item.cell.train == label),
        )
    for label in spec.train:
        held_out = [fit["held_out"] for item, fit in fits if item.cell.train == label and fit.get("held_out")]
        if held_out:
            yield f"held out of {label}", _mixed(map(_held_out, held_out))
    for label in spec.validate:
        yield f"validated on {label}", _mixed(_set(result) for result in results[label])
    everything = runs + [result for found in results.values() for result in found]
    if not all(covers_set(result) for found in results.values() for result in found):
        yield PART, "validated on a part of the set only: no best among its rivals"
    yield "epochs", _mixed(str(fit.get("epochs", "?")) for fit in runs)
    yield "seeds", ", ".join(map(str, spec.seeds))
    yield "device", _mixed(str(made.get("device", "?")) for made in everything)
    precisions = [(fit.get("config") or {}).get("trainer", {}).get("precision") for fit in runs]
    if any(precision is not None for precision in precisions):
        yield "precision", _mixed("not set" if precision is None else str(precision) for precision in precisions)
    yield "versions", _mixed(_versions(made.get("versions")) for made in everything)
    yield "commit", _mixed(_commit(made.get("commit")) for made in everything)
    stale = sum(item.state is State.STALE for item in planned)
    yield "cells", count_states(planned) + (f" ({stale} of the missing are stale)" if stale else "")


def trained_labels(fit: Mapping[str, Any]) -> str | None:
    """The labels of a training: their column and the noise that was made, `given + symmetric 0.4 (seed 0)`."""
    column: str | None = fit.get("train", {}).get("labels")
    return None if column is None else labels_told(column, (fit.get("noise") or {}).get("made"))


def label_rate(fit: Mapping[str, Any], name: str) -> float | None:
    """Which share of the labels of a training was `changed` by made noise, or is `wrong` by the clean ones."""
    differences: Mapping[str, Any] | None = (fit.get("noise") or {}).get(name)
    return differences["rate"] if differences else None


def _of_training(fit: Mapping[str, Any]) -> str:
    rates = {name: rate for name in ("changed", "wrong") if (rate := label_rate(fit, name))}
    if rates.get("wrong") == rates.get("changed"):
        rates.pop("wrong", None)  # it says the same
    told = [f"{100 * rate:.2f} % {name}" for name, rate in rates.items()]
    return (trained_labels(fit) or "?") + (f" ({', '.join(told)})" if told else "")


def _held_out(part: Mapping[str, Any]) -> str:
    spoilt = ", some of which had trained before: they select nothing" if part.get("trained_before") else ""
    return f"share {part['share']}, n {part['n']}{spoilt}"


def _set(part: Mapping[str, Any], labels: str | None = None) -> str:
    digest = str(part.get("digest") or "?").removeprefix("sha256:")[:8]
    part_of = "" if covers_set(part) else f" ({PART})"
    unreadable = f" ({part['unreadable']} unreadable, skipped)" if part.get("unreadable") else ""
    n = f"n {part.get('n', '?')}{unreadable}"
    return f"{part.get('set', '?')}, {n}, labels {labels or part.get('labels', '?')}, digest {digest}{part_of}"


def _versions(versions: object) -> str:
    return " ".join(f"{name} {version}" for name, version in versions.items()) if isinstance(versions, dict) else "?"


def _commit(commit: object) -> str:
    if not isinstance(commit, dict) or not commit.get("sha"):
        return "unknown"
    return f"{str(commit['sha'])[:10]}{' with uncommitted changes' if commit.get('dirty') else ''}"


def _mixed(values: Iterable[str]) -> str:
    """All distinct values, in order of appearance; – if there is none."""
    return "; ".join(dict.fromkeys(values)) or "–"

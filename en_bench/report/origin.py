"""Where the numbers of a table come from, in lines to stand under it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from en_bench.matrix.plan import PlannedCell, State, count_states
from en_bench.matrix.records import Json, covers_set
from en_bench.matrix.spec import Spec
from en_bench.noise.in_words import labels_told
from en_bench.report.entries import MIXED, NOTHING, PART
from en_bench.report.same_data import short_hash

_MADE = ("classes_digest", "device", "versions", "commit")
_OF_RESULT = ("set", "n", "unreadable", "labels", "digest", "variant", "whole_set", "recalibrated", *_MADE)
_OF_TRAINING = ("train", "noise", "held_out", "epochs", *_MADE)


Validated = Mapping[str, Sequence[Json]]
"""Results of different origins, by validation set."""


def notes(
    spec: Spec, planned: Sequence[PlannedCell], validated: Validated, mixed: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Sets, seeds, devices, versions and commits behind the numbers of a matrix, each with what it is called; `mixed`
    are lines on where rivals rest on different data."""
    # Of the trainings only those with a number in the table.
    runs = [item.record.fit for item in planned if item.record is not None and item.fresh]
    by_train: dict[str, list[Json]] = {label: [] for label in spec.train}
    for item in planned:
        if item.record is not None and item.fresh:
            by_train[item.cell.train].append(item.record.fit)
    trained = {label: _distinct(fits, _OF_TRAINING) for label, fits in by_train.items()}
    for label, fits in trained.items():
        yield f"trained on {label}", _mixed(_set(fit.get("train", {}), _of_training(fit)) for fit in fits)
    for label, fits in trained.items():
        held_out = [fit["held_out"] for fit in fits if fit.get("held_out")]
        if held_out:
            yield f"held out of {label}", _mixed(map(_held_out, held_out))
    for label, results in validated.items():
        yield f"validated on {label}", _mixed(map(_set, results))
    results = list(chain.from_iterable(validated.values()))
    trainings = list(chain.from_iterable(trained.values()))
    everything = trainings + results
    yield "class map", _class_maps(everything)
    if not all(map(covers_set, results)):
        yield PART, "validated on a part of the set only: no best among its rivals"
    if mixed:
        yield MIXED, f"no best, rank or test among what rests on different data; {'; '.join(mixed)}"
    yield "epochs", _mixed(str(fit.get("epochs", "?")) for fit in trainings)
    yield "seeds", ", ".join(map(str, spec.seeds))
    yield "recipes tried", recipes_tried(spec)
    yield "device", _mixed(told_origin("device", made.get("device")) for made in everything)
    precisions = [((fit.get("config") or {}).get("trainer") or {}).get("precision") for fit in runs]
    if any(precision is not None for precision in precisions):
        yield "precision", _mixed("not set" if precision is None else str(precision) for precision in precisions)
    for fact in ("versions", "commit"):
        yield fact, _mixed(told_origin(fact, made.get(fact)) for made in everything)
    yield "cells", cells(planned)


def data_line(validated: Validated) -> str:
    """Class map, and n, labels, digest and variant of each validation set, in one line: what tells whether tables are
    comparable."""
    sets = [f"{label} {_mixed(map(_counted, results))}" for label, results in validated.items()]
    return "; ".join([f"class map {_class_maps(chain.from_iterable(validated.values()))}", *sets])


def validated_by(spec: Spec, planned: Sequence[PlannedCell]) -> Validated:
    """The results that hold, one of each origin; those after adapting to a set apart, as `<set> (adapted)`."""
    found: dict[str, list[Json]] = {}
    for label in spec.validate:
        found[label] = [r for item in planned if (r := item.result(label)) is not None]
        if label in spec.adapted:
            found[f"{label} (adapted)"] = [r for item in planned if (r := item.adapted(label)) is not None]
    return {label: _distinct(results, _OF_RESULT) for label, results in found.items()}


def _distinct(made: Iterable[Json], facts: Sequence[str]) -> list[Json]:
    """One for each combination of `facts`, in order of appearance: ten thousand records have a handful of origins."""
    found: dict[str, Json] = {}
    last: list[Any] = []
    for one in made:
        told = list(map(one.get, facts))
        if told != last:  # mostly they are equal, and to compare is less than to write
            last = told
            found.setdefault(repr(told), one)
    return list(found.values())


def cells(planned: Sequence[PlannedCell]) -> str:
    """How many cells are done, missing, failed and stale."""
    stale = sum(item.state is State.STALE for item in planned)
    return count_states(planned) + (f" ({stale} of the missing are stale)" if stale else "")


def recipes_tried(spec: Spec) -> str:
    """The tuning budget: how many recipes were tried for each normaliser, as the specification states it."""
    if not spec.tuning:
        return "not stated"
    return ", ".join(f"{norm} {spec.tuning.get(norm, 'not stated')}" for norm in spec.norms)


def told_origin(fact: str, value: object) -> str:
    """The `device`, `versions` or `commit` of a training or validation, in words."""
    if fact == "device":
        return str(value or "?")
    return _versions(value) if fact == "versions" else _commit(value)


def trained_labels(fit: Mapping[str, Any]) -> str | None:
    """The labels of a training: their column and the noise that was made, `given + symmetric 0.4 (seed 0)`."""
    column: str | None = fit.get("train", {}).get("labels")
    return None if column is None else labels_told(column, (fit.get("noise") or {}).get("made"))


def label_rate(fit: Mapping[str, Any], name: str) -> float | None:
    """Which share of the labels of a training was `changed` by made noise, or is `wrong` by the clean ones."""
    differences: Mapping[str, Any] | None = (fit.get("noise") or {}).get(name)
    return differences.get("rate") if differences else None


def variant_told(variant: object) -> str | None:
    """What `en_bench.data.variant.variant` wrote, in words; None for records of before."""
    if not isinstance(variant, Mapping):
        return None
    told = [str(variant[key]) for key in ("variant", "resolution", "form") if variant.get(key)]
    if variant.get("sources"):
        told.append("+".join(map(str, variant["sources"])))
    if "short_side" in variant:
        side = variant["short_side"]
        told.append(f"short side at most {side} px" if side else "sizes as they were")
    if variant.get("encoded"):
        told.append(f"encoded again as {variant['encoded']}")
    if variant.get("limit"):
        told.append(f"limit {variant['limit']}")
    return ", ".join(told) or "not stated"


def _of_training(fit: Mapping[str, Any]) -> str:
    rates = {name: rate for name in ("changed", "wrong") if (rate := label_rate(fit, name))}
    if rates.get("wrong") == rates.get("changed"):
        rates.pop("wrong", None)  # it says the same
    told = [f"{100 * rate:.2f} % {name}" for name, rate in rates.items()]
    return (trained_labels(fit) or "?") + (f" ({', '.join(told)})" if told else "")


def _held_out(part: Mapping[str, Any]) -> str:
    spoilt = ", some of which had trained before: they select nothing" if part.get("trained_before") else ""
    return f"share {part.get('share', '?')}, n {part.get('n', '?')}{spoilt}"


def _set(part: Mapping[str, Any], labels: str | None = None) -> str:
    return f"{part.get('set', '?')}, {_counted(part, labels)}{_recalibrated(part)}"


def _counted(part: Mapping[str, Any], labels: str | None = None) -> str:
    told = f"{_n(part)}, labels {labels or part.get('labels', '?')}, digest {short_hash(part.get('digest'))}"
    return f"{told}{_variant(part)}{_part(part)}"


def _recalibrated(result: Mapping[str, Any]) -> str:
    """The images that the running moments are of, where they are others than those of the training."""
    images = result.get("recalibrated")
    if not images:
        return ""
    n = images.get("samples", "?")
    return f", moments recalibrated on {images.get('set', '?')}, n {n}, digest {short_hash(images.get('digest'))}"


def _n(part: Mapping[str, Any]) -> str:
    unreadable = f" ({part['unreadable']} unreadable, skipped)" if part.get("unreadable") else ""
    return f"n {part.get('n', '?')}{unreadable}"


def _variant(part: Mapping[str, Any]) -> str:
    told = variant_told(part.get("variant"))
    return "" if told is None else f", variant {told}"


def _part(part: Mapping[str, Any]) -> str:
    return "" if covers_set(part) else f" ({PART})"


def _class_maps(made: Iterable[Mapping[str, Any]]) -> str:
    return _mixed(short_hash(one["classes_digest"]) if one.get("classes_digest") else "not recorded" for one in made)


def _versions(versions: object) -> str:
    return " ".join(f"{name} {version}" for name, version in versions.items()) if isinstance(versions, dict) else "?"


def _commit(commit: object) -> str:
    if not isinstance(commit, dict) or not commit.get("sha"):
        return "unknown"
    return f"{str(commit['sha'])[:10]}{' with uncommitted changes' if commit.get('dirty') else ''}"


def _mixed(values: Iterable[str]) -> str:
    """All distinct values, in order of appearance; – if there is none."""
    return "; ".join(dict.fromkeys(values)) or NOTHING

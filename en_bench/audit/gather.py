"""What an audit makes of a record and of a pass: scores, what cleanlab finds, and ratios, with notes of what lacks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from en_bench.audit import cleanlab_scores
from en_bench.audit.checkpoint_pass import CheckpointPass
from en_bench.audit.labels import Labels
from en_bench.audit.ratios import RatioReport, compare
from en_bench.audit.record import Record
from en_bench.audit.scores import (
    MEANINGS,
    RECORDED,
    Ints,
    Score,
    by_name,
    most_often_predicted,
    not_finite,
    pass_scores,
    recorded_scores,
)
from en_bench.errors import InputError

_NO_RECORD = (
    "no record of samples (train with --dynamics.every_n_epochs 1): no score of the training itself, and none tells "
    "wrong labels apart that the network has learnt by heart"
)


def check_score(name: str, record: Record | None) -> None:
    """Raises InputError where there can be no score of this name."""
    if name in cleanlab_scores.NAMES and not cleanlab_scores.is_installed():
        raise InputError(f"--score {name} is not there: {cleanlab_scores.MISSING}")
    if name in RECORDED and record is None:
        there = [other for other in MEANINGS if other not in RECORDED]
        if not cleanlab_scores.is_installed():
            there = [other for other in there if other not in cleanlab_scores.NAMES]
        raise InputError(
            f"--score {name} is not there: the run has no record of samples; choose one of {', '.join(there)}"
        )


def scores_of(record: Record | None, passed: CheckpointPass, labels: Labels) -> tuple[dict[str, Score], list[str]]:
    """All scores that there are, and notes."""
    scores: list[Score] = []
    notes: list[str] = []
    if record is not None:
        scores += recorded_scores(record.row, record.loss, record.margin, record.rows)
        if count := not_finite(record.row, record.loss, record.margin):
            notes.append(f"{count:,} samples have records that are not finite: their scores are of the others")
    else:
        notes.append(_NO_RECORD)
    scores += pass_scores(passed.logits, labels.given)
    if cleanlab_scores.is_installed():
        scores += cleanlab_scores.cleanlab_scores(passed.logits, labels.given)
    else:
        notes.append(cleanlab_scores.MISSING)
    if passed.unreadable:
        notes.append(f"{passed.unreadable:,} samples could not be decoded and have no score of the pass")
    return dict(by_name(scores)), notes


def unranked(score: Score, record: Record | None, labels: Labels) -> list[str]:
    """A note of how many labelled samples the score that ranks does not rank, and why; none where it ranks all."""
    labelled = labels.given >= 0
    without = labelled & np.isnan(score.values)
    if not without.any():
        return []
    held_out = without & labels.held_out
    of_training = without & ~labels.held_out
    never = np.zeros(len(labels.given), np.bool_)
    if score.name in RECORDED and record is not None:
        seen = np.zeros(len(labels.given), np.bool_)
        seen[record.row] = True
        never = of_training & ~seen
    reasons = {
        "held out, which have no record": held_out,
        "in no epoch of the record": never,
        "without a finite value": of_training & ~never,
    }
    told = ", ".join(f"{int(rows.sum()):,} {why}" for why, rows in reasons.items() if rows.any())
    return [
        f"{score.name} ranks {int((labelled & ~without).sum()):,} of {int(labelled.sum()):,} samples; no rank have "
        f"{int(without.sum()):,}: {told}"
    ]


def predicted_of(record: Record | None, passed: CheckpointPass, classes: int) -> Ints:
    """The class (N,) that each sample was predicted as: in training where there is a record, else by the checkpoint."""
    predicted = passed.predicted
    if record is None:
        return predicted
    recorded = most_often_predicted(record.row, record.predicted, record.rows, classes)
    predicted[recorded >= 0] = recorded[recorded >= 0]
    return predicted


def issues_of(passed: CheckpointPass, labels: Labels) -> tuple[NDArray[np.bool_] | None, list[str]]:
    """What cleanlab takes for errors (N,), None without cleanlab; and notes."""
    if not cleanlab_scores.is_installed():
        return None, []
    issues = np.zeros(len(labels.given), np.bool_)
    notes = []
    for name, part in (("training", ~labels.held_out), ("held-out", labels.held_out)):
        found = cleanlab_scores.label_issues(passed.logits, labels.given, part)
        if found is None:
            notes.append(f"the {name} samples have labels of one class only: cleanlab looks for no errors among them")
        else:
            issues |= found
    return issues, notes


def recorded_ratios(record: Record | None, labels: Labels, resamples: int) -> tuple[RatioReport | None, list[str]]:
    """The comparison of the ratios in a record, None where it has none to compare; and notes."""
    if labels.clean is None or record is None or not record.layers:
        return None, []
    epochs = len(record.epochs)
    source = f"in training, mean of {epochs} epoch{'s' if epochs > 1 else ''}"
    report = compare(record.ratios(), labels.clean, labels.given, source, resamples)
    if report is None:
        return None, ["the record's ratios are not finite: those of the checkpoint are compared instead"]
    return report, _left_out(report.left_out)


def ratios_of(passed: CheckpointPass, labels: Labels, resamples: int) -> tuple[RatioReport | None, list[str]]:
    """The comparison of the ratios of a pass, None where it has none to compare; and notes."""
    if labels.clean is None or not passed.ratios:
        return None, []
    source = "of the checkpoint, in evaluation"
    report = compare(iter(passed.ratios), labels.clean, labels.given, source, resamples)
    left_out = [layer.layer for layer in passed.ratios] if report is None else report.left_out
    return report, _left_out(left_out)


def _left_out(layers: Sequence[str]) -> list[str]:
    if not layers:
        return []
    return [f"no ratios of both wrong and right samples in {', '.join(layers)}: left out of the comparison"]

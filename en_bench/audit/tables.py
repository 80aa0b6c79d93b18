"""The CSV files of an audit."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np

from en_bench.audit.findings import Findings
from en_bench.audit.ratios import RatioReport

_RATIO_COLUMNS = (
    *("layer", "normaliser", "within", "epoch", "mean_wrong", "mean_right", "pairs"),
    *("cliffs_delta", "low", "high", "p", "p_adjusted"),
)


def audit_csv(findings: Findings) -> str:
    """A line for each labelled sample, the most suspect first; those without the ranking score last, without a rank."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    labels, names = findings.labels, list(findings.scores)
    known = labels.clean is not None
    table.writerow(
        ["rank", "key", "shard", "row", "part", "given", "predicted", "predicted_by_checkpoint", *names]
        + (["cleanlab_issue"] if findings.issues is not None else [])
        + (["clean", "wrong"] if known else [])
    )
    ranked = findings.ranking()
    rest = np.setdiff1d(np.flatnonzero(labels.given >= 0), ranked)
    for place, row in enumerate((*ranked.tolist(), *rest.tolist()), start=1):
        line: list[Any] = [
            place if place <= len(ranked) else "",
            findings.index.key(row),
            findings.manifest.shards[int(findings.index.shard[row])].name,
            row,
            "held_out" if labels.held_out[row] else "train",
            *(_name(findings, int(of[row])) for of in (labels.given, findings.predicted, findings.pass_predicted)),
            *(_number(float(score.values[row])) for score in findings.scores.values()),
        ]
        if findings.issues is not None:
            line.append("true" if findings.issues[row] else "false")
        if labels.clean is not None:
            line.append(_name(findings, int(labels.clean[row])))
            line.append(("true" if labels.wrong[row] else "false") if labels.known[row] else "")
        table.writerow(line)
    return text.getvalue()


def ratios_csv(report: RatioReport) -> str:
    """A line for each comparison; `epoch` is empty for those over all epochs, or of the pass."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_RATIO_COLUMNS)
    means = {(spread.layer, spread.normaliser): spread for spread in report.spreads}
    for effect in report.effects:
        spread = means[effect.layer, effect.normaliser]
        table.writerow(
            [
                effect.layer,
                effect.normaliser,
                effect.within,
                "" if effect.epoch is None else effect.epoch,
                *(_number(m) if effect.epoch is None else "" for m in (spread.mean_wrong, spread.mean_right)),
                effect.pairs,
                *map(_number, (effect.delta, effect.low, effect.high, effect.p, effect.p_adjusted)),
            ]
        )
    return text.getvalue()


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6g}"


def _name(findings: Findings, label: int) -> str:
    return findings.manifest.classes[label] if label >= 0 else ""

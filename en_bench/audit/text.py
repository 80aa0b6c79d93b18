"""What an audit prints."""

from __future__ import annotations

from typing import Any

from en_bench.audit.findings import AT, PARTS, PROBABILITIES, Findings
from en_bench.audit.ratios import SHOWN, RatioReport

_INTERVALS = ", with 95 % intervals of each by itself, not corrected for their number"
_LARGEST = 3  # effects that are told


def to_text(findings: Findings) -> str:
    """The figures as aligned text."""
    labels = findings.labels
    labelled = int((labels.given >= 0).sum())
    lines = [f"{findings.title}: {labelled:,} samples with a label"]
    if held_out := int(findings.part("held_out").sum()):
        lines[0] += f", {held_out:,} of them held out"
    if findings.epochs:
        lines.append(f"record of {len(findings.epochs)} epoch{'s' if len(findings.epochs) > 1 else ''} of training")
    lines.append(f"probabilities: {PROBABILITIES}")
    lines += [f"note: {note}" for note in findings.notes]
    measures = findings.measures()
    if labels.clean is None:
        lines.append("no clean labels are known: the ranking cannot be measured")
    elif not measures:
        lines.append(f"{int(labels.wrong.sum()):,} of {int(labels.known.sum()):,} known labels are wrong: none to find")
    else:
        lines += ["", *_measures(measures, findings.ranked_by)]
    for issue in findings.issues_found():
        lines.append(_issue(issue))
    if findings.ratios is not None:
        lines += ["", *_ratios(findings.ratios)]
    return "\n".join(lines) + "\n"


def _measures(measures: list[dict[str, Any]], ranked_by: str) -> list[str]:
    head = ["score", "AUROC (95 % interval)", *(f"P@{k:,}" for k in AT), "P@errors", "n", "errors"]
    table = []
    for part in dict.fromkeys(measure["part"] for measure in measures):
        table.append([head[0] if part == "train" else "held out", *head[1:]])
        for m in (m for m in measures if m["part"] == part):
            interval = m["auroc_interval"]
            bounds = "(none)" if interval is None else f"({interval[0]:.4f} - {interval[1]:.4f})"
            precisions = [m["precision_at"][str(k)] for k in AT] + [m["precision_at_errors"]]
            table.append(
                [
                    f"{m['score']}{' *' if m['score'] == ranked_by and part == 'train' else ''}",
                    f"{m['auroc']:.4f} {bounds}",
                    *("-" if value is None else f"{value:.3f}" for value in precisions),
                    f"{m['n']:,}",
                    f"{m['errors']:,}",
                ]
            )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in table
    ]
    lines.append("* ranks; P@k: share of wrong labels among the k most suspect, k of P@errors: the true number")
    if any(len({m["n"] for m in measures if m["part"] == part}) > 1 for part in PARTS):
        lines.append("scores of different n are measured on different samples: compare those of equal n")
    return lines


def _issue(issue: dict[str, Any]) -> str:
    where = "held out: " if issue["part"] == "held_out" else ""
    line = f"{where}cleanlab's find_label_issues takes {issue['flagged']:,} of {issue['n']:,} for errors"
    if issue.get("precision") is not None and issue.get("recall") is not None:
        line += f": {issue['precision']:.1%} of them are, {issue['recall']:.1%} of the {issue['errors']:,} are found"
    return line


def _ratios(report: RatioReport) -> list[str]:
    shown = [effect for effect in report.effects if effect.within == SHOWN and effect.epoch is None]
    clear = [effect for effect in shown if effect.p_adjusted < 0.05]
    lines = [
        f"ratios ({report.source}): {report.wrong:,} wrong against {report.right:,} right samples, Cliff's delta",
        f"within classes (clean label) {len(clear)} of {len(shown)} comparisons (layers x normalisers) differ at p "
        f"below 0.05, corrected for all {report.comparisons}: these, within given labels and over all samples "
        "(Benjamini-Yekutieli)",
        f"the largest within classes (clean label){_INTERVALS if report.resamples else ''}:",
    ]
    for effect in sorted(shown, key=lambda effect: -abs(effect.delta))[:_LARGEST]:
        interval = f"({effect.low:+.3f} .. {effect.high:+.3f})" if report.resamples else ""
        lines.append(f"  {effect.layer} {effect.normaliser}: {effect.delta:+.3f} {interval}".rstrip())
    return lines

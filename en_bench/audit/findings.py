"""All that an audit found, before it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from en_bench.audit.labels import Labels
from en_bench.audit.measures import auroc, precision_at
from en_bench.audit.ratios import RatioReport
from en_bench.audit.scores import MEANINGS, Ints, Score, ranking
from en_bench.data.index import Index
from en_bench.data.manifest import Manifest

AT = (100, 1000)  # k of precision at k, beside the number of errors
PARTS = ("train", "held_out")


@dataclass(frozen=True, eq=False)
class Findings:
    """The audit of a training split with N rows.

    Attributes:
        name: of the split, as the run names it.
        manifest, index: of the split.
        column: labels that trained.
        noise: that was made and added to them, in words; None without.
        labels: of the rows.
        scores: all that there are, by name.
        ranked_by: name of the one that ranks.
        predicted: class (N,) that a sample was predicted as, -1 unknown: most often in training where there is a
            record, else by the checkpoint.
        pass_predicted: class (N,) by the checkpoint, -1 for samples that took no part, or whose logits are not finite.
        issues: (N,) what cleanlab takes for errors; None without cleanlab.
        ratios: None where there are none, or no clean labels.
        epochs: of the record, from 1.
        notes: what is missing, and why; one line each.
    """

    name: str
    manifest: Manifest
    index: Index
    column: str
    noise: str | None
    labels: Labels
    scores: Mapping[str, Score]
    ranked_by: str
    predicted: Ints
    pass_predicted: Ints
    issues: NDArray[np.bool_] | None
    ratios: RatioReport | None
    epochs: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """What was audited."""
        return f"{self.name}, labels {self.column}{f' + {self.noise}' if self.noise is not None else ''}"

    def ranking(self) -> Ints:
        """Rows that have the ranking score, the most suspect first."""
        return ranking(self.scores[self.ranked_by])

    def part(self, name: str) -> NDArray[np.bool_]:
        """Rows (N,) that are in a part of the split and have a label."""
        here = self.labels.held_out if name == "held_out" else ~self.labels.held_out
        mask: NDArray[np.bool_] = here & (self.labels.given >= 0)
        return mask

    def measures(self) -> list[dict[str, Any]]:
        """AUROC and precision of each score on each part of the split, over the samples that have it."""
        found = []
        for part in PARTS:
            for score in self.scores.values():
                rows = np.flatnonzero(self.part(part) & self.labels.known & ~np.isnan(score.values))
                suspicion, wrong = score.suspicion[rows], self.labels.wrong[rows]
                errors = int(wrong.sum())
                if 0 in (errors, len(rows) - errors):
                    continue
                area = auroc(suspicion, wrong)
                at = {k: precision_at(suspicion, wrong, k) if k <= len(rows) else None for k in (*AT, errors)}
                found.append(
                    {
                        "score": score.name,
                        "part": part,
                        "n": len(rows),
                        "errors": errors,
                        "auroc": area.value,
                        "auroc_interval": None if np.isnan(area.low) else [area.low, area.high],
                        "precision_at": {str(k): at[k] for k in AT},
                        "precision_at_errors": at[errors],
                    }
                )
        return found

    def issues_found(self) -> list[dict[str, Any]]:
        """For each part of the split, how many errors cleanlab estimates, and how many of them are."""
        if self.issues is None:
            return []
        found = []
        for part in PARTS:
            here = self.part(part) & (self.pass_predicted >= 0)
            flagged = here & self.issues
            if not here.any():
                continue
            facts: dict[str, Any] = {"part": part, "n": int(here.sum()), "flagged": int(flagged.sum())}
            errors, known = here & self.labels.wrong, flagged & self.labels.known
            if (here & self.labels.known).any():
                right = int((flagged & self.labels.wrong).sum())
                facts |= {
                    "errors": int(errors.sum()),
                    "precision": right / int(known.sum()) if known.any() else None,
                    "recall": right / int(errors.sum()) if errors.any() else None,
                }
            found.append(facts)
        return found


def default_score(scores: Mapping[str, Score]) -> str:
    """The area under the margin where there is a record, else the margin of the checkpoint.

    A network that was trained long has learnt wrong labels too, and no longer tells them apart by its last word; what
    it said while it learnt does (Pleiss et al., NeurIPS 2020; Arpit et al., "A Closer Look at Memorization in Deep
    Networks", ICML 2017).
    """
    return "aum" if "aum" in scores else "pass_margin"


def to_json(findings: Findings) -> dict[str, Any]:
    """All figures as plain values."""
    labels, ratios = findings.labels, findings.ratios
    return {
        "set": findings.name,
        "digest": findings.manifest.digest,
        "labels": findings.column,
        "clean": labels.clean_column,
        "n": len(labels.given),
        "labelled": int((labels.given >= 0).sum()),
        "held_out": int(findings.part("held_out").sum()),
        "known": int(labels.known.sum()),
        "errors": int(labels.wrong.sum()) if labels.clean is not None else None,
        "epochs_recorded": list(findings.epochs),
        "ranked_by": findings.ranked_by,
        "scores": {
            name: {
                "meaning": score.meaning,
                "suspect": "high" if MEANINGS[name][0] else "low",
                "n": int((~np.isnan(score.values)).sum()),
            }
            for name, score in findings.scores.items()
        },
        "measures": findings.measures(),
        "cleanlab_issues": findings.issues_found(),
        "probabilities": PROBABILITIES,
        "ratios": None
        if ratios is None
        else {
            "source": ratios.source,
            "wrong": ratios.wrong,
            "right": ratios.right,
            "left_out": list(ratios.left_out),
            "resamples": ratios.resamples,
            "comparisons": ratios.comparisons,
            "correction": "of p: Benjamini-Yekutieli over these comparisons, which are layers x normalisers x within "
            "(clean, given, all); intervals are of each by itself and not corrected",
            "effect": "Cliff's delta, wrong against right: above 0 where wrong ones have the larger ratio",
        },
        "notes": list(findings.notes),
    }


PROBABILITIES = (
    "of one pass of the checkpoint over the training split, transformed as for evaluation: in-sample for what trained, "
    "out-of-sample for what was held out; cleanlab expects out-of-sample ones"
)

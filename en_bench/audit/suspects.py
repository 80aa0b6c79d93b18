"""The contact sheet of the most suspect samples."""

from __future__ import annotations

import io

from en_bench.audit.findings import Findings
from en_bench.data.sheet import MOST, Samples
from en_bench.data.sheet_page import Caption, Cell, compose

_PER_ROW = 10


def suspects_png(findings: Findings, top: int) -> bytes:
    """The `top` most suspect samples as a PNG, each with its given, predicted and, where known, its clean label.

    A red frame marks a label that is known to be wrong. Raises InputError for shards that cannot be read.
    """
    rows = findings.ranking()[: min(top, MOST)].tolist()
    samples = Samples(findings.manifest)
    cells = [_cell(findings, samples, row, place) for place, row in enumerate(rows, start=1)]
    page = compose(_title(findings, len(rows)), _subtitle(findings, rows), cells, _PER_ROW, (), None)
    content = io.BytesIO()
    page.save(content, "PNG")
    return content.getvalue()


def _title(findings: Findings, count: int) -> str:
    return f"{findings.title}: the {count} most suspect"


def _subtitle(findings: Findings, rows: list[int]) -> str:
    parts = [f"ranked by {findings.ranked_by}"]
    if known := [row for row in rows if findings.labels.known[row]]:
        wrong = sum(bool(findings.labels.wrong[row]) for row in known)
        parts.append(f"{wrong} of {len(known)} are known to be wrong (red)")
    return "; ".join([*parts, f"manifest {findings.manifest.digest[:12]}"])


def _cell(findings: Findings, samples: Samples, row: int, place: int) -> Cell:
    labels = findings.labels
    wrong = bool(labels.wrong[row])
    captions = [
        Caption("given", samples.name(int(labels.given[row])), red=wrong),
        Caption("predicted", samples.name(int(findings.predicted[row]))),
    ]
    if labels.clean is not None:
        captions.append(Caption("clean", samples.name(int(labels.clean[row]))))
    return Cell(samples.read(row), f"{place}  {samples.index.key(row)}", tuple(captions), wrong)

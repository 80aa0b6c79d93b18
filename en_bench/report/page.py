"""The report: one HTML file that needs nothing else, no network and no script."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from en_bench.duration import duration
from en_bench.files import write_text
from en_bench.matrix.commands import fit_command
from en_bench.matrix.plan import PlannedCell, State
from en_bench.matrix.records import Results
from en_bench.matrix.spec import Spec
from en_bench.report.plots import Curve, curves_svg, dots_svg, matrix_svg, shade
from en_bench.report.render import best_note, caption
from en_bench.report.tables import METRICS, Table, build_table


def write_report(results: Results, spec: Spec, planned: Sequence[PlannedCell]) -> Path:
    """Write `report.html` and `tables/matrix.svg`; returns the path of the page."""
    table = build_table(spec, planned)
    write_text(results.tables / "matrix.svg", matrix_svg(table))
    write_text(results.report, render_page(results, spec, planned, table))
    return results.report


def render_page(results: Results, spec: Spec, planned: Sequence[PlannedCell], table: Table) -> str:
    """The page's text. Learning curves appear where the runs still lie beside the records."""
    import jinja2
    from markupsafe import Markup

    curves = _curves(results, spec, planned)
    has_values = any(entry.summary is not None for entry in table.entries.values())
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("en_bench.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        table=table,
        caption=caption(table),
        best_note=best_note(table),
        heat=_heat(table),
        dots=Markup(dots_svg(table)) if has_values else None,
        curves=Markup(curves_svg(table, METRICS[spec.metric], curves)) if curves else None,
        costs=_costs(spec, planned),
        failures=[item for item in planned if item.state is State.FAILED],
        unfinished=[item for item in planned if item.state in (State.MISSING, State.STALE)],
        cells=[(item, _command(results, item)) for item in planned],
    )


def _command(results: Results, item: PlannedCell) -> str:
    return shlex.join(["en-bench", *fit_command(item.cell, results.run(item.cell.id), None)])


def _heat(table: Table) -> dict[tuple[str, str, str], str]:
    """The style of each field of the heat tables."""
    styles = {}
    for key, entry in table.entries.items():
        colour, light = shade(table, entry)
        rgb = ", ".join(f"{round(255 * part)}" for part in colour)
        styles[key] = f"background: rgb({rgb}); color: {'#fff' if light else '#1c2733'}"
    return styles


def _curves(results: Results, spec: Spec, planned: Sequence[PlannedCell]) -> dict[tuple[str, str], list[Curve]]:
    curves: dict[tuple[str, str], list[Curve]] = {}
    for item in planned:
        if item.state in (State.DONE, State.FAILED):
            curve = read_curve(results.run(item.cell.id) / "metrics.jsonl", f"val/{spec.metric}")
            if curve:
                curves.setdefault((item.cell.train, item.cell.norm), []).append(curve)
    return curves


def read_curve(path: Path, name: str) -> Curve:
    """The values of one metric in a `metrics.jsonl`, by epoch, counted from 1; empty if there is no such file.

    Lines that are no JSON mapping (a killed run may leave half a line) are passed over.
    """
    if not path.is_file():
        return []
    by_epoch: dict[int, float] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get(name), int | float) and isinstance(row.get("epoch"), int):
            by_epoch[row["epoch"] + 1] = float(row[name])
    return sorted(by_epoch.items())


def _costs(spec: Spec, planned: Sequence[PlannedCell]) -> list[dict[str, str]]:
    """Per normaliser the means over its trainings that have a number in the matrix."""
    rows = []
    for norm in spec.norms:
        fits = [i.record.fit["cost"] for i in planned if i.cell.norm == norm and i.record is not None and i.fresh]
        rows.append(
            {
                "norm": norm,
                "n": str(len(fits)),
                "parameters": _mean(fits, "parameters", lambda v: f"{v:,.0f}"),
                "speed": _mean(fits, "images_per_second", lambda v: f"{v:,.0f}"),
                "seconds": _mean(fits, "seconds", duration),
                "memory": _mean(fits, "peak_memory_bytes", lambda v: f"{v / 2**20:,.0f} MiB"),
            }
        )
    return rows


def _mean(costs: Sequence[Mapping[str, Any]], key: str, show: Any) -> str:
    values = [cost[key] for cost in costs if isinstance(cost.get(key), int | float)]
    return str(show(fmean(values))) if values else "–"

"""The report: one HTML file that needs nothing else, no network and no script."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from en_bench.files import write_text
from en_bench.matrix.commands import fit_command
from en_bench.matrix.plan import PlannedCell, State
from en_bench.matrix.results import Results
from en_bench.matrix.spec import Spec
from en_bench.report.curves import NOISE, Curves, training_curves, with_noise
from en_bench.report.document import Document, document
from en_bench.report.entries import METRICS
from en_bench.report.plots import MOST_DOTS, curves_svg, dots_svg, matrix_svg, noise_svg, shades
from en_bench.report.tables import Table, build_table


def write_report(results: Results, spec: Spec, planned: Sequence[PlannedCell]) -> Path:
    """Write `report.html` and `tables/matrix.svg`; returns the path of the page."""
    table = build_table(spec, planned)
    write_text(results.tables / "matrix.svg", matrix_svg(table))
    write_text(results.report, render_page(results, spec, planned, table, document(table)))
    return results.report


def render_page(results: Results, spec: Spec, planned: Sequence[PlannedCell], table: Table, doc: Document) -> str:
    """The page's text. Learning curves appear where the runs still lie beside the records."""
    import jinja2
    from markupsafe import Markup

    validated = f"val/{spec.metric}"
    curves = training_curves(results, planned, list(dict.fromkeys([validated, *NOISE])))
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
        matrix=doc.sheets[0],
        # The others stand below: the origin of the numbers at the end, failures in a table.
        notes=[n for n in doc.sheets[0].notes if (n.key, n.text) not in table.notes and not n.verbatim],
        sheets=doc.sheets[1:],
        heat=_heat(table),
        dots=Markup(dots_svg(table)) if has_values and len(table.entries) <= MOST_DOTS else None,
        too_many=len(table.entries) if has_values and len(table.entries) > MOST_DOTS else 0,
        curves=Markup(curves_svg(table, METRICS[spec.metric], curves[validated])) if validated in curves else None,
        noise=[(train, Markup(svg), *_shown(table, train, curves)) for train, svg in _noise(table, curves)],
        failures=[item for item in planned if item.state is State.FAILED],
        unfinished=[item for item in planned if item.state in (State.MISSING, State.STALE)],
        cells=[(item, _command(results, item)) for item in planned],
    )


def _command(results: Results, item: PlannedCell) -> str:
    return shlex.join(["en-bench", *fit_command(item.cell, results.run(item.cell.id), None)])


def _heat(table: Table) -> dict[tuple[str, str, str], str]:
    """The style of each field of the heat tables."""
    styles = {}
    for key, (colour, light) in shades(table).items():
        rgb = ", ".join(f"{round(255 * part)}" for part in colour)
        styles[key] = f"background: rgb({rgb}); color: {'#fff' if light else '#1c2733'}"
    return styles


def _noise(table: Table, curves: Mapping[str, Curves]) -> list[tuple[str, str]]:
    """A picture for each training set of which there is something to show."""
    trains = with_noise(curves, table.trains, table.norms)
    return [(train, noise_svg(table, train, curves, f"noise{number}")) for number, train in enumerate(trains)]


def _shown(table: Table, train: str, curves: Mapping[str, Curves]) -> tuple[bool, bool, bool]:
    """Whether the picture of a training set tells of its held-out part, and of rightly and wrongly labelled samples."""
    found = [name for name, of in curves.items() if any((train, norm) in of for norm in table.norms)]
    kinds = ("held_out/", "memory/right_", "memory/wrong_")
    held_out, right, wrong = (any(name.startswith(kind) for name in found) for kind in kinds)
    return held_out, right, wrong

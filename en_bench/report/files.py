"""The files of all tables of a matrix, and what is printed of them."""

from __future__ import annotations

from collections.abc import Iterable

from en_bench.errors import InputError
from en_bench.files import write_bytes, write_text
from en_bench.matrix.results import Results
from en_bench.report.csv_files import to_csv
from en_bench.report.document import FRAMES, SHEETS, Document
from en_bench.report.latex import to_latex
from en_bench.report.markdown import to_markdown
from en_bench.report.parquet import to_parquet
from en_bench.report.text import to_text

FOR_PROGRAMS = ("csv", "parquet")


def write_tables(results: Results, doc: Document, parquet: bool = False) -> None:
    """Write into the matrix's folder of tables `matrix.txt` and `matrix.md` with all tables, and one file for each as
    LaTeX and CSV, and Parquet if asked; what a former report wrote of tables that are no more goes."""
    folder = results.tables
    write_text(folder / "matrix.txt", to_text(doc.title, doc.sheets))
    write_text(folder / "matrix.md", to_markdown(doc.title, doc.sheets))
    for sheet in doc.sheets:
        write_text(folder / f"{sheet.name}.tex", to_latex(doc.title, doc.name, [sheet]))
    for frame in doc.frames:
        write_text(folder / f"{frame.name}.csv", to_csv(frame))
        # One of former numbers must not stand beside the others.
        (folder / f"{frame.name}.parquet").unlink(missing_ok=True)
        if parquet:
            write_bytes(folder / f"{frame.name}.parquet", to_parquet(frame))
    for name in set(SHEETS) - {sheet.name for sheet in doc.sheets}:
        (folder / f"{name}.tex").unlink(missing_ok=True)
    for name in set(FRAMES) - {frame.name for frame in doc.frames}:
        for kind in FOR_PROGRAMS:
            (folder / f"{name}.{kind}").unlink(missing_ok=True)


def printed(
    results: Results, doc: Document, form: str, names: Iterable[str] | None = None, width: int | None = None
) -> str:
    """What `matrix report --format` prints as text, markdown, latex, csv or parquet: the tables called `names`.

    By default all, in CSV the matrix. Text is folded into lines of `width` characters, if that is given. Of Parquet the
    files' paths are told, which `write_tables` has written. Raises InputError for tables that the format, or this
    matrix, does not have.
    """
    known = FRAMES if form in FOR_PROGRAMS else SHEETS
    has = [table.name for table in (doc.frames if form in FOR_PROGRAMS else doc.sheets)]
    for name in names or ():
        if name not in known:
            raise InputError(f"--table {name}: {form} has no such table; it has {', '.join(known)}")
        if name not in has:
            raise InputError(f"--table {name}: this matrix has nothing for it; it has {', '.join(has)}")
    wanted = set(names or (has if form != "csv" else ["matrix"]))
    sheets = [sheet for sheet in doc.sheets if sheet.name in wanted]
    frames = [frame for frame in doc.frames if frame.name in wanted]
    if form == "text":
        return to_text(doc.title, sheets, width)
    if form == "markdown":
        return to_markdown(doc.title, sheets)
    if form == "latex":
        return to_latex(doc.title, doc.name, sheets)
    if form == "csv":
        return "\n".join(map(to_csv, frames))
    return "".join(f"{results.tables / frame.name}.parquet\n" for frame in frames)

"""All tables of the made-up matrix in all formats, to the character."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pytest

from en_bench.errors import InputError
from en_bench.matrix.plan import PlannedCell, plan
from en_bench.matrix.results import Results
from en_bench.matrix.spec import Spec
from en_bench.report.csv_files import to_csv
from en_bench.report.document import FRAMES, SHEETS, Document
from en_bench.report.files import printed, write_tables
from en_bench.report.latex import escaped, to_latex
from en_bench.report.markdown import to_markdown
from en_bench.report.parquet import to_parquet
from en_bench.report.sheet import Field, Frame, Note, Sheet, fields
from en_bench.report.text import to_text
from tests.report.shown import frame, tables

EXPECTED = Path(__file__).parent / "expected"
PREAMBLE = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage{booktabs,longtable,textcomp}
\begin{document}
"""


@pytest.fixture
def doc(paper_spec: Spec, paper: Sequence[PlannedCell]) -> Document:
    return tables(paper_spec, paper)


def test_every_file_to_the_character(doc: Document, tmp_path: Path) -> None:
    assert tuple(sheet.name for sheet in doc.sheets) == SHEETS, "the made-up matrix has something for every table"
    assert tuple(frame.name for frame in doc.frames) == FRAMES
    write_tables(Results(tmp_path), doc)
    written = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "tables").iterdir()}
    assert written == {path.name: path.read_text(encoding="utf-8") for path in EXPECTED.iterdir()}


@pytest.mark.parametrize(("form", "file"), [("text", "matrix.txt"), ("markdown", "matrix.md"), ("csv", "matrix.csv")])
def test_what_is_printed_is_what_is_written(form: str, file: str, doc: Document, tmp_path: Path) -> None:
    assert printed(Results(tmp_path), doc, form) == (EXPECTED / file).read_text(encoding="utf-8")


def test_every_table_for_people_says_what_it_rests_on(doc: Document) -> None:
    for sheet in doc.sheets:
        notes = " ".join(note.line for note in sheet.notes)
        assert "class map" in notes and "n 50000" in notes and "google+flickr" in notes, sheet.name
        assert "done 15, missing 2, failed 1 (1 of the missing are stale)" in notes, sheet.name
        assert "BatchNorm 4, SwitchNorm not stated, ExemplarNorm 2" in notes, sheet.name


def test_parquet_holds_what_csv_holds_with_types(doc: Document) -> None:
    for name in FRAMES:
        wanted = frame(doc, name)
        found = pyarrow.parquet.read_table(pyarrow.BufferReader(to_parquet(wanted)))
        assert found.column_names == list(wanted.columns)
        assert [tuple(row.values()) for row in found.to_pylist()] == [tuple(row) for row in wanted.rows]
    cells = pyarrow.parquet.read_table(pyarrow.BufferReader(to_parquet(frame(doc, "cells"))))
    kinds = {name: str(cells.schema.field(name).type) for name in ("id", "seed", "top1", "whole_set", "flops")}
    assert kinds == {"id": "string", "seed": "int64", "top1": "double", "whole_set": "bool", "flops": "int64"}


def test_parquet_without_pyarrow_is_told_in_one_line(doc: Document, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        InputError, match=r"--format parquet needs pyarrow: pip install 'en_bench\[noise\]', or use csv"
    ):
        to_parquet(doc.frames[0])


def test_parquet_types_do_not_depend_on_the_values(
    doc: Document, paper_spec: Spec, paper: Sequence[PlannedCell], tmp_path: Path
) -> None:
    """With one seed there is no spread, without records nothing: the files of all still read as one data set."""
    one = tables(replace(paper_spec, seeds=(0,)), [item for item in paper if item.cell.seed == 0])
    none = tables(paper_spec, plan(paper_spec, {}, lambda name: None))
    for wanted in doc.frames:
        schemas = []
        for number, other in enumerate((doc, one, none)):
            for found in (found for found in other.frames if found.name == wanted.name):
                path = tmp_path / f"{wanted.name}{number}.parquet"
                path.write_bytes(to_parquet(found))
                schemas.append(pyarrow.parquet.read_schema(path))
        assert len(schemas) >= 2 and all(schema.equals(schemas[0]) for schema in schemas), wanted.name
        assert "null" not in {str(kind) for kind in schemas[0].types}
    empty = pyarrow.parquet.read_table(pyarrow.BufferReader(to_parquet(Frame("empty", {"a": int, "b": str}, []))))
    assert (empty.column_names, empty.num_rows) == (["a", "b"], 0)


def test_a_metric_that_is_called_as_another_column(paper_spec: Spec, paper: Sequence[PlannedCell]) -> None:
    first = paper[0]
    assert first.record is not None
    label, result = next(iter(first.record.validate.items()))
    named = {**result, "metrics": {**result["metrics"], "seconds": 0.25}}
    record = replace(first.record, validate={**first.record.validate, label: named})
    cells = frame(tables(paper_spec, [replace(first, record=record), *paper[1:]]), "cells")
    found = [dict(zip(cells.columns, row, strict=True)) for row in cells.rows]
    assert found[0]["metric seconds"] == 0.25 and found[0]["seconds"] == first.record.fit["cost"]["seconds"]


def test_tables_that_are_no_more_leave_no_file(doc: Document, tmp_path: Path) -> None:
    write_tables(Results(tmp_path), doc, parquet=True)
    few = Document(doc.title, doc.name, doc.sheets[:1], doc.frames[:1])
    write_tables(Results(tmp_path), few)
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {
        "matrix.txt",
        "matrix.md",
        "matrix.tex",
        "matrix.csv",
    }


def test_latex_is_balanced_and_escaped(doc: Document) -> None:
    source = to_latex(doc.title, doc.name, doc.sheets)
    assert source.isascii()
    body = source.partition("\n")[2]
    assert re.findall(r"(?<!\\)[#%]", body) == []
    assert "Two sources of the same classes: 100% made up" in source.partition("\n")[0]
    begun, ended = (re.findall(rf"\\{word}{{(\w+)}}", source) for word in ("begin", "end"))
    assert sorted(begun) == sorted(ended) and source.count("\\caption{") == len(SHEETS) == source.count("\\label{tab:")
    found = re.findall(r"\\begin{(?:tabular|longtable)}{@{}(\w+)@{}}(.*?)\\end{(?:tab|longtab)", source, re.DOTALL)
    assert len(found) >= len(SHEETS)
    for table in found:
        rows = [line for line in table[1].splitlines() if line.endswith("\\\\") and "\\caption" not in line]
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(table[0])}
    bare = re.sub(r"\\[{}]", "", source)
    assert bare.count("{") == bare.count("}")


def test_text_of_others_in_latex() -> None:
    assert escaped("a\\b_{c} 50% #1 & $x^2$ ~[2]\x1b[0m") == (
        r"a\textbackslash{}b\_\{c\} 50\% \#1 \& \$x\textasciicircum{}2\$ \textasciitilde{}{[}2{]}"
        r"\textbackslash{}x1b{[}0m"
    )
    assert escaped("--data.val '' a,,b") == r"-{}-data.val \textquotesingle{}\textquotesingle{} a,{},b"
    assert escaped("σ ≤ é 路") == r"{[}U+03C3{]} $\leq$ é {[}U+8DEF{]}"
    assert escaped("-0.4 ± 0.1 [-1], p-value") == r"$-$0.4 $\pm$ 0.1 {[}$-$1{]}, p-value"


def _compiled(sheets: Sequence[Sheet], folder: Path) -> str:
    """What LaTeX says of the sheets, which it must print whole: nothing beside the page or below it."""
    if not shutil.which("pdflatex") or subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True).returncode:
        pytest.skip("pdflatex with booktabs is not installed")
    (folder / "all.tex").write_text(f"{PREAMBLE}{to_latex('t', 'n', sheets)}\\end{{document}}\n", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Float too large" not in done.stdout and "Overfull \\hbox" not in done.stdout, done.stdout
    return done.stdout


def test_latex_compiles(doc: Document, tmp_path: Path) -> None:
    """With a table that is longer than a page, names and notes wider than one, and text that T1 fonts do not have."""
    long = Sheet("long", "Long", "100 rows", ["a", "b"], 1, [fields(str(n), "–") for n in range(100)], [Note("end")])
    names = ["A_normaliser.with+quite_a_long_name-of_its_own", "SparseSwitchNorm − BatchNorm", "x" * 64]
    sets = ["imagenet-with-symmetric-noise-0.4-on-every-label", "b"]
    rows = [fields(one, norm, *["+1.5 ± 0.7 (3), p 0.031 DIVERGED 1/3 MISSING"] * 5) for one in sets for norm in names]
    odd = [Note("σ ≤ 0 ╰─ 路径 ⚡ é – ‘x’ --data.val `''` " + "x" * 90 + "/a/b_c" * 40, "FAILED A/b/0:", verbatim=True)]
    wide = Sheet("wide", "Wide", "wide", ["trained on", "difference", *(f"set{n}" for n in range(5))], 2, rows, odd)
    _compiled([*doc.sheets, long, wide], tmp_path)


def test_latex_prints_every_note(tmp_path: Path) -> None:
    notes = [Note(f"n{number}: an illegal memory access was encountered " * 3, "FAILED") for number in range(70)]
    _compiled([Sheet("m", "t", "c", ["a", "b"], 1, [fields("x", "y")] * 12, notes)], tmp_path)
    if not shutil.which("pdftotext"):
        pytest.skip("pdftotext is not installed")
    text = subprocess.run(["pdftotext", "all.pdf", "-"], cwd=tmp_path, capture_output=True, text=True).stdout
    assert [f"n{number}:" in text for number in range(70)] == [True] * 70


HOSTILE = '=HYPERLINK("http://x")\x1b[2J\n\n# Heading <img src=x onerror=alert(1)> **b** [a](b) `c` &lt;'


def test_text_of_others_is_text_in_every_format() -> None:
    sheet = Sheet("s", "t", "c", ["a"], 1, [fields(HOSTILE)], [Note(HOSTILE, "device"), Note(HOSTILE, "FAILED", True)])
    line = HOSTILE.replace("\x1b", "\\x1b").replace("\n\n", " ")
    assert to_text("t", [sheet]) == f"t\nc\n\na\n{line}\n\ndevice: {line}\nFAILED {line}\n"
    marked = to_markdown("t", [sheet]).splitlines()
    escaped_line = (
        r'=HYPERLINK("http://x")\\x1b\[2J # Heading \<img src=x onerror=alert(1)> \*\*b\*\* \[a\](b) \`c\` \&lt;'
    )
    assert marked[-4:] == [
        f"| {escaped_line} |",
        "",
        f"- device: {escaped_line}",
        f"- FAILED `{line.replace('`', chr(39))}`",
    ]
    written = to_csv(Frame("f", {"text": str, "n": float}, [[HOSTILE, -0.5], ["-1", None], ["a-b", 1.0]]))
    assert list(csv.reader(io.StringIO(written))) == [["text", "n"], [f"'{line}", "-0.5"], ["'-1", ""], ["a-b", "1.0"]]


def test_the_command_on_a_terminal_of_another_encoding_and_with_an_odd_record(tmp_path: Path) -> None:
    records = Results(tmp_path / "paper").records
    shutil.copytree(EXPECTED.parent / "records", records)
    odd = min(records.iterdir())
    raw = json.loads(odd.read_text())
    raw["fit"]["cost"]["seconds"] = 10**17
    odd.write_text(json.dumps(raw))
    argv = [sys.executable, "-m", "en_bench", "matrix", "report", str(EXPECTED.parent / "paper.yaml")]
    done = subprocess.run(
        [*argv, "--results", str(tmp_path)],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        cwd=tmp_path,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert b"76.9 ? 0.2 (3)" in done.stdout and done.stdout.isascii()
    (warning,) = done.stderr.decode().splitlines()
    assert odd.name in warning and "'cost.seconds' is no number, or too large a one" in warning
    assert "76.9 ± 0.2 (3)" in (tmp_path / "paper" / "tables" / "matrix.txt").read_text(encoding="utf-8")


def test_facts_of_another_type_are_shown_as_text() -> None:
    odd = Frame("f", {"device": str}, [[["a", 1]], [None], ["b"]])
    assert to_csv(odd) == 'device\n"[\'a\', 1]"\n""\nb\n'
    found = pyarrow.parquet.read_table(pyarrow.BufferReader(to_parquet(odd))).to_pydict()
    assert found == {"device": ["['a', 1]", None, "b"]}


def test_wide_tables_stand_in_blocks_on_a_terminal() -> None:
    columns = [f"set{i}" for i in range(60)]
    rows = [
        [Field("a"), Field(norm), *(Field(f"{norm} {i} ± 0.1 (3)", i == 7) for i in range(60))] for norm in ("BN", "EN")
    ]
    long = "a note of many words " * 9
    sheet = Sheet("matrix", "t", "c", ["trained on", "normaliser", *columns], 2, rows, [Note(long.strip())], "the best")
    whole = to_text("t", [sheet]).splitlines()
    assert max(map(len, whole)) > 1000
    lines = to_text("t", [sheet], 80).splitlines()
    assert max(map(len, lines)) <= 80
    heads = [number for number, line in enumerate(lines) if line.startswith("trained on  normaliser  set")]
    # Every column once and in order, each block with what its rows are of.
    assert [name for number in heads for name in lines[number].split()[3:]] == columns
    for number in heads:
        assert lines[number + 1].startswith("a           BN") and lines[number + 2].startswith("            EN")
        assert lines[number + 3] == ""
    assert sum(line.count(" *") for line in lines if "±" in line) == 2
    assert to_text("t", [sheet], 5000).splitlines() == whole
    narrow = to_text("t", [sheet], 10).splitlines()
    assert sum(line.startswith("trained on  normaliser  set") for line in narrow) == 60

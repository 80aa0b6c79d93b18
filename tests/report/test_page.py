import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from en_bench.matrix.plan import PlannedCell, State, plan
from en_bench.matrix.results import Results
from en_bench.matrix.spec import Spec
from en_bench.matrix.training import claim_training
from en_bench.report import page, plots
from en_bench.report.curves import read_curves, training_curves
from en_bench.report.page import write_report
from en_bench.report.plots import dots_svg, matrix_svg, shades
from en_bench.report.tables import build_table
from tests.report.shown import tables

VOID = {"meta", "br", "img", "input", "link", "hr"}


class Page(HTMLParser):
    """Collects text, tags and ids, and checks that every element is closed where it should be."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value for key, value in attributes if key == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "svg"} & set(self.open):
            self.words.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(filter(None, self.words))


def write(results: Results, spec: Spec, planned: Sequence[PlannedCell]) -> str:
    assert write_report(results, spec, planned) == results.report
    return results.report.read_text(encoding="utf-8")


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "digits")


def test_whole_page(results: Results, spec: Spec, planned: Sequence[PlannedCell]) -> None:
    run = results.run(planned[0].cell.id)
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"step": 0, "epoch": 0, "val/top1": 0.5}\n{"half')
    page = Page(write(results, spec, planned))
    for said in (
        "93.2 ± 1.7 (3)",
        "94.7 ★",
        "FAILED STALE",
        "n 397",
        "272,474",
        "en-bench fit",
        "2 of 12 cells missing",
    ):
        assert said in page.text
    assert page.tags.count("svg") == 2
    assert len(page.ids) == len(set(page.ids))
    assert "Learning curves" in page.text


def test_the_best_stands_out_in_every_table(results: Results, paper_spec: Spec, paper: Sequence[PlannedCell]) -> None:
    source = write(results, paper_spec, paper)
    sheets = tables(paper_spec, paper).sheets[1:]
    wanted = [f"<b>{escape(field.text)} ★</b>" for sheet in sheets for row in sheet.rows for field in row if field.best]
    found = re.findall("<b>[^<]* ★</b>", source)
    of_matrix = sum(entry.best for entry in build_table(paper_spec, paper).entries.values())
    assert wanted and found[of_matrix:] == wanted and of_matrix
    assert all(f"<li>★ {escape(sheet.best)}</li>" in source for sheet in sheets if sheet.best)


def test_the_notes_of_the_matrix_stand_on_the_page_once(
    results: Results, paper_spec: Spec, paper: Sequence[PlannedCell]
) -> None:
    text = Page(write(results, paper_spec, paper)).text
    matrix = tables(paper_spec, paper).sheets[0]
    assert any(note.key == "web_images (adapted)" for note in matrix.notes)
    heats, _, below = text.partition("Normalisers side by side")
    own = dict(build_table(paper_spec, paper).notes)
    for note in matrix.notes:
        if note.key not in own and not note.verbatim:
            assert note.text in " ".join(heats.split()), note
        else:
            assert f"{note.key}: {note.text}" not in heats
            assert note.text.partition(" (cell ")[0].partition(": ")[2 * note.verbatim] in " ".join(below.split()), note


def test_sixteen_normalisers_have_a_look_of_their_own() -> None:
    looks = [(plots._style(index)["color"], plots._style(index)["marker"]) for index in range(64)]
    assert len(set(looks)) == 64 and len(set(looks[:8])) == 8


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["held_out/top1"], "own validation set and on its held-out part. Lines"),
        (["memory/right_learnt"], "own validation set, and what the network predicts for rightly labelled training"),
        (
            ["memory/right_learnt", "memory/wrong_as_given", "held_out/top1"],
            "for rightly and wrongly labelled training",
        ),
    ],
)
def test_page_speaks_of_parts_that_there_are(
    results: Results, spec: Spec, planned: Sequence[PlannedCell], names: list[str], words: str
) -> None:
    run = results.run(planned[0].cell.id)
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text(json.dumps({"step": 0, "epoch": 0} | dict.fromkeys(["val/top1", *names], 0.5)))
    assert words in " ".join(Page(write(results, spec, planned)).text.split())


def test_page_needs_nothing_else(results: Results, spec: Spec, planned: Sequence[PlannedCell]) -> None:
    source = write(results, spec, planned)
    # Names of XML dialects are no addresses that anything would fetch.
    addresses = set(re.findall(r"https?://[\w./#-]+", source))
    assert all(
        address.startswith(("http://www.w3.org/", "http://purl.org/", "https://matplotlib.org"))
        or "creativecommons" in address
        for address in addresses
    )
    assert not {"script", "link", "img", "iframe"} & set(Page(source).tags)
    assert not re.search(r"@import|url\((?!#)", source)


def test_markup_in_a_reason_stays_text(results: Results, spec: Spec, planned: Sequence[PlannedCell]) -> None:
    source = write(results, replace(spec, title="<b>bold</b> & more"), planned)
    assert "<script>alert" not in source
    assert "<b>bold</b> & more" in Page(source).text


def test_page_without_records(results: Results, spec: Spec) -> None:
    page = Page(write(results, spec, plan(spec, {}, lambda name: None)))
    assert "12 of 12 cells missing" in page.text
    assert "Normalisers side by side" not in page.text
    assert "svg" not in page.tags


def test_page_with_one_seed(results: Results, spec: Spec, planned: Sequence[PlannedCell]) -> None:
    page = Page(write(results, replace(spec, seeds=(0,)), [item for item in planned if item.cell.seed == 0]))
    assert "±" not in page.text.split("Normalisers side by side")[0].split("Darker is better")[1]
    assert "41.0 (1)" in page.text
    assert "Not complete" not in page.text


def test_page_with_a_diverged_run(results: Results, spec: Spec, planned: Sequence[PlannedCell]) -> None:
    first = planned[0]
    assert first.record is not None
    result = first.record.validate["typeset"]
    broken = {**first.record.validate, "typeset": {**result, "metrics": {"top1": None}}}
    page = Page(write(results, spec, [replace(first, record=replace(first.record, validate=broken)), *planned[1:]]))
    assert "nan" in page.text


def test_page_marks_a_part_of_a_set(results: Results, spec: Spec, planned: Sequence[PlannedCell]) -> None:
    first = planned[0]
    assert first.record is not None
    assert "PART" not in Page(write(results, spec, planned)).text
    result = {**first.record.validate["typeset"], "whole_set": False}
    record = replace(first.record, validate={**first.record.validate, "typeset": result})
    marked = [replace(first, record=record), *planned[1:]]
    page = Page(write(results, spec, marked))
    assert "41.3 ± 4.8 (3) PART" in page.text
    assert "PART validated on a part of the set only" in page.text
    # Letters are outlines: what was drawn stands in comments.
    assert "<!-- PART -->" in (results.tables / "matrix.svg").read_text()
    dots = dots_svg(build_table(spec, marked))
    assert "<!-- PART -->" in dots
    assert dots.count("fill: #ffffff; stroke: #0072b2") > 0


def test_costs_leave_out_what_no_longer_counts(results: Results, spec: Spec, planned: Sequence[PlannedCell]) -> None:
    dear = []
    for item in planned:
        if item.state is State.STALE and item.record is not None:
            fit = {**item.record.fit, "cost": {**item.record.fit["cost"], "parameters": 10**12}}
            item = replace(item, record=replace(item.record, fit=fit))
        dear.append(item)
    assert dear != list(planned)
    assert write(results, spec, dear) == write(results, spec, planned)


def test_equal_records_make_equal_bytes(results: Results, spec: Spec, planned: Sequence[PlannedCell]) -> None:
    assert write(results, spec, planned) == write(results, spec, planned)


def test_picture_of_the_matrix_is_valid_xml(results: Results, spec: Spec, planned: Sequence[PlannedCell]) -> None:
    write(results, spec, planned)
    root = ElementTree.fromstring((results.tables / "matrix.svg").read_text(encoding="utf-8"))
    assert root.tag.endswith("svg")
    # Letters are outlines: no element depends on an installed font.
    assert not [element for element in root.iter() if element.tag.endswith("}text")]
    whole = Page(results.report.read_text())
    assert whole.tags.count("svg") == 1


def test_many_normalisers_wrap(spec: Spec) -> None:
    many = replace(spec, norms={f"Norm{i}": () for i in range(9)})
    root = ElementTree.fromstring(matrix_svg(build_table(many, [])))
    assert float(root.attrib["width"].removesuffix("pt")) < 13 * 72


def test_shades_are_darker_for_better(spec: Spec, planned: Sequence[PlannedCell]) -> None:
    for metric in ("top1", "nll"):
        table = build_table(replace(spec, metric=metric), planned)
        good, light = shades(table)["typeset", "ExemplarNorm", "typeset"]
        bad, dark = shades(table)["handwritten", "BatchNorm", "typeset"]
        assert sum(good) < sum(bad)
        assert light and not dark


def test_curve_takes_the_last_value_of_an_epoch_and_passes_over_rubbish(tmp_path: Path) -> None:
    rows = [
        {"step": 1, "epoch": 0, "val/top1": 0.1},
        {"step": 2, "epoch": 0, "train/loss": 3.0},
        {"step": 3, "epoch": 1, "val/top1": 0.2},
        {"step": 3, "epoch": 1, "val/top1": 0.3},
        {"step": 4, "epoch": None, "val/top1": 0.9},
        [],
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\nrubbish\n{"step": 5, "ep')
    read = read_curves(tmp_path / "metrics.jsonl", ["val/top1", "train/loss", "val/nll"])
    assert read == {"val/top1": [(1, 0.1), (2, 0.3)], "train/loss": [(1, 3.0)]}
    assert read_curves(tmp_path / "none.jsonl", ["val/top1"]) == {}


def test_state_of_every_cell_is_listed(results: Results, spec: Spec, planned: Sequence[PlannedCell]) -> None:
    page = Page(write(results, spec, planned))
    for item in planned:
        assert item.cell.id in page.text
    assert page.text.count(State.DONE) >= 9


def test_a_cell_that_is_trained_and_not_validated_yet_has_its_curve(results: Results, spec: Spec) -> None:
    trained, begun = plan(spec, {}, lambda name: None)[:2]
    for item in (trained, begun):
        run = results.run(item.cell.id)
        run.mkdir(parents=True)
        (run / "metrics.jsonl").write_text('{"step": 0, "epoch": 0, "val/top1": 0.5}\n')
    fit = {"seed": trained.cell.seed, "train": {"set": "t"}, "val": {"set": "v"}, "metrics": {}, "cost": {}}
    (results.run(trained.cell.id) / "fit.json").write_text(json.dumps(fit))
    targets: dict[str, dict[str, object]] = {}
    claim_training(results.run(trained.cell.id), trained.cell, targets)
    curves = training_curves(results, [trained, begun], ["val/top1"])
    assert curves == {"val/top1": {(trained.cell.train, trained.cell.norm): [[(1, 0.5)]]}}
    assert "Learning curves" in Page(write(results, spec, [trained, begun])).text


def test_pictures_show_adapted_columns_and_what_is_missing(results: Results, paper_spec: Spec) -> None:
    label = next(iter(paper_spec.validate))
    spec = replace(paper_spec, adapted={label: "web_images/train"})
    table = build_table(spec, plan(spec, {}, lambda name: None))
    assert f"<!-- {label} (adapted) -->" in matrix_svg(table)
    dots = dots_svg(table)
    assert f"{label} (adapted) -->" in dots
    adapted = [column for _, _, column in table.entries if table.columns[column].adapted]
    # Of what was not begun – is said as in the tables, but where that would mean that there is nothing to adapt.
    assert dots.count("<!-- – -->") == len(table.entries) - len(adapted)
    assert dots.count("<!-- MISSING -->") == len(adapted)
    table = build_table(spec, [replace(item, state=State.FAILED) for item in plan(spec, {}, lambda name: None)])
    assert dots_svg(table).count("<!-- FAILED -->") == len(table.entries)


def test_very_many_means_have_no_picture_of_dots(
    results: Results, spec: Spec, planned: Sequence[PlannedCell], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "MOST_DOTS", 7)
    monkeypatch.setattr(plots, "_MOST_NUMBERS", 7)
    text = Page(write(results, spec, planned)).text
    assert "No picture: there are 8 means." in text
    drawn = (results.tables / "matrix.svg").read_text()
    assert "<!-- FAILED -->" in drawn or "<!-- FAILED" in drawn
    assert "±" not in drawn.replace("mean ± 95 % interval", "")

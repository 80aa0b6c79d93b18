"""Numbers that rest on different data: marked wherever they stand, and compared nowhere."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from en_bench.matrix.paired import MIXED as CAUSE
from en_bench.matrix.plan import PlannedCell
from en_bench.matrix.results import Results
from en_bench.matrix.spec import Spec
from en_bench.matrix.training_data import training_data
from en_bench.report.comparisons import all_pairs, tallies
from en_bench.report.files import write_tables
from en_bench.report.page import write_report
from en_bench.report.plots import dots_svg, matrix_svg
from en_bench.report.same_data import basis, differs
from en_bench.report.tables import build_table
from tests.report.shown import rows, sheet, shown, tables, text
from tests.report.test_comparisons import made
from tests.report.test_fair import everywhere, noted, specified

Edit = Callable[[dict[str, Any]], Mapping[str, Any]]
HERE = {"digest": "d1" * 32, "labels": "given", "n": 100, "classes_digest": "c1" * 32, "whole_set": True}
NUMBERS = {
    "A": [0.5, 0.51, 0.52, 0.5, 0.5],
    "B": [0.6, 0.62, 0.63, 0.6, 0.61],
    "C": [0.55, 0.56, 0.58, 0.55, 0.56],
}


def resting(
    planned: Sequence[PlannedCell],
    norm: str = "",
    seeds: Collection[int] = range(5),
    fit: Mapping[str, Any] | None = None,
    **of: Mapping[str, Any],
) -> list[PlannedCell]:
    """The plan with other facts in the records of `norm` trained on a: of the training, and of validations by label."""
    edited = []
    for item in planned:
        record = item.record
        if record is not None and (item.cell.norm, item.cell.train) == (norm, "a") and item.cell.seed in seeds:
            validate = {label: {**result, **of.get(label, {})} for label, result in record.validate.items()}
            item = replace(item, record=replace(record, validate=validate, fit={**record.fit, **(fit or {})}))
        edited.append(item)
    return edited


@pytest.fixture
def two(tmp_path: Path) -> Spec:
    return specified(tmp_path, validate=["a", "b"])


@pytest.fixture
def alike(two: Spec) -> list[PlannedCell]:
    """All of the same data; B is the best."""
    facts = {
        "train": {"set": "t", "digest": "a1" * 32, "labels": "given", "n": 1000},
        "noise": {"made": None},
        "held_out": None,
        "classes_digest": "c1" * 32,
    }
    planned = made(two, everywhere(two, **NUMBERS))
    for norm in "ABC":
        planned = resting(planned, norm, fit=facts, a=HERE, b=HERE)
    return planned


def test_other_data_are_marked_and_compared_with_nothing(two: Spec, alike: list[PlannedCell], tmp_path: Path) -> None:
    other = {"digest": "e2" * 32, "labels": "clean"}
    planned = resting(alike, "B", a=other)
    table, doc = build_table(two, planned), tables(two, planned)
    matrix = shown(doc, "matrix")
    assert [matrix["a", norm]["a"].split(") ")[1:] for norm in "ABC"] == [["MIXED"]] * 3
    assert "MIXED" not in "".join(matrix["a", norm]["b"] + matrix["b", norm]["a"] for norm in "ABC")
    assert {key for key, entry in table.entries.items() if entry.best} == {
        ("a", "B", "b"),
        ("b", "B", "a"),
        ("b", "B", "b"),
    }
    pairs = shown(doc, "pairs")
    assert pairs["a", "B − A"]["a"] == "+10.6 ± 0.7 (5) MIXED" and pairs["a", "C − B"]["a"].endswith("MIXED")
    assert ", p " in pairs["a", "C − A"]["a"] and "MIXED" not in pairs["a", "C − A"]["a"], "both on the first"
    found = all_pairs(table)
    assert found.tests == 4 * 3 - 2 and tallies(found, table)["B", "A"] == {"win": 3, "untested": 1}
    assert "MIXED: results rest on different data" in next(n for n in noted(two, planned, "pairs") if "without p" in n)
    assert shown(doc, "ranks")["B",]["all pairs of sets"] == "1.00 (3)"
    assert any(
        "left out of all pairs of sets: a → a (A MIXED, B MIXED, C MIXED)" in n for n in noted(two, planned, "ranks")
    )
    told = (
        "MIXED: no best, rank or test among what rests on different data; a → a: digest d1d1d1d1 (A, C) and e2e2e2e2 "
        "(B), labels given (A, C) and clean (B)"
    )
    for one in doc.sheets:
        assert told in [note.line for note in one.notes], one.name
    first = next(row for row in rows(two, planned, "differences") if row["untested"])
    assert (first["p_holm"], first["outcome"], first["untested"], first["marks"]) == ("", "untested", CAUSE, "MIXED")
    mixed = [
        (row["train"], row["norm"], row["validate"]) for row in rows(two, planned, "matrix") if row["mixed"] == "1"
    ]
    assert mixed == [("a", norm, "a") for norm in "ABC"]
    write_tables(Results(tmp_path), doc)
    for file in ("matrix.txt", "matrix.md", "matrix.tex", "pairs.tex"):
        assert "MIXED" in (tmp_path / "tables" / file).read_text(), file
    assert write_report(Results(tmp_path), two, planned).read_text().count("<small>MIXED</small>") == 3
    assert "MIXED" in dots_svg(table) and "MIXED" in matrix_svg(table)


def test_the_same_data_are_not_mixed(two: Spec, alike: list[PlannedCell]) -> None:
    assert "MIXED" not in text(two, alike)
    assert not any(row["mixed"] != "0" for name in ("matrix", "gaps") for row in rows(two, alike, name))
    assert len([entry for entry in build_table(two, alike).entries.values() if entry.best]) == 4


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"digest": "e2" * 32}, "digest d1d1d1d1 (A, B seeds 0, 1, 3, 4, C) and e2e2e2e2 (B seed 2)"),
        ({"labels": "clean"}, "labels given (A, B seeds 0, 1, 3, 4, C) and clean (B seed 2)"),
        ({"n": 99}, "n 100 (A, B seeds 0, 1, 3, 4, C) and 99 (B seed 2)"),
        ({"classes_digest": "e2" * 32}, "class map c1c1c1c1 (A, B seeds 0, 1, 3, 4, C) and e2e2e2e2 (B seed 2)"),
    ],
)
def test_one_seed_of_one_normaliser_is_enough(
    other: dict[str, Any], told: str, two: Spec, alike: list[PlannedCell]
) -> None:
    planned = resting(alike, "B", seeds=[2], a=other)
    entries = build_table(two, planned).entries
    assert [key for key, entry in entries.items() if entry.mixed] == [("a", norm, "a") for norm in "ABC"]
    assert f"; a → a: {told}" in text(two, planned)
    unknown = resting(alike, "B", seeds=[2], a=dict.fromkeys(other))
    assert "MIXED" not in text(two, unknown), "a record that does not say is no other one"


@pytest.mark.parametrize(
    ("fit", "told"),
    [
        ({"train": {"set": "t", "digest": "e2" * 32, "labels": "given"}}, "digest a1a1a1a1 (A, C) and e2e2e2e2 (B)"),
        ({"train": {"set": "t", "digest": "a1" * 32, "labels": "worst"}}, "labels given (A, C) and worst (B)"),
        ({"held_out": {"share": 0.1, "n": 7}}, "n held out 0 (A, C) and 7 (B)"),
        ({"classes_digest": "e2" * 32}, "class map c1c1c1c1 (A, C) and e2e2e2e2 (B)"),
        (
            {"noise": {"made": {"kind": "symmetric", "rate": 0.4, "seed": 0}}},
            "labels given (A, C) and given + symmetric 0.4 (seed 0) (B)",
        ),
    ],
)
def test_trainings_on_other_data(fit: dict[str, Any], told: str, two: Spec, alike: list[PlannedCell]) -> None:
    planned = resting(alike, "B", fit=fit)
    mixed = [key for key, entry in build_table(two, planned).entries.items() if entry.mixed]
    assert mixed == [("a", norm, column) for column in "ab" for norm in "ABC"]
    line = next(line for line in noted(two, planned, "matrix") if line.startswith("MIXED"))
    assert line.endswith(f"; trained on a: {told}"), "once, not for each validation set"
    gaps = shown(tables(two, planned), "gaps")
    assert gaps["a", "A"]["b"].endswith("MIXED") and not gaps["b", "A"]["a"].endswith("MIXED")


def test_made_noise_is_compared_by_what_its_file_holds() -> None:
    def trained(name: str, holds: str) -> dict[str, Any]:
        made = {"kind": "matrix", "seed": 0, "matrix": {"file": name, "sha256": holds * 32}}
        return {"train": {"labels": "given"}, "noise": {"made": made}}

    assert not differs(
        [basis(training_data(trained("one.json", "a1"))), basis(training_data(trained("copy.json", "a1")))]
    )
    assert differs([basis(training_data(trained("one.json", "a1"))), basis(training_data(trained("one.json", "b2")))])


def test_records_without_the_facts_or_with_odd_ones() -> None:
    known, odd = {"held_out": None, "train": {"digest": "a"}}, {"held_out": None, "train": {"digest": ["a"]}}
    assert not differs([training_data({}), training_data(known)])
    assert differs([training_data(known), training_data({"held_out": {"n": 5}})]), "none are held out, or five"
    assert not differs([]) and differs([training_data(known), training_data(odd)])
    assert not differs([basis((), {"n": 5}), basis((), {"n": 9, "whole_set": False})]), "PART says that"


def test_a_gap_rests_on_both_sets(two: Spec, alike: list[PlannedCell]) -> None:
    planned = resting(alike, "B", seeds=[0], a={"digest": "e2" * 32})
    assert shown(tables(two, planned), "gaps")["a", "C"]["b"].endswith("MIXED"), "whose own set is another"
    assert not shown(tables(two, planned), "matrix")["a", "C"]["b"].endswith("MIXED")


def test_mixed_numbers_are_not_held_against_reported_ones(tmp_path: Path, alike: list[PlannedCell]) -> None:
    reported = {"source": "p", "tolerance": 2, "values": {"a": {"a": {"A": 50.6}, "b": {"A": 50.6}}}}
    spec = specified(tmp_path, validate=["a", "b"], reported=reported)
    planned = resting(alike, "B", a={"digest": "e2" * 32})
    found = shown(tables(spec, planned), "reported")
    assert found["a", "A", "a"]["verdict"] == "not compared: MIXED"
    assert found["a", "A", "b"]["verdict"] == "within"


def test_the_accuracies_of_trainings_are_marked_too(two: Spec, alike: list[PlannedCell]) -> None:
    said = {name: {"top1": 0.5, "epoch": 1} for name in ("last", "best", "selected")}
    for norm in "ABC":
        val = {"set": "v", "digest": ("e2" if norm == "B" else "d1") * 32}
        alike = resting(alike, norm, fit={"accuracies": said, "val": val})
    assert shown(tables(two, alike), "accuracies")["a", "A"]["last epoch"] == "50.0 ± 0.0 (5) MIXED"
    assert "; a, during training: digest d1d1d1d1 (A, C) and e2e2e2e2 (B)" in text(two, alike)


def test_moments_of_other_images_are_mixed_and_told(paper_spec: Spec, paper: Sequence[PlannedCell]) -> None:
    name = "web_images (adapted)"
    assert not any(entry.mixed for entry in build_table(paper_spec, paper).entries.values())
    item = next(item for item in paper if str(item.cell) == "SwitchNorm/photos/1")
    assert item.record is not None
    result = item.record.adapted["web_images"]
    images = {**result["recalibrated"], "digest": "e2" * 32, "samples": 77}
    other = replace(item.record, adapted={"web_images": {**result, "recalibrated": images}})
    planned = [replace(one, record=other) if one is item else one for one in paper]
    entries = build_table(paper_spec, planned).entries
    assert {key for key, entry in entries.items() if entry.mixed} == {("photos", n, name) for n in paper_spec.norms}
    assert not any(entries["photos", norm, name].best for norm in paper_spec.norms)
    told = text(paper_spec, planned)
    assert "moments recalibrated on web_images/train, n 77, digest e2e2e2e2" in told
    assert (
        f"photos → {name}: moments recalibrated on digest 61e4332a (BatchNorm, SwitchNorm seeds 0, 2, ExemplarNorm) "
        "and e2e2e2e2 (SwitchNorm seed 1), moments recalibrated on n 240000"
    ) in told
    (row,) = [row for row in rows(paper_spec, planned, "cells") if row["recalibrated_samples"] == "77"]
    assert (row["norm"], row["seed"], row["recalibrated_set"], row["recalibrated_digest"]) == (
        "SwitchNorm",
        "1",
        "web_images/train",
        "e2" * 32,
    )


def test_every_table_says_labels_and_digest_of_what_it_was_measured_on(
    paper_spec: Spec, paper: Sequence[PlannedCell]
) -> None:
    for one in tables(paper_spec, paper).sheets[1:]:
        (data,) = [note.text for note in one.notes if note.key == "data"]
        assert "photos n 50000, labels given, digest 5e653ebd" in data, one.name
    assert sheet(tables(paper_spec, paper), "matrix").notes

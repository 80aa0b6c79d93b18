from collections.abc import Sequence
from dataclasses import replace

import pytest
from scipy.stats import t as student

from en_bench.matrix.plan import PlannedCell, State, plan
from en_bench.matrix.records import Record
from en_bench.matrix.spec import Spec
from en_bench.report.tables import build_table
from tests.report.shown import markdown, rows, text


def changed(planned: Sequence[PlannedCell], name: str, **changes: object) -> list[PlannedCell]:
    """The plan with another value for some metric of one cell on the typeset digits."""
    edited = []
    for item in planned:
        if str(item.cell) == name and item.record is not None:
            result = item.record.validate["typeset"]
            metrics = {**result["metrics"], **changes}
            validate = {**item.record.validate, "typeset": {**result, "metrics": metrics}}
            item = replace(item, record=replace(item.record, validate=validate))
        edited.append(item)
    return edited


def partly(planned: Sequence[PlannedCell], name: str, **more: object) -> list[PlannedCell]:
    """The plan with one cell validated on a part of the typeset digits."""
    edited = []
    for item in planned:
        if str(item.cell) == name and item.record is not None:
            result = {**item.record.validate["typeset"], "n": 128, "whole_set": False, **more}
            item = replace(item, record=replace(item.record, validate={**item.record.validate, "typeset": result}))
        edited.append(item)
    return edited


def with_precision(item: PlannedCell, precision: str | None) -> PlannedCell:
    assert item.record is not None
    fit = {**item.record.fit, "config": {"trainer": {"precision": precision}}}
    return replace(item, record=replace(item.record, fit=fit))


def test_csv_against_another_arithmetic(spec: Spec, planned: Sequence[PlannedCell]) -> None:
    found = rows(spec, planned, "matrix")
    assert len(found) == 8
    row = next(
        row for row in found if (row["train"], row["norm"], row["validate"]) == ("handwritten", "BatchNorm", "typeset")
    )
    low, high = student.interval(0.95, 2, loc=0.41266666666666667, scale=0.019139836293274122 / 3**0.5)
    assert float(row["mean"]) == pytest.approx((0.41 + 0.433 + 0.395) / 3)
    assert float(row["half_width_95"]) == pytest.approx((high - low) / 2)
    assert (row["seeds"], row["missing"], row["failed"], row["stale"], row["best"]) == ("3", "0", "0", "0", "0")
    last = found[-1]
    assert (last["norm"], last["seeds"], last["failed"], last["stale"], last["half_width_95"]) == (
        "ExemplarNorm",
        "1",
        "1",
        "1",
        "",
    )


def test_cells_csv_has_a_row_per_cell_and_validation_set(spec: Spec, planned: Sequence[PlannedCell]) -> None:
    found = rows(spec, planned, "cells")
    assert len(found) == 24
    assert [row["state"] for row in found].count("done") == 18
    first = found[0]
    assert (first["norm"], first["seed"], first["validate"], first["top1"], first["n"]) == (
        "BatchNorm",
        "0",
        "handwritten",
        "0.931",
        "397",
    )
    assert (first["seconds"], first["parameters"], first["device"]) == ("7.5", "272474", "cpu")
    stale = next(row for row in found if row["state"] == "stale")
    assert stale["top1"] == stale["nll"] == stale["n"] == ""
    failed = next(row for row in found if row["state"] == "failed")
    assert failed["reason"].startswith("RuntimeError")


def test_best_needs_three_seeds_of_every_rival(spec: Spec, planned: Sequence[PlannedCell]) -> None:
    assert build_table(spec, planned).entries["handwritten", "ExemplarNorm", "typeset"].best
    weaker = [item for item in planned if str(item.cell) != "BatchNorm/handwritten/2"]
    assert not build_table(spec, weaker).has_best


def test_a_rival_with_too_few_seeds_leaves_it_open(spec: Spec, planned: Sequence[PlannedCell]) -> None:
    few = [
        replace(item, cell=replace(item.cell, norm="Third"))
        for item in planned
        if str(item.cell) in ("ExemplarNorm/handwritten/0", "ExemplarNorm/handwritten/1")
    ]
    three = replace(spec, norms={**spec.norms, "Third": ()})
    assert build_table(three, planned).has_best
    assert not build_table(three, [*planned, *few]).has_best


@pytest.mark.parametrize("norm", ["BatchNorm", "ExemplarNorm"])
def test_a_part_of_a_set_is_marked_and_names_no_best(norm: str, spec: Spec, planned: Sequence[PlannedCell]) -> None:
    marked = partly(planned, f"{norm}/handwritten/1")
    table = build_table(spec, marked)
    entry = table.entries["handwritten", norm, "typeset"]
    assert entry.show(table.metric).endswith("(3) PART")
    assert not any(table.entries["handwritten", other, "typeset"].best for other in spec.norms)
    assert table.entries["handwritten", "ExemplarNorm", "handwritten"].best
    for told in (text(spec, marked), markdown(spec, marked)):
        assert entry.show(table.metric) in told
        assert "PART: validated on a part of the set only" in told
        assert "digits/typeset/val, n 128, labels given, digest d2d2d2d2 (PART)" in told
    found = rows(spec, marked, "matrix")
    assert [(row["norm"], row["validate"]) for row in found if row["part"] != "0"] == [(norm, "typeset")]
    cells = rows(spec, marked, "cells")
    (part,) = [row for row in cells if row["whole_set"] == "False"]
    assert (part["norm"], part["seed"], part["validate"], part["n"]) == (norm, "1", "typeset", "128")


def test_samples_that_could_not_be_decoded_are_stated(spec: Spec, planned: Sequence[PlannedCell]) -> None:
    marked = partly(planned, "BatchNorm/handwritten/1", n=498, unreadable=2)
    told = text(spec, marked)
    assert "digits/typeset/val, n 498 (2 unreadable, skipped), labels given, digest d2d2d2d2 (PART)" in told
    assert told.count("unreadable") == 1
    cells = rows(spec, marked, "cells")
    assert [row["n"] for row in cells if row["unreadable"] == "2"] == ["498"]


def test_lower_is_better_for_the_loss(spec: Spec, planned: Sequence[PlannedCell]) -> None:
    table = build_table(replace(spec, metric="nll"), planned)
    # nll falls with top1 in the records, so the same normaliser is best.
    assert table.entries["handwritten", "ExemplarNorm", "typeset"].best
    assert table.entries["handwritten", "BatchNorm", "handwritten"].show(table.metric) == "0.230 ± 0.032 (3)"
    assert "lowest mean" in text(replace(spec, metric="nll"), planned)


def test_diverged_run_is_visible_and_never_the_best(spec: Spec, planned: Sequence[PlannedCell]) -> None:
    table = build_table(spec, changed(planned, "BatchNorm/handwritten/0", top1=None))
    assert table.entries["handwritten", "BatchNorm", "typeset"].show(table.metric) == "41.4 (2) DIVERGED 1/3"
    assert table.entries["handwritten", "ExemplarNorm", "typeset"].best
    table = build_table(spec, changed(planned, "ExemplarNorm/handwritten/0", top1=None))
    assert table.entries["handwritten", "BatchNorm", "typeset"].best, "the mean of the others is higher, and no matter"


def test_mixed_origins_are_all_listed(spec: Spec, planned: Sequence[PlannedCell]) -> None:
    item = planned[0]
    assert item.record is not None
    fit = {**item.record.fit, "device": "one GPU", "epochs": 3, "commit": {"sha": "f" * 40, "dirty": True}}
    mixed = [replace(item, record=replace(item.record, fit=fit)), *planned[1:]]
    notes = dict(build_table(spec, mixed).notes)
    assert notes["device"] == "one GPU; cpu"
    assert notes["epochs"] == "3; 2"
    assert notes["commit"] == "ffffffffff with uncommitted changes; 0123456789"


def test_precision_is_noted_where_a_training_set_one(spec: Spec, planned: Sequence[PlannedCell]) -> None:
    assert "precision" not in dict(build_table(spec, planned).notes)
    unset = [with_precision(item, None) if item.record else item for item in planned]
    assert "precision" not in dict(build_table(spec, unset).notes)
    some = [with_precision(planned[0], "bf16-mixed"), *planned[1:]]
    assert dict(build_table(spec, some).notes)["precision"] == "bf16-mixed; not set"
    everywhere = [with_precision(item, "bf16-mixed") if item.record else item for item in planned]
    assert "\nprecision: bf16-mixed\n" in text(spec, everywhere)


def test_matrix_without_records_is_all_holes(spec: Spec) -> None:
    table = build_table(spec, plan(spec, {}, lambda name: None))
    assert {entry.show(table.metric) for entry in table.entries.values()} == {"–"}
    assert dict(table.notes)["cells"] == "done 0, missing 12, failed 0"
    assert dict(table.notes)["device"] == "–"


def test_failed_cells_without_numbers_say_so(spec: Spec) -> None:
    failed = [replace(item, state=State.FAILED) for item in plan(spec, {}, lambda name: None)]
    table = build_table(spec, failed)
    assert {entry.show(table.metric) for entry in table.entries.values()} == {"FAILED"}


def test_records_survive_their_own_format(planned: Sequence[PlannedCell]) -> None:
    for item in planned:
        assert item.record is None or Record.from_json(item.record.to_json()) == item.record

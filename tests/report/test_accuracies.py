"""The three accuracies in the tables, and the curves of what a training makes of its labels, on made-up records."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import t as student

from en_bench.errors import InputError
from en_bench.matrix.plan import PlannedCell
from en_bench.matrix.records import Record
from en_bench.matrix.results import Results
from en_bench.matrix.spec import Spec
from en_bench.report.curves import NOISE, over_seeds, training_curves, with_noise
from en_bench.report.files import write_tables
from en_bench.report.page import write_report
from en_bench.report.plots import noise_svg
from en_bench.report.tables import build_table
from tests.report.shown import rows, sheet, shown, tables
from tests.report.test_page import Page

SHOWN = {
    ("handwritten", "BatchNorm"): ["61.0 ± 2.5 (3)", "71.0 ± 2.5 (3)", "66.0 ± 2.5 (3)"],
    ("handwritten", "ExemplarNorm"): ["61.0 ± 2.5 (3)", "71.0 ± 2.5 (3)", "66.0 ± 2.5 (3)"],
    ("typeset", "BatchNorm"): ["60.5 (2) MISSING", "70.5 (2) MISSING", "–"],
    ("typeset", "ExemplarNorm"): ["60.0 (1) FAILED STALE", "70.0 (1) FAILED STALE", "FAILED STALE"],
}
HEADS = ["last epoch", "best epoch (oracle)", "selected on held-out labels"]


def accuracies(seed: int, held_out: bool) -> dict[str, Any]:
    """60, 61 and 62 % after the last epoch, ten points more at the best one, and half of that selected."""
    last = 0.60 + 0.01 * seed

    def entry(top1: float, epoch: int) -> dict[str, Any]:
        return {"top1": top1, "epoch": epoch, "of": 20, "n": 397, "whole_set": True}

    selected = {**entry(last + 0.05, 7), "held_out": 0.4} if held_out else None
    return {"last": entry(last, 20), "best": entry(last + 0.1, 5), "selected": selected}


def saying(item: PlannedCell, **more: Any) -> PlannedCell:
    """The cell with what its training says of itself; only those on handwritten digits held a part out."""
    if item.record is None:
        return item
    own = item.cell.train == "handwritten"
    held_out = {"share": 0.1, "n": 140} if own else None
    fit = {**item.record.fit, "accuracies": accuracies(item.cell.seed, own), "held_out": held_out, **more}
    return replace(item, record=replace(item.record, fit=fit))


@pytest.fixture
def said(planned: Sequence[PlannedCell]) -> Sequence[PlannedCell]:
    return [saying(item) for item in planned]


def test_three_accuracies_stand_side_by_side(spec: Spec, said: Sequence[PlannedCell]) -> None:
    found = shown(tables(spec, said), "accuracies")
    assert found == {row: dict(zip(HEADS, texts, strict=True)) for row, texts in SHOWN.items()}
    low, high = student.interval(0.95, 2, loc=61, scale=1 / 3**0.5)
    assert f"{(high - low) / 2:.1f}" == "2.5"
    assert "no practitioner could choose" in sheet(tables(spec, said), "accuracies").notes[0].text


def test_csv_by_training_set_and_by_cell(spec: Spec, said: Sequence[PlannedCell]) -> None:
    found = rows(spec, said, "accuracies")
    assert len(found) == 12
    row = next(r for r in found if (r["train"], r["norm"], r["accuracy"]) == ("typeset", "BatchNorm", "last epoch"))
    assert (float(row["mean"]), row["seeds"], row["missing"]) == (pytest.approx(0.605), "2", "1")
    assert {row["accuracy"] for row in found} == {"last epoch", "best epoch (oracle)", "selected on held-out labels"}
    first = rows(spec, said, "cells")[0]
    own = ("last_epoch_top1", "oracle_top1", "oracle_epoch", "selected_top1", "selected_epoch")
    assert [float(first[name]) for name in own] == pytest.approx([0.6, 0.7, 5, 0.65, 7])
    assert first["selected_held_out_top1"] == "0.4"


def test_a_training_that_diverged_from_the_start_has_no_best_epoch(spec: Spec, said: Sequence[PlannedCell]) -> None:
    none = {"last": {**accuracies(0, False)["last"], "top1": None}, "best": None, "selected": None}
    found = shown(tables(spec, [saying(item, accuracies=none) for item in said]), "accuracies")
    assert [*found["handwritten", "BatchNorm"].values()] == ["DIVERGED 3/3"] * 3, "a part is held out to select on"
    assert found["typeset", "BatchNorm"][HEADS[2]] == "–"


def test_cells_that_do_not_hold_have_no_accuracies(spec: Spec, said: Sequence[PlannedCell]) -> None:
    found = rows(spec, said, "cells")
    stale = [row for row in found if row["state"] == "stale"]
    assert stale and {row["last_epoch_top1"] + row["oracle_top1"] + row["oracle_epoch"] for row in stale} == {""}
    assert all(row["last_epoch_top1"] for row in found if row["state"] == "done")


def test_the_labels_that_trained_are_named_with_their_noise(spec: Spec, said: Sequence[PlannedCell]) -> None:
    made = {"kind": "symmetric", "rate": 0.4, "seed": 0}

    def noise(changed: float | None, wrong: float | None) -> dict[str, Any]:
        rates = {"changed": changed, "wrong": wrong}
        found = {name: None if rate is None else {"n": 1000, "rate": rate} for name, rate in rates.items()}
        return {"labels": "given", "made": made if changed else None, **found}

    def notes(changed: float | None, wrong: float | None) -> str:
        table = build_table(spec, [saying(item, noise=noise(changed, wrong)) for item in said])
        return dict(table.notes)["trained on handwritten"]

    assert ", labels given + symmetric 0.4 (seed 0) (40.12 % changed), digest" in notes(0.4012, 0.4012)
    assert ", labels given + symmetric 0.4 (seed 0) (40.12 % changed, 51.00 % wrong), digest" in notes(0.4012, 0.51)
    assert ", labels given (40.21 % wrong), digest" in notes(None, 0.4021)
    assert ", labels given, digest" in notes(None, 0.0)
    cells = [saying(item, noise=noise(0.4012, 0.51)) for item in said]
    first = rows(spec, cells, "cells")[0]
    assert first["train_labels"] == "given + symmetric 0.4 (seed 0)"
    assert (first["labels_changed"], first["labels_wrong"]) == ("0.4012", "0.51")


def test_a_held_out_part_that_had_trained_is_said_to_be_one(spec: Spec, said: Sequence[PlannedCell]) -> None:
    spoilt = {"share": 0.1, "n": 140, "trained_before": True}
    table = build_table(spec, [saying(said[0], held_out=spoilt), *said[1:]])
    told = dict(table.notes)["held out of handwritten"]
    assert told == "share 0.1, n 140, some of which had trained before: they select nothing; share 0.1, n 140"


def test_records_of_former_versions_have_none(spec: Spec, planned: Sequence[PlannedCell], tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/accuracies.csv").write_text("of records that are no more")
    write_tables(Results(tmp_path), tables(spec, planned))
    assert not (tmp_path / "tables/accuracies.csv").exists()
    assert "Three accuracies" not in (tmp_path / "tables/matrix.txt").read_text()


def test_a_diverged_training_and_one_that_validated_a_part(spec: Spec, said: Sequence[PlannedCell]) -> None:
    broken = accuracies(0, True)
    broken["last"]["top1"] = None
    broken["best"]["whole_set"] = False
    table = build_table(spec, [saying(said[0], accuracies=broken), *said[1:]])
    assert table.accuracies["handwritten", "BatchNorm", "last"].show(table.metric).endswith(" (2) DIVERGED 1/3")
    assert table.accuracies["handwritten", "BatchNorm", "best"].show(table.metric).endswith("(3) PART")


@pytest.mark.parametrize("damage", [{"top1": "high"}, {"top1": True}, {"epoch": None}, {"held_out": "0.4"}])
def test_a_record_with_other_things_for_accuracies_is_none(said: Sequence[PlannedCell], damage: dict[str, Any]) -> None:
    assert said[0].record is not None
    raw = json.loads(json.dumps(said[0].record.to_json()))
    assert Record.from_json(raw) == said[0].record
    raw["fit"]["accuracies"]["selected"].update(damage)
    with pytest.raises(InputError):
        Record.from_json(raw)
    raw["fit"]["accuracies"] = ["last"]
    with pytest.raises(InputError):
        Record.from_json(raw)


def write_metrics(results: Results, item: PlannedCell, **rows: Sequence[float | None]) -> None:
    run = results.run(item.cell.id)
    run.mkdir(parents=True)
    lines = [
        json.dumps({"step": epoch, "epoch": epoch, name.replace("__", "/"): value})
        for name, values in rows.items()
        for epoch, value in enumerate(values)
    ]
    (run / "metrics.jsonl").write_text("\n".join(lines))


def test_mean_and_band_by_hand() -> None:
    points = over_seeds([[(1, 0.2), (2, 0.4)], [(1, 0.4), (3, 0.9)], [(1, 0.9), (2, 0.5)]])
    assert [point[0] for point in points] == [1, 2, 3]
    assert [value for point in points for value in point[1:]] == pytest.approx(
        [0.5, 0.2, 0.9, 3, 0.45, 0.4, 0.5, 2, 0.9, 0.9, 0.9, 1]
    )
    assert over_seeds([]) == []


def test_the_page_draws_what_there_is(spec: Spec, said: Sequence[PlannedCell], tmp_path: Path) -> None:
    results = Results(tmp_path / "digits")
    typeset = next(item for item in said if item.cell.train == "typeset" and item.record is not None)
    write_metrics(results, said[0], val__top1=[0.4, 0.6], memory__wrong_as_given=[0.1, 0.7], held_out__top1=[0.3, 0.2])
    write_metrics(results, said[1], val__top1=[0.5, 0.5], memory__wrong_as_given=[0.3, 0.5])
    write_metrics(results, typeset, val__top1=[0.4, 0.6])
    curves = training_curves(results, said, list(NOISE))
    assert list(curves) == ["val/top1", "held_out/top1", "memory/wrong_as_given"]
    assert len(curves["memory/wrong_as_given"]["handwritten", "BatchNorm"]) == 2
    table = build_table(spec, said)
    assert with_noise(curves, table.trains, table.norms) == ["handwritten"], "of the other there is no more than val"
    page = Page(write_report(results, spec, said).read_text(encoding="utf-8"))
    assert "Learning from the labels of handwritten" in page.text
    assert "Learning from the labels of typeset" not in page.text
    assert "Three accuracies" in page.text and "66.0 ± 2.5 (3)" in page.text
    assert len(page.ids) == len(set(page.ids))
    picture = noise_svg(table, "handwritten", curves, "noise0")
    # Letters are outlines: what was drawn stands in comments.
    assert "<!-- predicted as given -->" in picture and "<!-- predicted as clean -->" not in picture
    assert len(re.findall('id="noise0-axes_', picture)) == 3
    # Of three seeds two were measured, over all epochs.
    assert "<!-- BatchNorm (2 of 3 seeds) -->" in picture and "stroke-dasharray" not in picture


def test_a_mean_that_a_seed_has_left_is_told(spec: Spec, said: Sequence[PlannedCell], tmp_path: Path) -> None:
    results = Results(tmp_path / "digits")
    for item, shares in zip(said, ([0.1, 0.5, None, None], [0.3] * 4, [0.2] * 4), strict=False):
        write_metrics(results, item, val__top1=[0.5] * 4, memory__wrong_as_given=shares)
    curves = training_curves(results, said, list(NOISE))
    assert [len(curve) for curve in curves["memory/wrong_as_given"]["handwritten", "BatchNorm"]] == [2, 4, 4]
    picture = noise_svg(build_table(spec, said), "handwritten", curves, "noise0")
    assert picture.count("stroke-dasharray") == 1 and "<!-- 2 of 3 seeds -->" in picture
    assert "<!-- BatchNorm -->" in picture
    assert "dashed from the epoch on" in write_report(results, spec, said).read_text(encoding="utf-8")


def test_the_page_without_accuracies_has_no_empty_parts(
    spec: Spec, planned: Sequence[PlannedCell], tmp_path: Path
) -> None:
    page = Page(write_report(Results(tmp_path / "digits"), spec, planned).read_text(encoding="utf-8"))
    assert "Three accuracies" not in page.text and "Learning from the labels" not in page.text

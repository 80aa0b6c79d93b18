"""Differences, wins, ranks, gaps, costs and reported numbers of the made-up matrices, against scipy and by hand."""

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from en_bench.errors import InputError
from en_bench.matrix.overlays import Overlay
from en_bench.matrix.plan import Cell, PlannedCell, State, plan_cell
from en_bench.matrix.records import Record
from en_bench.matrix.reported import Reported
from en_bench.matrix.spec import Spec, load_spec
from en_bench.report.comparisons import against_baseline, all_pairs
from en_bench.report.csv_files import to_csv
from en_bench.report.document import Document
from en_bench.report.entries import METRICS
from en_bench.report.tables import build_table
from tests.report.conftest import TODAY
from tests.report.shown import frame, rows, sheet, shown, tables

Values = dict[tuple[str, str, str], list[float | None]]


def made(spec: Spec, values: Values) -> list[PlannedCell]:
    """A plan with such values by training set, normaliser and validation set: one per seed, NaN for one that diverged,
    None for no result."""
    planned = []
    for train, norm in product(spec.train, spec.norms):
        for position, seed in enumerate(spec.seeds):
            found = {target: values.get((train, norm, target), [])[position : position + 1] for target in spec.validate}
            validate = {
                target: {"set": target, "n": 100, "metrics": {spec.metric: None if value[0] != value[0] else value[0]}}
                for target, value in found.items()
                if value and value[0] is not None
            }
            cell = Cell(f"{train}-{norm}-{seed}", norm, train, seed, (), {})
            fit = {"seed": seed, "train": {"set": "t"}, "val": {"set": "v"}, "metrics": {}, "cost": {}}
            record = Record(cell.id, spec.name, "done", norm, train, seed, {}, "log", fit=fit, validate=validate)
            planned.append(PlannedCell(cell, State.DONE, record, frozenset(validate)))
    return planned


@pytest.fixture
def three(spec: Spec) -> Spec:
    return replace(spec, norms={"A": (), "B": (), "C": ()}, baseline="A", seeds=(0, 1, 2, 3))


def noisy(mean: float, *offsets: float) -> list[float | None]:
    return [mean + 0.001 * offset for offset in offsets]


@pytest.fixture
def values(three: Spec) -> Values:
    """C is better than A everywhere, B is better once and else like A."""
    found: Values = {}
    for number, (train, target) in enumerate(product(three.train, three.validate)):
        found[train, "A", target] = noisy(0.5, 1, 2, 3, number)
        found[train, "B", target] = noisy(0.6 if number == 0 else 0.5, 2, 1, 4, 0)
        found[train, "C", target] = noisy(0.7, 3, 1, 2, 1)
    return found


def test_each_family_against_scipy(three: Spec, values: Values) -> None:
    table = build_table(three, made(three, values))
    for family, tests in ((against_baseline(table), 8), (all_pairs(table), 12)):
        assert family.tests == len(family.found) == tests
        raw = {
            (d.train, d.norm, d.other, d.column): stats.ttest_rel(
                values[d.train, d.norm, d.column], values[d.train, d.other, d.column]
            ).pvalue
            for d in family.found
        }
        for difference in family.found:
            p = raw[difference.train, difference.norm, difference.other, difference.column]
            rank = sorted(raw.values()).index(p)
            # Holm by its definition: the largest of the smaller ones, each times how many are left.
            wanted = max(min(1.0, (tests - i) * q) for i, q in enumerate(sorted(raw.values())[: rank + 1]))
            assert difference.p == pytest.approx(wanted)


def test_win_tie_loss_by_hand(three: Spec, values: Values) -> None:
    found = shown(tables(three, made(three, values)), "wins")
    assert found["A",] == {"A": "", "B": "0 / 3 / 1", "C": "0 / 0 / 4", "all": "0 / 3 / 5"}
    assert found["B",] == {"A": "1 / 3 / 0", "B": "", "C": "0 / 0 / 4", "all": "1 / 3 / 4"}
    assert found["C",] == {"A": "4 / 0 / 0", "B": "4 / 0 / 0", "C": "", "all": "8 / 0 / 0"}
    told = sheet(tables(three, made(three, values)), "differences").notes[0].line
    assert told == "win / tie / loss against A, by the p of this table: B 1 / 3 / 0; C 4 / 0 / 0"


def test_lower_is_better_turns_wins_into_losses(three: Spec, values: Values) -> None:
    loss = replace(three, metric="nll")
    found = shown(tables(loss, made(loss, values)), "wins")
    assert found["C",]["all"] == "0 / 0 / 8"
    ranks = shown(tables(loss, made(loss, values)), "ranks")
    assert ranks["C",]["all pairs of sets"] == "3.00 (4)"


def test_why_there_is_no_p(three: Spec, values: Values) -> None:
    values["handwritten", "B", "handwritten"] = [0.6, None, 0.7, None]
    values["handwritten", "B", "typeset"] = [0.6, float("nan"), 0.7, 0.8]
    values["typeset", "B", "typeset"] = [v + 0.01 for v in values["typeset", "A", "typeset"] if v is not None]
    values["typeset", "B", "handwritten"] = [None] * 4
    doc = tables(three, made(three, values))
    found = shown(doc, "differences")
    assert found["handwritten", "B − A"]["handwritten"] == "+14.8 (2), below 3 seeds MISSING"
    assert found["handwritten", "B − A"]["typeset"] == "+19.8 ± 24.8 (3) DIVERGED"
    assert found["typeset", "B − A"]["typeset"] == "+1.0 ± 0.0 (4), no spread"
    assert found["typeset", "B − A"]["handwritten"] == "–"
    assert "tests: 4" in sheet(doc, "differences").notes[1].text
    assert shown(doc, "wins")["A",]["B"] == "0 / 0 / 0 (1 diverged, 3 untested)"
    (without,) = [note.text for note in sheet(doc, "differences").notes if note.key == "without p"]
    assert without == (
        "below 3 seeds: fewer than 3 equal seeds; DIVERGED: a seed diverged; no spread: the differences of all seeds "
        "are equal"
    )
    ranks = shown(doc, "ranks")
    assert ranks["B",]["all pairs of sets"] == "2.33 (3)", "third where it diverged, second twice, once without number"
    assert "left out of all pairs of sets: typeset → handwritten (B MISSING)" in [
        n.line for n in sheet(doc, "ranks").notes
    ]


def test_baseline_is_the_first_unless_said(spec: Spec, tmp_path: Path) -> None:
    assert spec.baseline == "BatchNorm"
    source = spec.path.read_text()
    other = tmp_path / "other.yaml"
    other.write_text(source + "baseline: ExemplarNorm\n")
    assert load_spec(other).baseline == "ExemplarNorm"
    assert "BatchNorm − ExemplarNorm" in {row[1] for row in shown(tables(load_spec(other), []), "differences")}
    for wrong in ("ExemplarNrm", "[BatchNorm]"):
        other.write_text(source + f"baseline: {wrong}\n")
        with pytest.raises(InputError, match=r"baseline: .* is no label of norms"):
            load_spec(other)


def test_two_normalisers_have_one_table_of_differences(spec: Spec, planned: Sequence[PlannedCell]) -> None:
    names = [sheet.name for sheet in tables(spec, planned).sheets]
    assert names == ["matrix", "differences", "ranks", "gaps", "costs"]


def test_a_single_normaliser_has_nothing_to_compare(spec: Spec, planned: Sequence[PlannedCell]) -> None:
    one = replace(spec, norms={"BatchNorm": spec.norms["BatchNorm"]})
    doc = tables(one, [item for item in planned if item.cell.norm == "BatchNorm"])
    assert [sheet.name for sheet in doc.sheets] == ["matrix", "gaps", "costs"]
    assert "differences" not in [frame.name for frame in doc.frames]


def test_friedman_from_eleven_training_sets_on(spec: Spec) -> None:
    labels = [f"set{i}" for i in range(12)]
    sets = {label: (Overlay({"data": {"train": f"{label}/train", "val": f"{label}/val"}}),) for label in labels}
    many = replace(spec, norms={"A": (), "B": (), "C": ()}, train=sets, validate={"own": ()}, own={"own"})
    values = {(t, n, "own"): noisy(0.5 + 0.01 * (n == "C"), i, i, i) for i, t in enumerate(labels) for n in "ABC"}
    doc = tables(many, made(many, values))
    assert shown(doc, "ranks")["C",] == {"own validation set": "1.00 (12)", "results missing": "0"}
    (told,) = [note.text for note in sheet(doc, "ranks").notes if note.key.startswith("Friedman")]
    # Two of three are always tied: the ranks are 2.5, 2.5, 1 in every set, which is as clear as ranks can be.
    assert told == (
        "F inf, p 0 over 12 pairs of training and validation set; average ranks over them differ significantly from "
        "0.96 on; approximate below 6 normalisers"
    )
    assert "gaps" not in [sheet.name for sheet in doc.sheets], "nothing is validated elsewhere"
    few = [item for item in made(many, values) if item.cell.train not in labels[10:]]
    (told,) = [n.text for n in sheet(tables(many, few), "ranks").notes if n.key.startswith("Friedman")]
    assert told == "none: 10 different pairs of training and validation set, of the 11 that it takes"
    one = Overlay({"data": {"train": "one/train", "val": "one/val"}})
    again = replace(many, train={label: (one, Overlay({"model": {"lr": i}})) for i, label in enumerate(labels)})
    (told,) = [n.text for n in sheet(tables(again, made(again, values)), "ranks").notes if n.key.startswith("Friedman")]
    assert told.startswith("none: 1 different"), "twelve configurations of one data set are not twelve data sets"
    twice = replace(many, train={**sets, "set11": (*sets["set0"], Overlay({"model": {"lr": 1}}))})
    (told,) = [n.text for n in sheet(tables(twice, made(twice, values)), "ranks").notes if n.key.startswith("Friedman")]
    assert "over 11 pairs" in told and "average ranks over them A 2.50, B 2.50, C 1.00 differ" in told
    assert "from 1.00 on" in told


def test_gap_is_within_each_training(spec: Spec) -> None:
    values: Values = {
        ("handwritten", "BatchNorm", "handwritten"): [0.9, 0.8, 0.7],
        ("handwritten", "BatchNorm", "typeset"): [0.5, 0.3, 0.4],
        ("typeset", "BatchNorm", "handwritten"): [0.5, None, 0.4],
        ("typeset", "BatchNorm", "typeset"): [0.5, 0.7, None],
    }
    doc = tables(spec, made(spec, values))
    found = shown(doc, "gaps")
    interval = stats.t.interval(0.95, 2, loc=0.4, scale=0.1 / 3**0.5)
    assert found["handwritten", "BatchNorm"] == {
        "handwritten": "–",
        "typeset": f"+40.0 ± {100 * (interval[1] - 0.4):.1f} (3)",
    }
    assert found["typeset", "BatchNorm"] == {"handwritten": "0.0 (1) MISSING", "typeset": "–"}
    assert found["typeset", "ExemplarNorm"] == {"handwritten": "–", "typeset": "–"}


def test_a_training_that_is_not_validated_on_its_own_set_has_no_gap(spec: Spec, planned: Sequence[PlannedCell]) -> None:
    one = replace(spec, validate={"typeset": spec.validate["typeset"]})
    doc = tables(one, planned)
    assert "no gap: handwritten: not validated on the own set" in [n.line for n in sheet(doc, "gaps").notes]
    assert {text for row in shown(doc, "gaps").values() for text in row.values()} == {"–"}
    assert shown(doc, "costs")["handwritten", "BatchNorm"]["score"] == "–"


def test_reported_values_in_every_relation_to_the_measured(spec: Spec) -> None:
    nan = float("nan")
    values: Values = {("handwritten", "BatchNorm", "handwritten"): [0.769, 0.77, 0.771]}
    values["typeset", "BatchNorm", "typeset"] = [nan, 0.7, 0.8]
    values["handwritten", "ExemplarNorm", "handwritten"] = [nan, nan, nan]

    def verdict(
        value: float | None, tolerance: float | None, train: str = "handwritten", norm: str = "BatchNorm"
    ) -> str:
        reported = Reported(norm, train, train, value, tolerance, "nowhere", "top1", "as printed")
        doc = tables(replace(spec, reported=(reported,)), made(spec, values))
        row = shown(doc, "reported")[train, norm, train]
        assert row["reported"] == "as printed [1]"
        assert any(note.key == "diverges" for note in sheet(doc, "reported").notes) == (value is None)
        return row["verdict"]

    assert verdict(0.77, None) == "equal"
    assert verdict(0.767, 0.003) == "within", "the bounds belong to it, whatever floating point makes of them"
    assert verdict(0.773, 0.003) == "within"
    assert verdict(0.76, 0.003) == "above by 1.0"
    assert verdict(0.79, 0.003) == "below by 2.0"
    assert verdict(0.7648, 0.005) == "above by 0.52", "not by 0.5, which it may be"
    assert verdict(0.7, None, "typeset") == "not compared: diverged 1/3"
    assert verdict(0.7, 0.1, "handwritten", "ExemplarNorm") == "not compared: diverged 3/3"
    assert verdict(0.7, 0.1, "typeset", "ExemplarNorm") == "not compared: nothing measured"
    assert verdict(None, None, "handwritten", "ExemplarNorm") == "equal"
    assert verdict(None, None) == "differs"
    assert verdict(None, None, "typeset") == "not compared: diverged 1/3"
    assert verdict(None, None, "typeset", "ExemplarNorm") == "not compared: nothing measured"


def test_verdicts_say_how_little_they_rest_on(spec: Spec) -> None:
    def verdict(tolerance: float | None, *measured: float | None, value: float | None = 0.77) -> str:
        key = ("handwritten", "BatchNorm", "handwritten")
        reported = Reported(
            "BatchNorm", "handwritten", "handwritten", value, tolerance, "nowhere", "top1", "as printed"
        )
        doc = tables(replace(spec, reported=(reported,)), made(spec, {key: list(measured)}))
        return shown(doc, "reported")[key]["verdict"]

    nan = float("nan")
    assert verdict(0.005, 0.77) == verdict(0.005, None, 0.77) == "within (1 seed)"
    assert verdict(0.005, 0.80, 0.81) == "above by 3.5 (2 seeds)"
    assert verdict(None, 0.77, 0.77) == "equal (2 seeds)"
    assert verdict(None, nan, value=None) == "equal (1 seed)"
    assert verdict(None, 0.001, value=None) == "differs (1 seed)"
    # 0.71, 0.77, 0.83: the interval is 14.9 points to either side.
    assert verdict(0.005, 0.71, 0.77, 0.83) == "within (interval wider)"
    assert verdict(0.15, 0.71, 0.77, 0.83) == "within"
    assert verdict(0.005, 0.71, 0.77, 0.83, value=0.72) == "above by 5.0 (interval wider)"
    assert verdict(0.005, 0.71, 0.77, 0.83, value=0.62) == "above by 15.0"
    assert verdict(None, 0.71, 0.77, 0.83) == "equal", "nobody said how near it has to be"


def test_a_source_that_says_diverges_for_programs(spec: Spec) -> None:
    reported = Reported("BatchNorm", "handwritten", "handwritten", None, None, "nowhere", "top1", "diverges")
    first, second, *_ = rows(replace(spec, reported=(reported,)), made(spec, {}), "reported")
    assert (first["reported"], first["tolerance"], first["difference"]) == ("nan", "", "")
    assert first["verdict"] == "not compared: nothing measured"
    assert (second["reported"], second["verdict"]) == ("", ""), "of which nothing was read"


def test_reported_in_another_metric_and_by_two_sources(spec: Spec, planned: Sequence[PlannedCell]) -> None:
    reported = tuple(
        Reported("BatchNorm", "handwritten", "handwritten", value, None, source, metric, printed)
        for value, source, metric, printed in (
            *((0.93, "one", "top1", "93.0"), (0.94, "two", "top1", "94")),
            (0.21, "two", "nll", "0.210"),
        )
    )
    doc = tables(replace(spec, reported=reported), planned)
    assert sheet(doc, "reported").head[3] == "metric"
    found = [[field.text for field in row[3:7]] for row in sheet(doc, "reported").rows[:3]]
    assert found == [
        ["top-1 accuracy, %", "93.2 ± 1.7 (3)", "93.0 [1]", ""],
        ["top-1 accuracy, %", "93.2 ± 1.7 (3)", "94 [2]", ""],
        [METRICS["nll"].title, "0.230 ± 0.032 (3)", "0.210 [2]", ""],
    ]
    last = rows(replace(spec, reported=reported), planned, "reported")[-1]
    assert (last["reported"], last["verdict"], last["norm"]) == ("", "", "ExemplarNorm")


def test_costs_by_hand(spec: Spec, planned: Sequence[PlannedCell]) -> None:
    def on(device: str) -> Document:
        """All trainings on handwritten digits on a device, one of its seeds each 100 images/s faster."""
        edited = []
        for item in planned:
            assert item.record is not None or item.state is State.MISSING
            if item.record is not None and item.record.fit and item.cell.train == "handwritten":
                speed = 900 + 100 * item.cell.seed
                cost = {**item.record.fit["cost"], "flops": 24_478_976, "images_per_second": speed}
                fit = {**item.record.fit, "cost": cost, "device": device.format(item.cell.seed)}
                item = replace(item, record=replace(item.record, fit=fit))
            edited.append(item)
        return tables(spec, edited)

    costs = shown(on("another"), "costs")
    assert costs["handwritten", "BatchNorm"] == {
        "score": "93.2 ± 1.7 (3)",
        "parameters": "272,474",
        "FLOPs per image": "24.48 M",
        "images/s": "1,000",
        "time": "7.5 s",
        "peak memory": "256 MiB",
        "trainings": "3",
        "run on": "[1]",
    }
    assert costs["typeset", "BatchNorm"]["FLOPs per image"] == "–"
    assert costs["typeset", "BatchNorm"]["run on"] == "[2]"
    mixed = on("device {}")
    row = shown(mixed, "costs")["handwritten", "BatchNorm"]
    assert (row["images/s"], row["time"], row["peak memory"], row["run on"]) == ("–", "–", "–", "[1] [2] [3]")
    assert (row["parameters"], row["FLOPs per image"], row["trainings"]) == ("272,474", "24.48 M", "3")
    (first, *_) = csv.DictReader(io.StringIO(to_csv(frame(mixed, "costs"))))
    assert first["images_per_second"] == first["seconds"] == first["peak_memory_bytes"] == ""
    ways = "; ".join(f"device {seed}, ? ranks x ?" for seed in range(3))
    assert (first["run_on"], first["trainings"], first["flops"]) == (ways, "3", "24478976.0")


def test_adapted_results_stand_beside_and_are_no_win(paper_spec: Spec, paper: Sequence[PlannedCell]) -> None:
    table = build_table(paper_spec, paper)
    assert list(table.columns) == ["photos", "web_images", "web_images (adapted)"]
    item = next(i for i in paper if str(i.cell) == "BatchNorm/photos/0")
    assert item.record is not None
    wanted = item.record.adapted["web_images"]["metrics"]["top1"]
    assert table.entries["photos", "BatchNorm", "web_images (adapted)"].values[0] == wanted
    adapted = [row for row in rows(paper_spec, paper, "cells") if row["id"] == item.cell.id and row["adapted"] == "1"]
    assert [float(row["top1"]) for row in adapted] == [wanted]
    outcomes = sum(
        int(word)
        for (norm,), row in shown(tables(paper_spec, paper), "wins").items()
        for word in row["all"].replace("(", "").split()
        if norm == "BatchNorm" and word.isdigit()
    )
    assert outcomes == 2 * 4, "two rivals over two training and two validation sets"


def test_a_network_without_running_moments_has_nothing_to_adapt(paper_spec: Spec, paper: Sequence[PlannedCell]) -> None:
    def without(item: PlannedCell, no_moments: dict[str, Any]) -> PlannedCell:
        if item.record is None or item.cell.norm != "SwitchNorm":
            return item
        return plan_cell(
            item.cell,
            replace(item.record, adapted={}, no_moments=no_moments),
            {label: paper_spec.target(label) for label in paper_spec.validate},
            TODAY.get,
            paper_spec.adapted,
        )

    nothing = {"web_images": {"set": "web_images/train", "digest": TODAY["web_images/train"], "normalisers": 0}}
    found = [without(item, nothing) for item in paper]
    assert shown(tables(paper_spec, found), "matrix")["photos", "SwitchNorm"]["web_images (adapted)"] == "–"
    assert build_table(paper_spec, found).entries["photos", "SwitchNorm", "web_images (adapted)"].holes.total() == 0
    assert build_table(paper_spec, found).entries["photos", "ExemplarNorm", "web_images (adapted)"].best
    adapted = [row for row in rows(paper_spec, found, "cells") if row["adapted"] == "1" and row["norm"] == "SwitchNorm"]
    assert len(adapted) == 6 and {row["top1"] for row in adapted} == {""}
    of_gap = {row["norm"]: row["missing"] for row in rows(paper_spec, found, "gaps") if row["adapted"] == "1"}
    gap = shown(tables(paper_spec, found), "gaps")["photos", "SwitchNorm"]["web_images (adapted)"]
    assert (of_gap["SwitchNorm"], gap) == ("0", "–"), "nor is there a gap that would be missing"
    lacking = [without(item, {}) for item in paper]
    entry = build_table(paper_spec, lacking).entries["photos", "SwitchNorm", "web_images (adapted)"]
    assert not build_table(paper_spec, lacking).entries["photos", "ExemplarNorm", "web_images (adapted)"].best
    assert entry.holes == {State.MISSING: 3}
    assert shown(tables(paper_spec, lacking), "matrix")["photos", "SwitchNorm"]["web_images (adapted)"] == "MISSING"

"""What would make a comparison unfair: other seeds, a diverged seed, a set counted twice, families that mix."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import rankdata

from en_bench.errors import InputError
from en_bench.matrix.plan import PlannedCell
from en_bench.matrix.results import Results
from en_bench.matrix.spec import Spec, load_spec
from en_bench.report.comparisons import against_baseline, all_pairs, tallies
from en_bench.report.differences import show_p
from en_bench.report.page import write_report
from en_bench.report.plots import dots_svg
from en_bench.report.tables import build_table
from tests.report.shown import rows, sheet, shown, tables, text
from tests.report.test_comparisons import Values, made

NAN = float("nan")


def specified(folder: Path, **more: Any) -> Spec:
    """Normalisers A, B and C on the sets a and b, four seeds."""
    path = folder / "fair.yaml"
    train = {name: {"data": {"train": f"{name}/train", "val": f"{name}/val"}} for name in "ab"}
    norms = {name: {"norm": name} for name in "ABC"}
    spec = {"name": "fair", "norms": norms, "train": train, "seeds": [0, 1, 2, 3, 4], **more}
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return load_spec(path)


def everywhere(spec: Spec, **by_norm: Sequence[float | None]) -> Values:
    return {(t, norm, v): list(values) for t in spec.train for v in spec.validate for norm, values in by_norm.items()}


def noted(spec: Spec, planned: Sequence[PlannedCell], name: str) -> list[str]:
    return [note.line for note in sheet(tables(spec, planned), name).notes]


def test_who_lacks_the_hard_seeds_is_neither_best_nor_first(tmp_path: Path) -> None:
    """Seeds 0 and 1 are hard for all; C has a higher mean only because it lacks them, and loses at every equal seed."""
    spec = specified(tmp_path, validate=["a"])
    values = everywhere(
        spec, A=[0.6, 0.61, 0.8, 0.81, 0.82], B=[0.61, 0.62, 0.821, 0.83, 0.842], C=[None, None, 0.79, 0.801, 0.811]
    )
    planned = made(spec, values)
    table = build_table(spec, planned)
    means = {norm: entry.summary.mean for (t, norm, _), entry in table.entries.items() if entry.summary and t == "a"}
    assert max(means, key=lambda norm: means[norm]) == "C"
    assert [norm for norm in "ABC" if table.entries["a", norm, "a"].best] == ["B"]
    assert "best over the seeds that all rivals have: a → a: seeds 2, 3, 4; b → a: seeds 2, 3, 4" in text(spec, planned)
    ranks = shown(tables(spec, planned), "ranks")
    assert [ranks[norm,]["own validation set"] for norm in "ABC"] == ["2.00 (1)", "1.00 (1)", "3.00 (1)"]
    assert "own validation set, over fewer seeds: a → a (seeds 2, 3, 4)" in noted(spec, planned, "ranks")


def test_two_equal_seeds_are_too_few_for_a_best_and_none_for_a_rank(tmp_path: Path) -> None:
    spec = specified(tmp_path, validate="own")
    two = everywhere(spec, A=[0.6, 0.7, 0.8, None, None], B=[None, 0.7, 0.8, 0.9, 0.9], C=[0.6, 0.7, 0.8, 0.9, 0.9])
    assert not build_table(spec, made(spec, two)).has_best
    none = everywhere(spec, A=[0.6, 0.7, None, None, None], B=[None, None, 0.8, 0.9, 0.9], C=[0.6, 0.7, 0.8, 0.9, 0.9])
    assert noted(spec, made(spec, none), "ranks")[1].startswith(
        "left out of own validation set: a → own (no seed that all have); b → own"
    )


def test_all_seeds_everywhere_need_no_note(tmp_path: Path) -> None:
    spec = specified(tmp_path, validate="own")
    planned = made(spec, everywhere(spec, A=[0.6] * 5, B=[0.7] * 5, C=[0.8] * 5))
    assert build_table(spec, planned).has_best
    assert "rivals have" not in text(spec, planned)
    assert not any("fewer seeds" in line or "diverged: " in line for line in noted(spec, planned, "ranks"))


def test_one_diverged_seed_leaves_the_rest_comparable(tmp_path: Path) -> None:
    """A would be the best by the mean of the seeds that it got through."""
    spec = specified(tmp_path, validate="own")
    values = everywhere(
        spec, A=[0.9, NAN, 0.91, 0.92, 0.9], B=[0.5, 0.51, 0.5, 0.52, 0.5], C=[0.6, 0.62, 0.6, 0.6, 0.6]
    )
    values["b", "A", "own"] = [NAN] * 5
    planned = made(spec, values)
    doc = tables(spec, planned)
    assert shown(doc, "matrix")["a", "A"]["own"] == "90.8 ± 1.5 (4) DIVERGED 1/5"
    assert shown(doc, "matrix")["b", "A"]["own"] == "DIVERGED 5/5"
    table = build_table(spec, planned)
    assert [key for key, entry in table.entries.items() if entry.best] == [("a", "C", "own"), ("b", "C", "own")]
    differences = shown(doc, "pairs")
    assert differences["a", "B − A"]["own"].endswith("(4) DIVERGED") and ", p" not in differences["a", "B − A"]["own"]
    assert differences["b", "B − A"]["own"] == "DIVERGED"
    assert ", p " in differences["a", "C − B"]["own"]
    assert shown(doc, "wins")["C",] == {
        "A": "0 / 0 / 0 (2 diverged)",
        "B": "2 / 0 / 0",
        "C": "",
        "all": "2 / 0 / 0 (2 diverged)",
    }
    assert [shown(doc, "ranks")[norm,]["own validation set"] for norm in "ABC"] == ["3.00 (2)", "2.00 (2)", "1.00 (2)"]
    assert "own validation set, last as a training diverged: a → own (A 1/5); b → own (A 5/5)" in noted(
        spec, planned, "ranks"
    )
    first = rows(spec, planned, "matrix")[0]
    assert (first["seeds"], first["diverged"], first["mean"]) == ("4", "1", "0.9075")
    page = write_report(Results(tmp_path), spec, planned).read_text()
    assert "nan" not in page.split("<svg")[0] and "DIVERGED 1/5" in page
    assert "DIVERGED 5/5" in page and "DIVERGED 1/5" in dots_svg(table)


def test_a_diverged_seed_that_others_lack_still_ranks_last(tmp_path: Path) -> None:
    spec = specified(tmp_path, validate="own")
    planned = made(spec, everywhere(spec, A=[0.9, 0.9, 0.9, 0.9, NAN], B=[0.5] * 5, C=[0.6, 0.6, 0.6, 0.6, None]))
    assert {norm for (_, norm, _), entry in build_table(spec, planned).entries.items() if entry.best} == {"C"}
    ranks = shown(tables(spec, planned), "ranks")
    assert [ranks[norm,]["own validation set"] for norm in "ABC"] == ["3.00 (2)", "2.00 (2)", "1.00 (2)"]


def test_a_diverged_seed_that_others_lack_bars_the_test_too(tmp_path: Path) -> None:
    """A has the higher numbers, and would win; it also has the training that came to nothing."""
    spec = specified(tmp_path, validate="own", norms={name: {"norm": name} for name in "AB"})
    planned = made(spec, everywhere(spec, A=[0.9, 0.91, 0.92, 0.9, NAN], B=[0.5, 0.51, 0.5, 0.52, None]))
    found = shown(tables(spec, planned), "differences")["a", "B − A"]["own"]
    assert found == "-40.0 ± 2.6 (4) DIVERGED MISSING"
    assert {(row["outcome"], row["p_holm"]) for row in rows(spec, planned, "differences")} == {("diverged", "")}


def test_no_best_while_a_normaliser_has_nothing(tmp_path: Path) -> None:
    """With its first seeds there is none either, so that the star does not come, go and come back."""
    spec = specified(tmp_path, validate="own")
    numbers = {"A": [0.5] * 5, "B": [0.6] * 5}
    for seeds, best in ((0, False), (1, False), (2, False), (3, True)):
        values = everywhere(spec, **numbers, C=[*[0.55] * seeds, *[None] * (5 - seeds)])
        table = build_table(spec, made(spec, values))
        assert table.has_best is best and bool(table.no_best) is (seeds == 0)
    planned = made(spec, everywhere(spec, **numbers, C=[None] * 5))
    assert "no best as long as a normaliser has no number: a → own (C); b → own (C)" in text(spec, planned)


def test_equal_means_share_the_star(tmp_path: Path) -> None:
    """Of values that are the same in another order, and of one that float32 rounds otherwise."""
    spec = specified(tmp_path, validate="own")
    values = everywhere(spec, A=[0.5, 0.6, 0.7], B=[0.7, 0.5, 0.6], C=[0.5, 0.6, 0.7 + 1e-8])
    entries = build_table(spec, made(spec, values)).entries
    assert [norm for norm in "ABC" if entries["a", norm, "own"].best] == ["A", "B", "C"]
    values = everywhere(spec, A=[0.5, 0.6, 0.7], B=[0.7, 0.5, 0.6], C=[0.5, 0.6, 0.7 + 1e-5])
    entries = build_table(spec, made(spec, values)).entries
    assert [norm for norm in "ABC" if entries["a", norm, "own"].best] == ["C"]
    lower = build_table(replace(spec, metric="nll"), made(replace(spec, metric="nll"), values)).entries
    assert [norm for norm in "ABC" if lower["a", norm, "own"].best] == ["A", "B"]


def test_rounding_hides_neither_who_won_nor_on_which_side_of_the_level_p_is(tmp_path: Path) -> None:
    spec = specified(tmp_path, validate="own", norms={name: {"norm": name} for name in "AB"})
    values = everywhere(spec, A=[0.5, 0.6, 0.7, None, None], B=[0.5004, 0.60041, 0.70039, None, None])
    values["b", "B", "own"] = [0.4996, 0.59959, 0.69961, None, None]
    found = shown(tables(spec, made(spec, values)), "differences")
    assert found["a", "B − A"]["own"] == "+0.04 ± 0.00 (3), p <0.001 MISSING"
    assert found["b", "B − A"]["own"] == "-0.04 ± 0.00 (3), p <0.001 MISSING"
    values["b", "B", "own"] = [0.4996, 0.6002, 0.6999, None, None]
    assert shown(tables(spec, made(spec, values)), "differences")["b", "B − A"]["own"].startswith("0.0 ± 0.1 (3), p 0.")
    assert [show_p(p) for p in (0.0499, 0.05004, 0.05, 0.0494, 0.0009, 0.04999996)] == [
        "0.0499",
        "0.05004",
        "0.050",
        "0.049",
        "<0.001",
        "0.04999996",
    ]


def test_published_best_epochs_stand_beside_measured_best_epochs(tmp_path: Path) -> None:
    def published(name: str) -> dict[str, Any]:
        return {"source": "p", "selection": name, "tolerance": 0.2, "values": {"a": {"a": {"A": 70}, "b": {"B": None}}}}

    named = [published("best"), published("selected"), {**published("last"), "selection": "last"}]
    spec = specified(tmp_path, reported=named)
    planned = made(spec, everywhere(spec, A=[0.6] * 5, B=[0.5] * 5, C=[0.4] * 5))
    said = {"last": {"top1": 0.6, "epoch": 9}, "best": {"top1": 0.7, "epoch": 5}, "selected": None}
    with_fit = [
        replace(i, record=i.record and replace(i.record, fit={**i.record.fit, "accuracies": said})) for i in planned
    ]
    found = [[f.text for f in row] for row in sheet(tables(spec, with_fit), "reported").rows[:3]]
    assert [row[3:] for row in found] == [
        ["best epoch (oracle)", "70.0 ± 0.0 (5)", "70 [1]", "± 0.2", "within"],
        ["selected on held-out labels", "–", "70 [1]", "± 0.2", "not compared: nothing measured"],
        ["last epoch", "60.0 ± 0.0 (5)", "70 [1]", "± 0.2", "below by 10.0"],
    ]
    assert [row["selection"] for row in rows(spec, with_fit, "reported")][:4] == ["best", "selected", "last", ""]
    alone = replace(spec, reported=spec.reported[:1], norms={"A": ()}, train={"a": spec.train["a"]}, validate={"a": ()})
    head = sheet(tables(alone, [item for item in with_fit if str(item.cell).startswith("A/a/")]), "reported")
    assert head.head[3] == "epoch" and "last epoch" not in head.caption
    for changes, message in (
        ({"selection": "oracle"}, "selection: 'oracle' is not one of last, best, selected"),
        ({"selection": "best", "metric": "nll"}, "of top1 alone"),
        ({"selection": "best", "values": {"a": {"b": {"A": 70}}}}, "only of its own validation set"),
    ):
        with pytest.raises(InputError, match=message):
            specified(tmp_path, reported={**published("last"), **changes})


def test_a_set_under_two_labels_counts_once(tmp_path: Path) -> None:
    """`test` is each training's own set: for trainings on a that is what `a` and `again` are too."""
    sets = {"test": "own", "a": {"data": {"val": "a/val"}}, "again": {"data": {"val": "a/val"}}}
    spec, plain = (
        specified(tmp_path, validate=sets),
        specified(tmp_path, validate={"a": sets["a"], "b": {"data": {"val": "b/val"}}}),
    )
    assert spec.own_targets() == {"a": "a", "b": "test"}
    numbers = {"A": [0.5, 0.51, 0.52, 0.5, 0.5], "B": [0.52, 0.54, 0.53, 0.5, 0.51], "C": [0.6, 0.62, 0.6, 0.6, 0.6]}
    planned = made(spec, everywhere(spec, **numbers))
    doc, table = tables(spec, planned), build_table(spec, planned)
    assert dict(table.counted) == {"a": ["a"], "b": ["test", "a"]}
    compared = {(d.train, d.column) for d in all_pairs(table).found}
    assert compared == {("a", "a"), ("b", "test"), ("b", "a")}
    assert against_baseline(table).tests == 3 * 2
    assert shown(doc, "differences")["a", "B − A"] == {
        "test": "same set",
        "a": shown(doc, "differences")["a", "B − A"]["a"],
        "again": "same set",
    }
    assert {tally.total() for tally in tallies(all_pairs(table), table).values()} == {3}
    assert shown(doc, "ranks")["C",]["all pairs of sets"] == "1.00 (3)"
    assert set(shown(doc, "gaps")["a", "A"].values()) == {"–"}, "no gap of a set to itself"
    assert [row["validate"] for row in rows(spec, planned, "gaps")] == ["a"] * 3
    whole = build_table(plain, made(plain, everywhere(plain, **numbers)))
    assert against_baseline(whole).tests == 4 * 2 and all(len(names) == 2 for names in whole.counted.values())


def test_a_gap_after_adapting_that_has_not_been_measured_is_missing(tmp_path: Path) -> None:
    spec = specified(tmp_path, validate=["a", "b"], adapted=["b"], seeds=[0])
    planned = made(spec, everywhere(spec, A=[0.5], B=[0.6], C=[0.7]))
    gaps, matrix = (shown(tables(spec, planned), name) for name in ("gaps", "matrix"))
    assert gaps["a", "A"] == {"a": "–", "b": "0.0 (1)", "b (adapted)": "MISSING"}
    assert matrix["a", "A"]["b (adapted)"] == "MISSING", "– is of what cannot be"


def test_adapted_columns_are_a_family_of_their_own(paper_spec: Spec, paper: Sequence[PlannedCell]) -> None:
    with_adapted, without = (
        against_baseline(build_table(spec, paper)) for spec in (paper_spec, replace(paper_spec, adapted={}))
    )
    p = {d[:4]: d.p for d in with_adapted.found if "adapted" not in d.column and d.p == d.p}
    assert p and p == {d[:4]: d.p for d in without.found if d.p == d.p}
    assert (with_adapted.tests, with_adapted.adapted_tests) == (without.tests, 2) == (3, 2)
    assert "tests: 3; after adapting, adjusted apart: 2" in " ".join(noted(paper_spec, paper, "differences"))


def test_what_adapted_results_come_from_is_told(paper_spec: Spec, paper: Sequence[PlannedCell]) -> None:
    assert paper[0].record is not None
    result = paper[0].record.adapted["web_images"]
    part = {"web_images": {**result, "n": 77, "whole_set": False, "classes_digest": "f" * 64}}
    edited = [replace(paper[0], record=replace(paper[0].record, adapted=part)), *paper[1:]]
    told = text(paper_spec, edited)
    assert "validated on web_images (adapted): web_images/val, n 77, labels given" in told
    assert "class map: 7b3bb6b0; ffffffff" in told
    assert "web_images (adapted) n 77" in build_table(paper_spec, edited).data_line


@pytest.mark.parametrize(("metric", "told"), [("nll", True), ("ece", True), ("top1", False)])
def test_gaps_say_which_sign_is_worse(metric: str, told: bool, spec: Spec, planned: Sequence[PlannedCell]) -> None:
    lines = noted(replace(spec, metric=metric), planned, "gaps")
    assert any("a negative gap is a worse score" in line for line in lines) is told


@pytest.mark.parametrize(
    ("validate", "told"),
    [
        ("own", "validated on its own validation set."),
        ({"own": "own", "a": {"data": {"val": "a/val"}}}, "on its own validation set and on every other one"),
        (["a"], "validated on every validation set."),
    ],
)
def test_the_page_says_what_was_validated(validate: object, told: str, tmp_path: Path) -> None:
    spec = specified(tmp_path, validate=validate)
    planned = made(spec, everywhere(spec, A=[0.5], B=[0.6], C=[0.7]))
    assert told in " ".join(write_report(Results(tmp_path), spec, planned).read_text().split())


def test_costs_of_other_ranks_or_batches_are_told_apart(spec: Spec, planned: Sequence[PlannedCell]) -> None:
    def trained(**facts: object) -> list[PlannedCell]:
        assert planned[0].record is not None
        fits = [{**item.record.fit, "ranks": 1, "batch": {"per_rank": 32}} if item.record else {} for item in planned]
        records = [item.record and replace(item.record, fit=fit) for item, fit in zip(planned, fits, strict=True)]
        assert records[0] is not None
        records[0] = replace(records[0], fit={**records[0].fit, **facts})
        return [replace(item, record=record) for item, record in zip(planned, records, strict=True)]

    def told(planned: Sequence[PlannedCell]) -> list[str]:
        return [line for line in noted(spec, planned, "costs") if line.startswith(("run on", "["))]

    assert told(trained()) == ["run on: cpu, 1 rank x 32"]
    assert "run on" not in sheet(tables(spec, trained()), "costs").head
    same: list[dict[str, Any]] = [{"config": {"trainer": {"precision": name}}} for name in (None, "32-true", 32)]
    assert all(told(trained(**facts)) == ["run on: cpu, 1 rank x 32"] for facts in same)
    for facts, way in (
        ({"ranks": 8}, "cpu, 8 ranks x 32"),
        ({"batch": {"per_rank": 64}}, "cpu, 1 rank x 64"),
        ({"batch": {"per_rank": 32, "accumulated": 2}}, "cpu, 1 rank x 32 x 2 accumulated"),
        ({"device": "gpu"}, "gpu, 1 rank x 32"),
        ({"config": {"trainer": {"precision": "bf16-mixed"}}}, "cpu, 1 rank x 32, bf16-mixed"),
    ):
        planned_there = trained(**facts)
        first, *numbers = told(planned_there)
        assert first.startswith("run on: images/s, time and memory compare only between rows with the same number")
        assert numbers == [f"[1]: {way}", "[2]: cpu, 1 rank x 32"]
        found = shown(tables(spec, planned_there), "costs")
        assert found["handwritten", "BatchNorm"]["run on"] == "[1] [2]"
        assert found["handwritten", "BatchNorm"]["images/s"] == "–" != found["handwritten", "ExemplarNorm"]["images/s"]


def test_programs_learn_of_ranks_what_the_notes_say(tmp_path: Path) -> None:
    """Of three sets x is ranked over all seeds, y over a single one and with a diverged training, z not at all."""
    sets = {name: {"data": {"val": f"{name}/val"}} for name in "xyz"}
    spec = specified(tmp_path, validate=sets, seeds=[0, 1, 2])
    values = everywhere(spec, A=[0.5, 0.6, 0.5], B=[0.6, 0.7, 0.5], C=[0.7, 0.8, 0.9])
    values["a", "A", "y"], values["a", "B", "y"] = [0.5, None, None], [0.9, NAN, None]
    values["a", "C", "z"] = [None] * 3
    found = [row for row in rows(spec, made(spec, values), "ranks") if row["train"] == "a"]
    assert [[row[name] for name in ("norm", "validate", "rank", "seeds", "diverged", "left_out")] for row in found] == [
        *(["A", "x", "3.0", "3", "0", ""], ["B", "x", "2.0", "3", "0", ""], ["C", "x", "1.0", "3", "0", ""]),
        *(["A", "y", "2.0", "1", "0", ""], ["B", "y", "3.0", "1", "1", ""], ["C", "y", "1.0", "1", "0", ""]),
        *([norm, "z", "", "0", "0", "C MISSING"] for norm in "ABC"),
    ]
    nothing = rows(spec, made(spec, {}), "ranks")
    assert len(nothing) == 3 * 6 and {row["rank"] for row in nothing} == {""}


def test_the_critical_difference_stands_beside_the_ranks_that_it_is_of(tmp_path: Path) -> None:
    """Ten sets on which the three take turns, and one that A always wins, in 21 configurations."""
    train = {f"s{i}": [{"data": {"train": f"s{i}/train", "val": f"s{i}/val"}}] for i in range(11)}
    train |= {f"s0_{i}": [*train["s0"], {"model": {"lr": i}}] for i in range(1, 21)}
    spec = specified(tmp_path, train=train, validate="own", seeds=[0])

    def value(label: str, norm: str) -> float:
        turn = "ABC".index(norm)
        return 0.9 - 0.2 * turn if label.startswith("s0") else 0.5 + 0.1 * ((turn + int(label[1:])) % 3)

    values: Values = {(label, norm, "own"): [value(label, norm)] for label in train for norm in "ABC"}
    planned = made(spec, values)
    assert shown(tables(spec, planned), "ranks")["A",]["own validation set"].startswith("1.32 (31)")
    (told,) = [line for line in noted(spec, planned, "ranks") if line.startswith("Friedman")]
    ranks = np.mean([rankdata([-value(f"s{i}", norm) for norm in "ABC"]) for i in range(11)], axis=0)
    means = ", ".join(f"{norm} {mean:.2f}" for norm, mean in zip("ABC", ranks, strict=True))
    assert "1.32" not in told and f"average ranks over them {means} are not compared, as p is not below 0.05" in told


def test_own_validation_sets(spec: Spec, tmp_path: Path) -> None:
    assert spec.own_targets() == {"handwritten": "handwritten", "typeset": "typeset"}
    source = spec.path.read_text()
    other = tmp_path / "other.yaml"
    other.write_text(source + "validate: {again: {data: {val: digits/typeset/val}}, each: own}\n")
    assert load_spec(other).own_targets() == {"handwritten": "each", "typeset": "again"}
    other.write_text(source + json.dumps({"validate": {"elsewhere": {"data": {"val": "x/val"}}}})[1:-1] + "\n")
    assert load_spec(other).own_targets() == {}

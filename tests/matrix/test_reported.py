"""Published numbers in a specification: units, tolerance, source, and labels that the matrix does not have."""

from pathlib import Path

import pytest

from en_bench.errors import InputError
from en_bench.matrix.reported import Reported
from en_bench.matrix.spec import load_spec
from tests.matrix.test_spec import edit

FILE = """
source: "A README, table 1"
tolerance: 0.5
values:
  handwritten:
    handwritten: {BatchNorm: 76.4, ExemplarNorm: null}
    typeset: {BatchNorm: {value: 60, tolerance: 1.5}}
"""


def with_reported(spec_file: Path, entry: str, file: str = FILE) -> Path:
    (spec_file.parent / "reported").mkdir(exist_ok=True)
    (spec_file.parent / "reported" / "readme.yaml").write_text(file)
    return edit(spec_file, "seeds:", f"reported: {entry}\nseeds:")


def test_values_are_printed_in_per_cent_and_kept_as_fractions(spec_file: Path) -> None:
    spec = load_spec(with_reported(spec_file, "reported/readme.yaml"))
    source = "A README, table 1"
    assert spec.reported == (
        Reported("BatchNorm", "handwritten", "handwritten", 0.764, 0.005, source, "top1", "76.4"),
        Reported("BatchNorm", "handwritten", "typeset", 0.6, 0.015, source, "top1", "60"),
    )


def test_files_and_mappings_add_up_and_nats_stay_nats(spec_file: Path) -> None:
    inline = "{source: ours, metric: nll, values: {typeset: {typeset: {BatchNorm: 1.25}}}}"
    spec = load_spec(with_reported(spec_file, f"[reported/readme.yaml, {inline}]"))
    assert spec.reported[2] == Reported("BatchNorm", "typeset", "typeset", 1.25, None, "ours", "nll", "1.25")


@pytest.mark.parametrize(
    ("written", "printed", "value"),
    [
        ("77.0", "77.0", 0.77),
        ("77", "77", 0.77),
        ("'76.40'", "76.40", 0.764),
        ("{value: '100.00'}", "100.00", 1.0),
        ("diverges", "diverges", None),
        ("{value: diverges, tolerance: 1}", "diverges", None),
    ],
)
def test_values_keep_the_digits_that_were_published(
    written: str, printed: str, value: float | None, spec_file: Path
) -> None:
    spec = load_spec(with_reported(spec_file, "reported/readme.yaml", FILE.replace("76.4", written, 1)))
    assert (spec.reported[0].printed, spec.reported[0].value) == (printed, value)
    assert spec.reported[0].tolerance == (None if value is None else 0.005)


def test_two_sources_may_differ_about_a_cell(spec_file: Path) -> None:
    other = "{source: another, values: {handwritten: {handwritten: {BatchNorm: 75.5}}}}"
    spec = load_spec(with_reported(spec_file, f"[reported/readme.yaml, {other}]"))
    told = [(r.value, r.source) for r in spec.reported if (r.norm, r.target) == ("BatchNorm", "handwritten")]
    assert told == [(0.764, "A README, table 1"), (0.755, "another")]


def test_labels_that_the_matrix_lacks_can_be_left_out_on_demand_only(spec_file: Path) -> None:
    more = FILE + "  cifar: {cifar: {BatchNorm: 93}}\n"
    with pytest.raises(InputError, match=r"readme.yaml: values: cifar: cifar: BatchNorm: 'cifar' is no label of train"):
        load_spec(with_reported(spec_file, "reported/readme.yaml", more))
    (spec_file.parent / "reported" / "readme.yaml").write_text(more + "unknown_labels: ignore\n")
    assert len(load_spec(spec_file).reported) == 2


@pytest.mark.parametrize(
    ("keys", "values", "words"),
    [
        (
            "metric: top1",
            "{BatchNorm: 0.764}",
            r"0.764 may be top1 in per cent or a fraction: say which it is \('unit: p",
        ),
        ("metric: top5", "{BatchNorm: {value: 1}, ExemplarNorm: null}", "1 may be top5 in per cent or a fraction"),
        ("metric: ece", "{BatchNorm: 0.9}", "0.9 may be ece in per cent or a fraction"),
        ("metric: top1", "{BatchNorm: 76.4, ExemplarNorm: 0.771}", "0.771 beside 76.4: if both .* 77.1 for 0.771$"),
        (
            "unit: fraction",
            "{BatchNorm: 76.4, ExemplarNorm: 0.771}",
            "76.4 is no fraction, .*: write all values in one ",
        ),
        ("metric: nll\nunit: percent", "{BatchNorm: 0.9}", "unit: 'percent': nll is written in nats$"),
        ("unit: nats", "{BatchNorm: 76.4}", "unit: 'nats': top1 is written in percent or fraction$"),
        ("unit: [1]", "{BatchNorm: 76.4}", r"unit: \[1\]: top1 is written in percent or fraction$"),
        ("metric: top1", "{BatchNorm: '0.760', ExemplarNorm: diverges}", "0.76 may be top1 in per cent or a fraction"),
        ("metric: nll", "{BatchNorm: -3}", "-3 is no value of nll in nats"),
        ("unit: fraction\ntolerance: 1.5", "{BatchNorm: 0.7}", "1.5 is no tolerance: use a number of 0 to 1, in the"),
    ],
)
def test_values_of_a_doubtful_or_another_unit_are_refused(spec_file: Path, keys: str, values: str, words: str) -> None:
    text = f"source: a\n{keys}\nvalues: {{handwritten: {{handwritten: {values}}}}}\n"
    with pytest.raises(InputError, match=words) as error:
        load_spec(with_reported(spec_file, "reported/readme.yaml", text))
    assert str(error.value).startswith("experiments/reported/readme.yaml: ")


def test_the_unit_can_be_said(spec_file: Path) -> None:
    """To the last digit: they stand so in files for programs."""
    entries = (
        "{source: a, unit: percent, values: {handwritten: {typeset: {BatchNorm: 76.4, ExemplarNorm: 0.1}}}}",
        "{source: b, unit: percent, values: {handwritten: {typeset: {BatchNorm: 0.9}}}}",
        "{source: c, unit: fraction, tolerance: 0.003, values: {handwritten: {typeset: {BatchNorm: 0.764}}}}",
        "{source: d, metric: ece, unit: fraction, values: {handwritten: {typeset: {BatchNorm: 0.009}}}}",
        "{source: e, metric: nll, unit: nats, tolerance: 2, values: {handwritten: {typeset: {BatchNorm: 0.9}}}}",
        "{source: g, unit: fraction, values: {handwritten: {typeset: {BatchNorm: '0.7640', ExemplarNorm: diverges}}}}",
        "{source: f, values: {handwritten: {typeset: {BatchNorm: 0}}}}",
    )
    spec = load_spec(with_reported(spec_file, f"[{', '.join(entries)}]"))
    assert [(one.value, one.tolerance, one.printed) for one in spec.reported] == [
        (0.764, None, "76.4"),
        (0.001, None, "0.1"),
        (0.009, None, "0.9"),
        (0.764, 0.003, "76.4"),
        (0.009, None, "0.9"),
        (0.9, 2, "0.9"),
        (0.764, None, "76.40"),
        (None, None, "diverges"),
        (0, None, "0"),
    ]


def test_they_are_no_part_of_a_cells_identity(spec_file: Path) -> None:
    from en_bench.matrix.plan import plan_cells

    before = [cell.id for cell in plan_cells(load_spec(spec_file))]
    edit(with_reported(spec_file, "reported/readme.yaml"), "seeds:", "tuning: 3\nadapted: [typeset]\nseeds:")
    assert [cell.id for cell in plan_cells(load_spec(spec_file))] == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("source:", "sorce:", "unknown key 'sorce'; did you mean 'source'?"),
        ('source: "A README, table 1"', "", "source: expected one line"),
        ('source: "A README, table 1"', "source: ''", "source: expected one line"),
        ("tolerance: 0.5", "tolerance: -0.5", "tolerance: -0.5 is no tolerance"),
        ("tolerance: 0.5", "tolerance: true", "tolerance: True is no tolerance"),
        ("tolerance: 0.5", "metric: top-1", "'top-1' is not one of top1, top5, nll, ece; did you mean 'top1'?"),
        ("tolerance: 0.5", "unknown_labels: skip", "'skip' is neither 'error' nor 'ignore'"),
        ("BatchNorm: 76.4", "BatchNrom: 76.4", "'BatchNrom' is no label of norms; did you mean 'BatchNorm'?"),
        ("BatchNorm: 76.4", "BatchNrom: null", "'BatchNrom' is no label of norms"),
        ("typeset:", "typset:", "'typset' is no label of validate; did you mean 'typeset'?"),
        ("tolerance: 0.5", "tolerance: 500", "500 is no tolerance: use a number of 0 to 100"),
        ("tolerance: 0.5", "metric: nll\ntolerance: -1", "-1 is no tolerance: use a number of 0 or more"),
        ("BatchNorm: 76.4", "BatchNorm: 764", "764 is no value of top1 in per cent"),
        ("BatchNorm: 76.4", "BatchNorm: '76,4'", "'76,4' is no value of top1 in per cent; write 'diverges' where the"),
        ("BatchNorm: 76.4", "BatchNorm: '176.40'", "'176.40' is no value of top1 in per cent"),
        ("BatchNorm: 76.4", "BatchNorm: diverged", "'diverged' is no value of top1 in per cent; write 'diverges'"),
        ("BatchNorm: 76.4", "BatchNorm: .nan", "nan is no finite number"),
        ("value: 60", "valeu: 60", "unknown key 'valeu'; the keys are value, tolerance"),
        ("handwritten: {BatchNorm: 76.4, ExemplarNorm: null}", "handwritten: 76.4", "expected 'normaliser: value'"),
    ],
)
def test_mistake_is_one_line_with_file_and_cure(old: str, new: str, message: str, spec_file: Path) -> None:
    assert old in FILE
    with pytest.raises(InputError) as error:
        load_spec(with_reported(spec_file, "reported/readme.yaml", FILE.replace(old, new)))
    assert message in str(error.value)
    assert str(error.value).startswith("experiments/reported/readme.yaml") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("reported/readne.yaml", "there is no file reported/readne.yaml; did you mean 'reported/readme.yaml'?"),
        ("nosuch.yaml", "reported: there is no file nosuch.yaml\n"),  # with digits.yaml and base.yaml beside it
        ("[3]", "reported: 3 is neither the name of a file nor a mapping"),
        ("[reported/readme.yaml, reported/readme.yaml]", "stands twice with the source 'A README, table 1'"),
        ("{source: x}", "values: expected"),
    ],
)
def test_what_the_specification_says_wrong(entry: str, message: str, spec_file: Path) -> None:
    with pytest.raises(InputError) as error:
        load_spec(with_reported(spec_file, entry))
    assert message in f"{error.value}\n" and str(error.value).startswith("experiments/digits.yaml")

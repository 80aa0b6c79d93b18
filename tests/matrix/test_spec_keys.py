"""The keys `adapted` and `tuning` of a specification, and validation on each training's own set."""

from pathlib import Path

import pytest

from en_bench.errors import InputError
from en_bench.matrix.commands import validate_command
from en_bench.matrix.spec import load_spec
from tests.matrix.test_spec import edit


def with_keys(spec_file: Path, keys: str) -> Path:
    return edit(spec_file, "seeds:", f"{keys}\nseeds:")


def test_training_sets_are_adapted_to_on_their_own_training_split(spec_file: Path) -> None:
    spec = load_spec(with_keys(spec_file, "adapted: [typeset]"))
    assert spec.adapted == {"typeset": "digits/typeset/train"}


def test_other_sets_name_their_split(spec_file: Path) -> None:
    keys = "validate: {other: {data: {val: else/val, val_labels: given}}}\nadapted: {other: else/unlabelled}"
    assert load_spec(with_keys(spec_file, keys)).adapted == {"other": "else/unlabelled"}


def test_tuning_by_normaliser_and_for_all(spec_file: Path) -> None:
    assert load_spec(spec_file).tuning == {}
    assert load_spec(with_keys(spec_file, "tuning: {ExemplarNorm: 4}")).tuning == {"ExemplarNorm": 4}
    assert load_spec(edit(spec_file, "{ExemplarNorm: 4}", "2")).tuning == {"BatchNorm": 2, "ExemplarNorm": 2}


def test_each_on_its_own_validation_set(spec_file: Path) -> None:
    spec = load_spec(with_keys(spec_file, "validate: own"))
    assert (list(spec.validate), spec.own, spec.target("own")) == (["own"], {"own"}, {})
    # The training's own configuration names the set: no flag may.
    assert not any(part.startswith("--data") for part in validate_command(spec, "own", Path("run"), None))


def test_own_beside_another_set(spec_file: Path) -> None:
    keys = "validate: {test: own, other: {data: {val: else/val, val_labels: given}}}"
    spec = load_spec(with_keys(spec_file, keys))
    assert spec.target("test") == {} and spec.target("other")["data.val"] == "else/val"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("adapted: [typset]", "adapted: 'typset' is no label of validate; did you mean 'typeset'?"),
        ("adapted: {typset: a}", "adapted: 'typset' is no label of validate"),
        ("adapted: [typeset, typeset]", "adapted: a label stands twice"),
        ("adapted: typeset", "adapted: expected 'validation label: split"),
        ("adapted: {}", "adapted: expected 'validation label: split"),
        ("adapted: {typeset: 3}", "adapted: typeset: 3 names no split"),
        (
            "validate: {other: {data: {val: else/val, val_labels: given}}}\nadapted: [other]",
            "adapted: 'other' is no training set, so its unlabelled images are not known: write 'other: <split>'",
        ),
        ("validate: own\nadapted: [own]", "adapted: 'own' stands for each training's own set"),
        ("validate: {typeset: own}", "validate.typeset: it stands for each training's own set"),
        ("tuning: {BatchNrom: 1}", "tuning: 'BatchNrom' is no label of norms; did you mean 'BatchNorm'?"),
        ("tuning: {BatchNorm: 0}", "tuning: 0 is no number of recipes"),
        ("tuning: true", "tuning: True is no number of recipes"),
        ("tuning: [1]", "tuning: [1] is no number of recipes"),
    ],
)
def test_mistake_is_one_line_with_file_and_cure(keys: str, message: str, spec_file: Path) -> None:
    with pytest.raises(InputError) as error:
        load_spec(with_keys(spec_file, keys))
    assert message in str(error.value)
    assert str(error.value).startswith("experiments/digits.yaml") and "\n" not in str(error.value)

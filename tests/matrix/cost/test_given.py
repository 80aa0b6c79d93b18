import re
from pathlib import Path

import pytest

from en_bench.errors import InputError
from en_bench.matrix.cost.given import (
    check_given,
    check_order,
    in_order,
    seconds_for,
    seconds_in_flags,
    seconds_in_spec,
)
from en_bench.matrix.plan import plan_cells
from en_bench.matrix.spec import load_spec


@pytest.mark.parametrize(
    ("in_spec", "flags", "batch_norm", "exemplar_norm"),
    [
        ({"*": 0.1, "ExemplarNorm/*": 0.2}, [], (0.1, 0.1), (0.2, 0.2)),
        ({"*": 0.1, "ExemplarNorm/*": 0.2}, ["0.5"], (0.5, 0.5), (0.5, 0.5)),
        ({"ExemplarNorm": 0.2}, ["Exemplar*/*=0.9"], (None, None), (0.9, 0.9)),
        ({"ExemplarNorm": 0.2}, ["BatchNorm=0.9"], (0.9, 0.9), (0.2, 0.2)),
        ({}, ["BatchNorm=0.1", "BatchNorm/typeset/*=0.9"], (0.1, 0.9), (None, None)),
        ({}, ["BatchNorm=0.1", "*/typeset/*=0.9", "BatchNorm=0.2"], (0.2, 0.2), (None, 0.9)),
        (0.3, ["*/typeset/0=0.9"], (0.3, 0.9), (0.3, 0.9)),
    ],
)
def test_flags_come_before_the_specification_and_the_last_match_counts(
    spec_file: Path,
    in_spec: object,
    flags: list[str],
    batch_norm: tuple[float | None, float | None],
    exemplar_norm: tuple[float | None, float | None],
) -> None:
    """Of handwritten and typeset, seed 0."""
    given = in_order(seconds_in_spec(in_spec, "spec"), seconds_in_flags(flags))
    found = {str(cell): seconds_for(cell, given) for cell in plan_cells(load_spec(spec_file))}
    assert (found["BatchNorm/handwritten/0"], found["BatchNorm/typeset/0"]) == batch_norm
    assert (found["ExemplarNorm/handwritten/0"], found["ExemplarNorm/typeset/0"]) == exemplar_norm


def test_a_pattern_that_means_no_cell_is_refused(spec_file: Path) -> None:
    cells = plan_cells(load_spec(spec_file))
    check_given({"BatchNorm": 1.0, "*/typeset/1": 1.0}, cells, "here")
    for pattern, cure in (
        ("BatchNorm/1", "; give a normaliser's label or a pattern"),
        ("ExemplrNorm", "; did you mean 'ExemplarNorm'?"),
        ("batchnorm/*/0", "; did you mean 'BatchNorm/*/0'?"),
    ):
        with pytest.raises(InputError, match=re.escape(f"here: {pattern!r}: no cell is meant by it{cure}")):
            check_given({pattern: 1.0}, cells, "here")


def test_what_a_later_pattern_hides_is_refused(spec_file: Path) -> None:
    cells = plan_cells(load_spec(spec_file))
    check_order({"*": 0.1, "ExemplarNorm": 0.2, "*/typeset/*": 0.3}, cells, "spec")
    with pytest.raises(InputError, match="spec: 'ExemplarNorm' has no effect, since what comes after it means"):
        check_order({"ExemplarNorm": 0.2, "*": 0.1}, cells, "spec")

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from en_bench.matrix.cost import known as cost_known
from en_bench.matrix.cost.known import PROBE, Known, Measured, Rate, keep_probe, of_unfinished, read_probes
from en_bench.matrix.cost.shape import shape_of
from en_bench.matrix.plan import Cell, plan_cells
from en_bench.matrix.records import Record
from en_bench.matrix.results import Results
from en_bench.matrix.spec import Spec, load_spec
from en_bench.resume.reached import Pace
from tests.matrix.test_plan import record_of


@pytest.fixture
def spec(spec_file: Path) -> Spec:
    return load_spec(spec_file)


@pytest.fixture
def cell(spec: Spec) -> Cell:
    return plan_cells(spec)[0]


@pytest.fixture
def results(spec: Spec) -> Results:
    return Results(Path("results") / spec.name)


def costed(spec: Spec, cell: Cell, speed: float, **facts: Any) -> Record:
    """A record of a training at `speed` images/s, in batches of 128."""
    record = record_of(spec, cell)
    step = 128 * facts.get("ranks", 1) / speed
    cost = {"seconds": 9.0, "images_per_second": speed, "seconds_per_step": step, "parameters": 1000}
    cost |= facts.pop("cost", {})
    about = {"device": "H100", "finished": "2026-01-01", "ranks": 1, **facts}
    return replace(record, fit={**record.fit, "cost": cost, **about})


def test_median_over_records_of_the_shape(spec: Spec, results: Results) -> None:
    cells = plan_cells(spec)
    records = [costed(spec, cell, speed) for cell, speed in zip(cells, (64.0, 128.0, 1.0, 1.0, 256.0), strict=False)]
    rate = Known(results, records).rate(shape_of(cells[0].config))
    assert rate is not None
    # 0, 1 and 4 are BatchNorm's: 2, 1 and 0.5 seconds
    assert (rate.step, rate.ranks, rate.source) == (1.0, 1, "3 records, H100")
    assert rate.validation is None


def test_steps_without_start_up_come_before_the_mean_of_all(spec: Spec, results: Results) -> None:
    first, second = plan_cells(spec)[:2]
    shape = shape_of(first.config)
    former = costed(spec, first, 64.0, cost={"seconds_per_step": None})
    rate = Known(results, [former]).rate(shape)
    assert rate is not None
    assert (rate.step, rate.source) == (2.0, "1 record, H100, start-up and compiling included")
    newer = costed(spec, second, 64.0, cost={"seconds_per_step": 0.5}, finished="2025-01-01")
    rate = Known(results, [former, newer]).rate(shape)
    assert rate is not None and (rate.step, rate.source) == (0.5, "1 record, H100")


def test_validations_tell_their_own_speed(spec: Spec, cell: Cell, results: Results) -> None:
    record = costed(spec, cell, 64.0, cost={"validation_images_per_second": 10.0})
    validate = {**record.validate["handwritten"], "cost": {"seconds": 1.0, "images_per_second": 40.0}}
    rate = Known(results, [replace(record, validate={"handwritten": validate})]).rate(shape_of(cell.config))
    assert rate is not None and rate.validation == pytest.approx((1 / 10 + 1 / 40) / 2)


def test_the_device_that_was_used_last_unless_one_is_asked_for(spec: Spec, results: Results) -> None:
    first, second = plan_cells(spec)[:2]
    records = [costed(spec, second, 128.0), costed(spec, first, 64.0, device="CPU", finished="2026-02")]
    shape = shape_of(first.config)
    found = [Known(results, records, device).rate(shape) for device in ("*", "H*", "none")]
    assert [rate and (rate.step, rate.source) for rate in found] == [
        (2.0, "1 record, CPU"),
        (1.0, "1 record, H100"),
        None,
    ]


def test_trainings_on_other_numbers_of_ranks_or_without_cost_tell_nothing(
    spec: Spec, cell: Cell, results: Results
) -> None:
    shape = shape_of(cell.config)  # one device
    assert Known(results, [costed(spec, cell, 64.0, ranks=2)]).rate(shape) is None
    assert Known(results, [costed(spec, cell, 64.0, cost={"images_per_second": None})]).rate(shape) is None
    assert Known(results, [record_of(spec, cell)]).rate(shape) is None


def test_two_ranks_share_the_images(spec: Spec, cell: Cell, results: Results) -> None:
    config = {**cell.config, "trainer": {"devices": "auto"}}
    record = replace(costed(spec, cell, 64.0, ranks=2), overlays=config)
    rate = Known(results, [record]).rate(shape_of(config))
    assert rate is not None and (rate.step, rate.ranks) == (4.0, 2)  # 256 images a step


def test_other_matrices_tell_where_this_one_does_not(
    spec: Spec, cell: Cell, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost_known, "MOST_RECORDS_OF_OTHERS", 2)
    shape, other = shape_of(cell.config), Results(Path("results/other"))
    assert Known(results, []).rate(shape) is None
    for age, (each, speed) in enumerate(zip(plan_cells(spec)[:2] + plan_cells(spec)[4:5], (128, 64, 32), strict=True)):
        other.save(costed(spec, each, speed))
        os.utime(other.record(each.id), (1000 - age, 1000 - age))
    (other.folder / "records" / "broken.json").write_text("{")
    os.utime(other.folder / "records" / "broken.json", (1, 1))
    rate = Known(results, []).rate(shape)
    assert rate is not None and (rate.step, rate.source) == (1.5, "2 records of other matrices, H100")
    own = Known(results, [costed(spec, cell, 256.0)]).rate(shape)
    assert own is not None and own.source == "1 record, H100"


def test_unfinished_trainings_tell_where_no_record_of_this_matrix_does(spec: Spec, results: Results) -> None:
    cells = plan_cells(spec)
    shape = shape_of(cells[0].config)
    paces = [Pace(0.5, 50.0, "H100", 1), Pace(1.5, None, "H100", 1), Pace(9.0, None, "H100", 2)]
    found = [of_unfinished(cell, pace, results) for cell, pace in zip(cells[:2] + cells[4:5], paces, strict=True)]
    assert found[2] is None, "it ran on two ranks, and will on one"
    unfinished = [one for one in found if one is not None]
    rate = Known(results, [], unfinished=unfinished).rate(shape)
    assert rate == Rate(1.0, 0.02, 1, "2 unfinished trainings, H100")
    other = Results(Path("results/other"))
    other.save(costed(spec, cells[0], 128.0))
    rate = Known(results, [], unfinished=unfinished[:1]).rate(shape)
    assert rate is not None and rate.source == "1 unfinished training, H100"
    rate = Known(results, [costed(spec, cells[0], 64.0)], unfinished=unfinished).rate(shape)
    assert rate is not None and (rate.step, rate.source) == (2.0, "1 record, H100")
    known = Known(results, [], "*A100*", unfinished)
    assert known.rate(shape) is None and known.why_not().endswith("there is H100")


def test_of_unfinished_trainings_the_device_counts_that_saved_last(spec: Spec, results: Results) -> None:
    cells = plan_cells(spec)[:2]
    for age, cell in enumerate(cells):
        checkpoint = results.run(cell.id) / "checkpoints" / "last.ckpt"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.write_bytes(b"x" * 12_345)
        os.utime(checkpoint, (1000 - age, 1000 - age))
    paces = [Pace(0.5, None, "H100", 1), Pace(1.5, None, "A100", 1)]
    found = [of_unfinished(cell, pace, results) for cell, pace in zip(cells, paces, strict=True)]
    known = Known(results, [], unfinished=filter(None, found))
    rate = known.rate(shape_of(cells[0].config))
    assert rate is not None and (rate.step, rate.source) == (0.5, "1 unfinished training, H100")
    assert known.checkpoint_bytes(shape_of(cells[0].config)) == (12_345, True)


def test_probes_come_last_are_kept_once_and_survive_what_is_broken(cell: Cell, results: Results) -> None:
    shape = shape_of(cell.config)
    probe = Measured(shape, "H100", 1, 0.5, 0.01, 1000, 9000, "2026-01-01")
    for step in (0.5, 0.25):
        keep_probe(results, replace(probe, step=step), {"steps": 20})
    kept = json.loads((results.folder / PROBE).read_text())
    del kept["probes"][0]["start_up"]  # as former versions kept it
    (results.folder / PROBE).write_text(json.dumps(kept))
    keep_probe(results, replace(probe, device="CPU", finished="2025"), {})
    assert [found.step for found in read_probes(results)] == [0.25, 0.5]
    known = Known(results, [])
    rate = known.rate(shape)
    assert rate is not None and (rate.step, rate.validation, rate.source) == (0.25, 0.01, "1 probe, H100")
    assert known.checkpoint_bytes(shape) == (9000, True)
    path = results.folder / PROBE
    whole = json.loads(path.read_text())
    for broken in ("[", "{}", json.dumps({**whole, "probes": [{"shape": {}}]}), json.dumps({**whole, "format": "x"})):
        path.write_text(broken)
        assert read_probes(results) == []
    keep_probe(results, probe, {})
    assert read_probes(results) == [probe]


def test_checkpoints_are_measured_or_reckoned_from_parameters(spec: Spec, cell: Cell, results: Results) -> None:
    record, shape = costed(spec, cell, 64.0), shape_of(cell.config)
    assert Known(results, []).checkpoint_bytes(shape) is None
    assert Known(results, [record]).checkpoint_bytes(shape) == (8000, False)
    assert Known(results, [record]).checkpoint_bytes(replace(shape, norm="GroupNorm")) is None
    assert Known(results, [record]).checkpoint_bytes(replace(shape, batch=1)) == (8000, False)
    checkpoint = results.run(cell.id) / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"x" * 12_345)
    assert Known(results, [record]).checkpoint_bytes(shape) == (12_345, True)

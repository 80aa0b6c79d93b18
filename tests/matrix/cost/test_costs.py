from dataclasses import replace
from pathlib import Path

import pytest

from en_bench.matrix.cost.amount import Amount, Sizes, Unknown
from en_bench.matrix.cost.costs import CellCost, Cost, Rest, Saving, Seconds, cost_of, disk_of
from en_bench.matrix.cost.known import Known, Rate
from en_bench.matrix.cost.shape import Shape
from en_bench.matrix.cost.table import summary_lines
from en_bench.matrix.overlays import merge
from en_bench.matrix.plan import PlannedCell, State, plan
from en_bench.matrix.results import Results
from en_bench.matrix.spec import Spec, load_spec
from tests.matrix.cost.test_amount import SIZES
from tests.matrix.cost.test_known import costed
from tests.matrix.test_plan import nowhere

SHAPE = Shape("net", "BatchNorm", 128, 1, 32, "32-true")
BY_NAME = Sizes(SIZES.get)
ALL = Rest(1.0, frozenset({"handwritten", "typeset"}))


@pytest.fixture
def spec(spec_file: Path) -> Spec:
    return load_spec(spec_file)


def one(seconds: float, ranks: int = 1) -> CellCost:
    amount = Amount(1, 1, 0, {}, {})
    return CellCost(SHAPE, Rate(1.0, None, ranks, ""), ranks, amount, Seconds(seconds), Seconds(seconds))


def of_cells(*cells: CellCost | Unknown) -> Cost:
    return Cost((), cells, (), ())


@pytest.mark.parametrize(
    ("seconds", "slots", "wall"),
    [([3, 2, 2], 1, 7), ([3, 2, 2], 2, 4), ([2, 2, 3], 2, 5), ([5, 1, 1, 1, 1, 1], 2, 5), ([1, 1], 8, 1), ([], 2, 0)],
)
def test_wall_time_of_slots_that_take_the_next_cell(seconds: list[float], slots: int, wall: float) -> None:
    assert of_cells(*map(one, seconds)).wall_time(slots) == wall


def test_a_cell_on_several_devices_waits_for_all_of_them() -> None:
    assert of_cells(one(3), one(1), one(2, ranks=2), one(1)).wall_time(2) == 6  # 3 and 1, then both for 2, then 1
    assert of_cells(one(3), one(1), one(2, ranks=2)).wall_time(2) == 5
    assert of_cells(one(1), one(1, ranks=4)).wall_time(3) is None


def test_cost_by_hand(spec: Spec) -> None:
    """2 epochs of 1000 // 128 = 7 steps; 2 x 300 images watched, 300 + 200 after."""
    planned = plan(spec, {}, nowhere)
    record = costed(spec, planned[0].cell, 64.0, cost={"validation_images_per_second": 100.0})
    known = Known(Results(Path("results/digits")), [record])
    cost = cost_of(spec, planned, known, BY_NAME, lambda item: ALL, {})
    first = cost.cells[0]
    assert isinstance(first, CellCost) and first.amount.steps == 14
    assert first.whole == first.rest == Seconds(14 * 2.0, pytest.approx(600 / 100 + 500 / 100))
    typeset = cost.cells[4]  # 500 // 128 = 3 steps
    assert isinstance(typeset, CellCost) and typeset.whole.training == 6 * 2.0
    assert [isinstance(cell, CellCost) for cell in cost.cells] == [True, True, False, False] * 2
    ((reason, count),) = cost.unknown().items()
    assert count == 4 and "--seconds-per-step" in reason and "--probe" in reason
    half = cost_of(spec, planned, known, BY_NAME, lambda item: Rest(0.25, frozenset({"typeset"})), {}).cells[0]
    assert isinstance(half, CellCost) and half.rest == Seconds(7.0, pytest.approx(1.5 + 2.0))
    assert half.whole == first.whole


def test_given_seconds_come_first_and_validating_follows_from_them(spec: Spec) -> None:
    planned = plan(spec, {}, nowhere)
    known = Known(Results(Path("results/digits")), [costed(spec, planned[0].cell, 64.0)])
    given = {"*/typeset/*": 5.0, "ExemplarNorm": 0.384, "BatchNorm/typeset/1": 7.0}
    cost = cost_of(spec, planned, known, BY_NAME, lambda item: ALL, given)
    steps = [cell.rate.step for cell in cost.known()]
    assert steps == [2.0, 2.0, 0.384, 0.384, 5.0, 7.0, 0.384, 0.384]
    # a third of 0.384 / 128 seconds, for 600 + 500 images
    assert cost.known()[2].whole.validating == pytest.approx(1100 * 0.001)
    assert cost.known()[0].whole.validating == pytest.approx(1100 * 2.0 / 128 / 3)


def test_unknown_samples_are_told_and_left_out(spec: Spec) -> None:
    planned = plan(spec, {}, nowhere)
    sizes = Sizes({name: n for name, n in SIZES.items() if name != "digits/typeset/train"}.get)
    cost = cost_of(spec, planned, Known(Results(Path("results/digits")), []), sizes, lambda item: ALL, {"*": 1.0})
    assert len(cost.known()) == 4 and cost.whole() == sum((c.whole for c in cost.known()), Seconds())
    assert [reason.split(" unknown")[0] for reason in cost.unknown()] == ["samples of digits/typeset/train"]


def test_disk(spec: Spec, tmp_path: Path) -> None:
    planned = [
        replace(item, state=State.DONE if i < 3 else State.MISSING) for i, item in enumerate(plan(spec, {}, nowhere))
    ]
    cost = Cost(planned, [Unknown("")] * 8, [10, 20, 30, 40, 50, 60, 70, None], [True] * 8)

    def saving(item: PlannedCell) -> Saving:
        return Saving(item.state is not State.DONE, item.state is not State.DONE)

    disk = disk_of(cost, tmp_path / "not" / "there", saving, 2)
    assert (disk.whole, disk.rest, disk.unknown) == (280, 220 + 60 + 70, 1)
    assert disk.fits and disk.free > 0 and disk.measured
    huge = disk_of(replace(cost, checkpoints=[10**18] * 8), tmp_path, saving, 1)
    assert not huge.fits
    # Trainings that go on and cells that adapt have theirs already, and each slot needs a copy more.
    copies = disk_of(cost, tmp_path, lambda item: Saving(some=item.state is not State.DONE, stays=False), 3)
    assert copies.rest == 70 + 60 + 50
    assert disk_of(cost, tmp_path, lambda item: Saving(item is planned[3], False), 3).rest == 40
    assert disk_of(cost, tmp_path, lambda item: Saving(False, False), 2).rest == 0


@pytest.mark.parametrize("ranks", [1, 8])
def test_one_rank_recalibrates_while_the_others_wait(spec: Spec, ranks: int) -> None:
    """A device validates 100 images/s: 500 images to adapt to take it 5 seconds, 200 to validate share all devices."""
    spec = replace(spec, adapted={"typeset": "digits/typeset/train"})
    (item, *_) = plan(spec, {}, nowhere)
    config = {**item.cell.config, "trainer": {"max_epochs": 2, "devices": ranks}, "data": {"batch_size": 8}}
    item = replace(item, cell=replace(item.cell, config=merge([item.cell.config, config])))
    record = costed(spec, item.cell, 64.0, cost={"validation_images_per_second": 100.0 * ranks}, ranks=ranks)
    known = Known(Results(Path("results/digits")), [record])
    (one,) = cost_of(spec, [item], known, BY_NAME, lambda item: Rest(0.0, adapted=frozenset({"typeset"})), {}).cells
    assert isinstance(one, CellCost) and one.ranks == ranks
    assert one.rest == Seconds(0.0, pytest.approx(5.0 + 2.0 / ranks))
    # 2 x 300 images watched, 300 + 200 after
    assert one.whole.validating == pytest.approx((600 + 500) / 100 / ranks + 5.0 + 2.0 / ranks)


def test_what_a_loss_remembers_is_part_of_every_checkpoint(spec: Spec) -> None:
    """A row of 10 float32 and an int64 for each of 1,000 samples, beside 8 bytes for each parameter."""
    plain, *_ = plan(spec, {}, nowhere)
    loss = {"model": {"loss": {"class_path": "en_bench.losses.EarlyLearningRegularization"}}}
    remembering = replace(plain, cell=replace(plain.cell, config=merge([plain.cell.config, loss])))
    results = Results(Path("results/digits"))

    def sizes_with(known: Known, classes: int | None = 10) -> tuple[list[int | None], list[bool]]:
        sizes = replace(BY_NAME, classes=lambda name: classes)
        cost = cost_of(spec, [plain, remembering], known, sizes, lambda item: ALL, {})
        return list(cost.checkpoints), list(cost.on_disk)

    known = Known(results, [costed(spec, plain.cell, 64.0)])
    assert sizes_with(known) == ([8_000, 8_000 + 48_000], [False, False])
    assert sizes_with(known, classes=None)[0] == [8_000, None]
    assert sizes_with(Known(results, [])) == ([None, None], [False, False])
    # Of a checkpoint with such a table nobody knows which part is the network's: its parameters tell.
    record = costed(spec, remembering.cell, 64.0)
    checkpoint = results.run(record.id) / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"x" * 60_000)
    assert sizes_with(Known(results, [record])) == ([8_000, 8_000 + 48_000], [False, False])


def test_slots_are_asked_for_what_is_left(spec: Spec, tmp_path: Path) -> None:
    over, to_come = replace(one(3, ranks=8), rest=Seconds()), one(1, ranks=2)
    planned = plan(spec, {}, nowhere)[:2]
    cost = Cost(planned, [over, to_come], [None] * 2, [False] * 2)
    disk = disk_of(cost, tmp_path, lambda item: Saving(True, True), 1)
    (told,) = [line for line in summary_lines(spec, planned, cost, disk, 1, "results") if line.startswith("time with")]
    assert told == "time with 1 slot: none, a cell needs 2 devices: give --slots 2 or more"

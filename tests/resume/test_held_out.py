"""Trainings with a held-out part: cut off anywhere, inside its validation too, they end as if they had not been."""

import pytest

from en_bench.cli import main
from tests.resume.runs import Left, arguments, assert_same, what_is_left
from tests.resume.test_kills import killed_and_continued, processes, run
from tests.resume.watch import Killed

HELD_OUT = ("--data.held_out", 0.2, "--data.val_batch_size", 16)


@pytest.fixture(scope="module")
def undisturbed(shards, tmp_path_factory) -> Left:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert main(arguments(shards, folder, *HELD_OUT)) == 0
    return what_is_left(folder)


@pytest.mark.parametrize("point", ["validation 0", "held_out 0", "save 4", "batch 1 1", "held_out 1", "end"])
def test_a_training_that_was_cut_off_ends_as_if_it_had_not_been(shards, tmp_path, undisturbed, point):
    folder = tmp_path / "run"
    with pytest.raises(Killed):
        main(arguments(shards, folder, *HELD_OUT, kill=point, by="raise"))
    assert main(arguments(shards, folder, *HELD_OUT, kill=point, by="raise")) == 0
    left = what_is_left(folder)
    assert_same(left, undisturbed)
    assert [line["held_out/n"] for line in left.metrics if "held_out/n" in line] == [
        undisturbed.fit["held_out"]["n"]
    ] * 2


@pytest.mark.slow
def test_a_real_kill_inside_the_validation_of_the_held_out_part(shards, tmp_path, undisturbed):
    target = killed_and_continued(shards, tmp_path, "held_out 1", list(map(str, HELD_OUT)), list(map(str, HELD_OUT)))
    assert_same(what_is_left(target), undisturbed)


@pytest.mark.slow
def test_two_processes_score_the_held_out_part_as_one_does(shards, tmp_path):
    """GroupNorm, equal global batches: the same samples trained, all held-out samples counted once by both."""
    options = (*HELD_OUT, "--model.norm", "GroupNorm", "--model.norm.groups", 4, "--data.val_batch_size", 7)
    found = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        folder.mkdir()
        assert run(arguments(shards, folder / "run", *options, *processes(count)), folder) == 0
        found.append(what_is_left(folder / "run", count))
    one, two = found
    assert one.fit["held_out"] == two.fit["held_out"]
    scored = [[line for line in left.metrics if "held_out/n" in line] for left in found]
    assert len(scored[0]) == len(scored[1]) == 2
    for alone, shared in zip(*scored, strict=True):
        assert alone["held_out/n"] == shared["held_out/n"] == one.fit["held_out"]["n"]
        assert alone["val/n"] == shared["val/n"] == 93
    trained = [
        [
            row
            for rank in left.trace
            for line in rank
            if line.get("epoch") == 0 and "rows" in line
            for row in line["rows"]
        ]
        for left in found
    ]
    assert sorted(trained[0]) == sorted(trained[1])

"""Trainings with a held-out part: cut off anywhere, inside its validation too, they end as if they had not been."""

import pytest

from en_bench.cli import main
from tests.resume.runs import Left, arguments, assert_same, what_is_left
from tests.resume.test_kills import killed_and_continued
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
    assert set(left.others["scores"]["by_epoch"]) == {1, 2}
    assert [line["held_out/n"] for line in left.metrics if "held_out/n" in line] == [
        undisturbed.fit["held_out"]["n"]
    ] * 2


@pytest.mark.slow
def test_a_real_kill_inside_the_validation_of_the_held_out_part(shards, tmp_path, undisturbed):
    target = killed_and_continued(shards, tmp_path, "held_out 1", list(map(str, HELD_OUT)), list(map(str, HELD_OUT)))
    assert_same(what_is_left(target), undisturbed)

"""Cells of several ranks, on one node and on two, and a node that fails."""

from __future__ import annotations

import pytest

from en_bench.plural import counted
from tests.slurm.cluster import until
from tests.slurm.conftest import EPOCHS, LONG, lines, numbers

_HALF_BATCHES = {"batch_size": 16}
_TELLS = {"class_path": "tests.slurm.slowly.TellsWhere"}


@pytest.mark.parametrize(
    ("nodes", "devices"), [pytest.param(1, 2, marks=pytest.mark.full), pytest.param(2, 1, marks=pytest.mark.slow)]
)
def test_several_ranks_stop_together_and_end_as_they_would_have_locally(
    make_matrix, cluster, undisturbed, nodes, devices
):
    place = {"strategy": "ddp", "devices": devices, "num_nodes": nodes}
    trainer = {**EPOCHS, **place, "callbacks": [*LONG["callbacks"], _TELLS]}
    matrix = make_matrix(base={"trainer": trainer, "data": _HALF_BATCHES})
    told = matrix.submit("--slurm", "partition=both", "--slurm", "gpus_per_node=2")
    assert f"{nodes} node{'s' * (nodes > 1)} x {counted(devices, 'task')}, 2 GPUs per node" in told
    (number,) = cluster.jobs()
    until(lambda: lines(matrix) > 3, 150, matrix.logs)
    cluster.preempt()
    until(lambda: cluster.jobs()[number]["Restarts"] == "1", 60, matrix.logs)
    until(lambda: f"queued  BN/a/0  Slurm job {number} pending" in matrix("status"), 60, matrix.logs)
    assert not matrix.records()
    cluster.start_now(number)
    until(matrix.records, 150, matrix.logs)
    record = matrix.records()["BN"]
    log = (matrix.results.run(record.id) / "log.txt").read_text()
    for rank in range(2):
        node = f"bench{1 + (rank if nodes == 2 else 0)}"
        assert f"rank {rank} of 2 on {node} with GPUs 0,1" in log
    # srun tells of two that end at the same time in one line.
    together = "tasks 0-1: Exited with exit code 75" in log
    assert together or all(f"task {rank}: Exited with exit code 75" in log for rank in (0, 1)), log
    assert log.count("going on from") == 1
    assert numbers(record) == undisturbed(trainer={**EPOCHS, "strategy": "ddp", "devices": 2}, data=_HALF_BATCHES)


@pytest.mark.slow
def test_cut_off_with_its_node_it_goes_on_elsewhere_and_what_is_left_there_writes_nothing(
    make_matrix, cluster, undisturbed
):
    matrix = make_matrix(base={"trainer": LONG})
    matrix.submit("--slurm", "partition=both")
    (number,) = cluster.jobs()
    until(lambda: lines(matrix) > 3, 150, matrix.logs)
    failed = cluster.jobs()[number]["BatchHost"]
    cluster.kill(failed)
    try:
        cluster.ask("scontrol", "update", f"nodename={failed}", "state=down", "reason=cut off")
        until(lambda: cluster.jobs()[number]["Restarts"] == "1", 60, matrix.logs)
        cluster.start_now(number)
        until(matrix.records, 150, matrix.logs)
        assert cluster.jobs()[number]["BatchHost"] != failed
    finally:
        cluster.start_node(failed)
        cluster.ask("scontrol", "update", f"nodename={failed}", "state=resume")
    record = matrix.records()["BN"]
    assert numbers(record) == undisturbed(trainer=EPOCHS) and record.generation == 3
    until(lambda: "was taken over: nothing more is written" in matrix.logs(), 60, matrix.logs)

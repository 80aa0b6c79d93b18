"""Programs in the place of Slurm's."""

from __future__ import annotations

from pathlib import Path

CELL = "0123456789abcdef"
CLUSTER = """#!/bin/sh
case "$(basename "$0")" in
  scontrol) echo "ClusterName             = here"; echo "MaxArraySize            = 11" ;;
  squeue) {squeue} ;;
esac
"""
SCONTROL = """#!/bin/sh
echo "$*" >> {folder}/asked
case "$*" in
  *show\\ job*) echo 'JobId=8 ArrayJobId=7 ArrayTaskId=1 JobName=en_bench-a {job}' ;;
  *show\\ node*) echo 'NodeName=n1 Arch=x86_64 NodeAddr=10.0.0.7 NodeHostName=elsewhere' ;;
  requeue*) {requeue} ;;
esac
"""
RUNNING = "JobState=RUNNING Reason=None Restarts=0 StartTime=2026-01-02T00:00:00 PreemptTime=None"
ENDING = "JobState=COMPLETING Reason={why} Restarts={restarts} StartTime=2026-01-02T00:00:00 PreemptTime={preempted}"


def answer(programs: Path, squeue: str) -> None:
    """What `squeue` does, as a shell's command; `scontrol` tells of a cluster named here."""
    for name in ("scontrol", "squeue"):
        (programs / name).write_text(CLUSTER.format(squeue=squeue))
        (programs / name).chmod(0o755)


def scontrol(programs: Path, job: str, requeue: str = "true") -> None:
    """`scontrol` tells `job` of any job, requeues as a shell's command says, and writes down what it was asked."""
    (programs / "scontrol").write_text(SCONTROL.format(folder=programs, job=job, requeue=requeue))

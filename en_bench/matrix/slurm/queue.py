"""Which jobs Slurm knows, by `squeue`: without its accounting daemon, all that can be asked about them."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

_SECONDS = 60
_FIELDS = ("%j", "%F", "%K", "%T", "%r", "%N", "%S")
_SEPARATOR = "|"


class SlurmUnreachable(Exception):  # noqa: N818 - it may well be reachable in a minute
    """No program of Slurm here, or its controller does not answer; the message says which."""


@dataclass(frozen=True)
class QueuedJob:
    """A task of an array of jobs that waits, runs or is about to end. `start` is Slurm's estimate, or when it began."""

    number: str
    state: str
    reason: str
    nodes: str
    start: str

    @property
    def runs(self) -> bool:
        return self.state in ("RUNNING", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SUSPENDED")

    def told(self) -> str:
        """Number, state and why or where, for a line of text."""
        why = self.nodes if self.runs else "" if self.reason in ("None", "") else self.reason
        return f"Slurm job {self.number} {self.state.lower()}{f' ({why})' if why else ''}"


def queued_jobs() -> dict[tuple[str, int], QueuedJob]:
    """All jobs that Slurm knows and that have not ended, by name and number of the task in its array.

    Raises SlurmUnreachable.
    """
    jobs: dict[tuple[str, int], QueuedJob] = {}
    for line in ask("squeue", "--noheader", "--array", "--format", _SEPARATOR.join(_FIELDS)).splitlines():
        fields = line.split(_SEPARATOR)
        if len(fields) != len(_FIELDS):
            continue  # somebody else's job, with a name of its own kind
        name, array, task, state, reason, nodes, start = fields
        if task.isdecimal():
            jobs[name, int(task)] = QueuedJob(f"{array}_{task}", state, reason, nodes, start)
    return jobs


@dataclass(frozen=True)
class JobNow:
    """A job of which processes are alive yet.

    `restarts` tells how often it was queued again. It `ends` once Slurm has told its processes so, and `taken_away` is
    why it does: its time limit, or a preemption.
    """

    restarts: int
    ends: bool
    taken_away: bool


def job_now(number: str) -> JobNow:
    """What Slurm is doing with a job. Raises SlurmUnreachable.

    While its processes end a job is COMPLETING, whether it was cancelled, preempted or is out of time: what stands
    beside the state makes the difference.
    """
    words = ask("scontrol", "--oneliner", "show", "job", number).split()
    facts = dict(word.split("=", 1) for word in words if "=" in word)
    state, preempted = facts.get("JobState", ""), facts.get("PreemptTime", "None")
    return JobNow(
        restarts=int(facts.get("Restarts", "0")),
        ends=any(word in state for word in ("COMPLETING", "CANCELLED", "TIMEOUT", "PREEMPTED")),
        # A preemption of an earlier run is told until the next one.
        taken_away=facts.get("Reason") == "TimeLimit" or (preempted[:1].isdigit() and preempted >= facts["StartTime"]),
    )


def node_address(node: str) -> str | None:
    """Where Slurm itself finds a node, whose name may be known to Slurm alone; None if it does not say."""
    try:
        words = ask("scontrol", "--oneliner", "show", "node", node).split()
    except SlurmUnreachable:
        return None
    return next((word.partition("=")[2] for word in words if word.startswith("NodeAddr=")), None)


def cluster_facts() -> tuple[str, int]:
    """The cluster's name, and how many jobs an array may have: 0 if there are none. Raises SlurmUnreachable."""
    lines = (line.partition("=") for line in ask("scontrol", "show", "config").splitlines())
    facts = {key.strip(): value.strip() for key, equals, value in lines if equals}
    return facts.get("ClusterName", ""), int(facts.get("MaxArraySize", "1001"))


def ask(*command: str) -> str:
    """What a program of Slurm prints. Raises SlurmUnreachable."""
    if shutil.which(command[0]) is None:
        raise SlurmUnreachable(f"there is no Slurm on this machine (no {command[0]})")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise SlurmUnreachable(f"{command[0]} did not answer within {_SECONDS} s") from None
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]  # the last line is the outcome
        raise SlurmUnreachable(f"{command[0]}: {said[-1] if said else f'exit code {done.returncode}'}")
    return done.stdout

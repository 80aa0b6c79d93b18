"""A Slurm on loopback, two nodes of this machine: Debian's munged, slurmctld and slurmd, in a private folder."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from string import Template

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
CPUS = 2  # of a node, whatever the machine has
NODES = ("bench1", "bench2")  # names that nobody but Slurm knows
GPUS = 2  # of a node, as far as Slurm can tell
LARGEST_ARRAY = 4
_EXAMPLE = Path(__file__).with_name("slurm.conf.example")


def why_not() -> str | None:
    """Why no cluster can be started here, in one line; None where one can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)} here: apt-get install slurm-wlm munge (tests/slurm/install does)"
    return None if os.geteuid() == 0 else "slurmctld and slurmd of the tests' own cluster are started as root"


class Cluster:
    """The daemons, from `start` to `stop`. All that they write lies in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configuration = folder / "slurm.conf"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._forgotten: set[str] = set()

    @property
    def environment(self) -> dict[str, str]:
        """What Slurm's programs, and all that calls them, need to find this cluster."""
        return {"SLURM_CONF": str(self.configuration)}

    def start(self) -> None:
        """Raises AssertionError with the daemons' own words if the nodes are not ready within half a minute."""
        for name in ("state", *(f"spool.{node}" for node in NODES)):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        ports = dict(zip(("CONTROLLER_PORT", "NODE1_PORT", "NODE2_PORT"), _free_ports(3), strict=True))
        places = {"RUN": self.folder, "HOST": socket.gethostname().split(".")[0], **ports}
        self.configuration.write_text(Template(_EXAMPLE.read_text()).substitute(places))
        for number in range(GPUS):
            (self.folder / f"gpu{number}").symlink_to("/dev/null")
        gpus = f"NodeName={','.join(NODES)} Name=gpu File={self.folder}/gpu[0-{GPUS - 1}]\n"
        (self.folder / "gres.conf").write_text(gpus)
        munge = [
            f"--{name}={self.folder / file}"
            for name, file in (
                ("key-file", "munge.key"),
                ("socket", "munge.socket"),
                ("pid-file", "munge.pid"),
                ("log-file", "munge.log"),
                ("seed-file", "munge.seed"),
            )
        ]
        self._start("munged", "--foreground", "--force", *munge)
        until(lambda: (self.folder / "munge.socket").exists(), 10, "munged's socket")
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        until(lambda: set(self.ask("sinfo", "-h", "-o", "%T").split()) == {"idle"}, 30, self._said)

    def start_controller(self) -> None:
        """Starts slurmctld, again if it was killed, and waits until it answers."""
        self._start("slurmctld", "-D")
        until(lambda: "UP" in self.ask("scontrol", "ping"), 30, self._said)

    def start_node(self, node: str) -> None:
        """Starts slurmd for one of the nodes."""
        self._start("slurmd", "-D", "-N", node, name=node)

    def kill(self, name: str) -> None:
        """Ends a daemon, slurmctld or that of a node, as a crash does. What jobs have started goes on."""
        self._daemons[name].kill()
        self._daemons.pop(name).wait()

    def stop(self) -> None:
        """Cancels what is left, waits for its end, and ends the daemons."""
        if "slurmctld" in self._daemons:
            self.clear()
        for name in reversed(list(self._daemons)):
            daemon = self._daemons.pop(name)
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def clear(self) -> None:
        """Cancels all jobs and waits until none is left; `jobs` forgets them."""

        def none_is_left() -> bool:
            self.ask("scancel", "--signal=KILL", "--full", "--user=root")
            self.ask("scancel", "--user=root")  # refused while a job is just being queued again
            return self.ask("squeue", "-h") == ""

        until(none_is_left, 60, lambda: self.ask("squeue"))
        self._forgotten = {fields["JobId"] for fields in self._all_jobs().values()}

    def start_now(self, number: str) -> None:
        """Starts a job that was queued for later, as one that was queued again is: in two minutes."""

        def it_runs() -> bool:
            job = self.jobs()[number]
            if job["Reason"] == "BeginTime":
                self.ask("scontrol", "update", f"jobid={number}", "starttime=now")  # refused while its last run ends
            return job["JobState"] in ("RUNNING", "COMPLETED", "FAILED")

        until(it_runs, 60, self._said)

    def preempt(self) -> None:
        """Submits what needs both nodes for itself, for a second, and is more important than all else."""
        whole = (f"--nodes={len(NODES)}", f"--ntasks-per-node={CPUS}")
        self.ask("sbatch", "--partition=high", *whole, "--output=/dev/null", "--wrap", "sleep 1")

    def ask(self, *command: str) -> str:
        """What a program of Slurm prints; nothing if it fails."""
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    def jobs(self) -> dict[str, dict[str, str]]:
        """All jobs since the last `clear`, those that have ended too, by `ARRAY_TASK` or number."""
        return {name: job for name, job in self._all_jobs().items() if job["JobId"] not in self._forgotten}

    def _all_jobs(self) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for line in self.ask("scontrol", "-o", "show", "jobs").splitlines():
            fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
            for task in _tasks(fields.get("ArrayTaskId", "")):
                found[f"{fields['ArrayJobId']}_{task}"] = fields
            if "ArrayTaskId" not in fields:
                found[fields["JobId"]] = fields
        return found

    def _start(self, program: str, *arguments: str, name: str | None = None) -> None:
        name = name or program
        with (self.folder / f"{name}.out").open("ab") as out:
            self._daemons[name] = subprocess.Popen(
                [_path(program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                start_new_session=True,  # Ctrl-C at the tests is ours to handle
            )

    def _said(self) -> str:
        logs = [*self.folder.glob("*.out"), *self.folder.glob("*.log")]
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}" for log in logs)


def until(holds: Callable[[], object], seconds: float, what: str | Callable[[], str]) -> None:
    """Waits until `holds()`; AssertionError with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.2)


def kill(process: int, number: signal.Signals) -> None:
    """Sends a signal to a process that may have ended."""
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return


def _tasks(ranges: str) -> list[int]:
    """Of tasks that wait, such as `0-2,4%3`."""
    parts = [part.partition("-") for part in ranges.partition("%")[0].split(",") if part]
    return [task for first, _, last in parts for task in range(int(first), int(last or first) + 1)]


def _path(program: str) -> str:
    found = shutil.which(program)
    assert found is not None
    return found


def _free_ports(count: int) -> Iterable[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()

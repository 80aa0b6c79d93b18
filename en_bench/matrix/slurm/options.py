"""What a cell asks of Slurm: the specification's key `slurm`, flags, and the cell's own trainer settings."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from math import ceil
from typing import TYPE_CHECKING, Any

import yaml

from en_bench.errors import InputError
from en_bench.matrix.overlays import Config

if TYPE_CHECKING:
    from en_bench.matrix.plan import Cell

CELLS = "cells"
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})")
_MEMORY = re.compile(r"\d+[KMGT]?")


@dataclass(frozen=True)
class SlurmOptions:
    """What is given; None leaves it to the cluster. `parameters` are further options of sbatch, by name.

    `signal_seconds` before the time limit, or as long before a preemption as the partition's grace time, the training
    is told to save its step and stop.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    minutes: int | None = None
    memory: str | None = None
    cpus_per_task: int | None = None
    gpus_per_node: int | None = None
    at_once: int | None = None
    signal_seconds: int = 120
    setup: tuple[str, ...] = ()
    parameters: Mapping[str, str | bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Shape:
    """What one job needs: one array of jobs for all cells of a shape."""

    options: SlurmOptions
    nodes: int
    tasks_per_node: int

    @property
    def tasks(self) -> int:
        return self.nodes * self.tasks_per_node


@dataclass(frozen=True)
class SlurmSection:
    """The key `slurm` of a specification: settings for all cells, and by pattern of norm/train/seed, the last wins."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    by_pattern: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def shape(self, cell: Cell, flags: Mapping[str, Any]) -> Shape:
        """What `cell` needs; `flags` win over what the specification says. Raises InputError."""
        found = dict(self.settings)
        for pattern, settings in self.by_pattern.items():
            if fnmatchcase(str(cell), pattern):
                found |= settings
        options = _options({**found, **flags})
        if options.minutes is not None and 60 * options.minutes <= options.signal_seconds:
            raise InputError(
                f"{cell}: slurm.time is {options.minutes} min, and {options.signal_seconds} s before its end "
                "(signal_seconds) the job would stop, at once and again each time: give more time, or fewer seconds"
            )
        nodes, tasks, gpus = _ranks(cell, options)
        return Shape(replace(options, gpus_per_node=gpus), nodes, tasks)


def parse_slurm(raw: object, where: str) -> SlurmSection:
    """The key `slurm`; InputError names key and cure."""
    if not isinstance(raw, dict):
        raise InputError(f"{where}: expected a mapping such as {{partition: gpu, time: '12:00:00'}}")
    by_pattern = raw.get(CELLS, {})
    if not isinstance(by_pattern, dict):
        raise InputError(f"{where}.{CELLS}: expected 'pattern of norm/train/seed: settings'")
    for pattern, settings in by_pattern.items():
        if not isinstance(settings, dict):
            raise InputError(f"{where}.{CELLS}.{pattern}: expected a mapping such as {{time: '12:00:00'}}")
    section = {key: value for key, value in raw.items() if key != CELLS}
    for place, settings in (
        (where, section),
        *((f"{where}.{CELLS}.{key}", value) for key, value in by_pattern.items()),
    ):
        _check(settings, place)
    return SlurmSection(section, by_pattern)


def parse_flags(flags: Sequence[str]) -> dict[str, Any]:
    """What `--slurm KEY=VALUE` says, several times. Raises InputError."""
    found: dict[str, Any] = {}
    for flag in flags:
        key, equals, text = flag.partition("=")
        if not equals:
            raise InputError(f"--slurm {flag}: expected KEY=VALUE such as partition=gpu")
        try:
            value = text if key in ("time", "memory") else yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        _check({key: value}, "--slurm")
        found[key] = value
    return found


def _check(settings: Mapping[str, Any], where: str) -> None:
    for key, value in settings.items():
        read = _READERS.get(key)
        if read is None:
            close = difflib.get_close_matches(key, _READERS, n=1)
            meant = f"; did you mean {close[0]!r}?" if close else ""
            raise InputError(
                f"{where}: unknown key {key!r}{meant}; the keys are {', '.join(_READERS)}; "
                "further options of sbatch go into parameters"
            )
        try:
            read(value)
        except ValueError as error:
            raise InputError(f"{where}.{key}: {value!r}: {error}") from None


def _options(settings: Mapping[str, Any]) -> SlurmOptions:
    names = {"time": "minutes"}
    return SlurmOptions(**{names.get(key, key): _READERS[key](value) for key, value in settings.items()})


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or value.split() != [value]:
        raise ValueError("expected one word")
    return value


def _number(value: object) -> int:
    if type(value) is not int or value < 1:
        raise ValueError("expected a whole number above 0")
    return value


def _gpus(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("expected a number of GPUs")
    return value


def _minutes(value: object) -> int:
    """Slurm's own forms: MINUTES, MINUTES:SECONDS, HOURS:MINUTES:SECONDS, DAYS-HOURS[:MINUTES[:SECONDS]]."""
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None:  # YAML makes a number of a bare 12:00:00, and nobody knows of what
        raise ValueError("expected a time in quotes, such as '12:00:00', '2-00:00:00' or '90' (minutes)")
    parts = [int(part) for part in found["parts"].split(":")]
    if found["days"] is not None:
        days, hours, minutes, seconds = int(found["days"]), *[*parts, 0, 0][:3]
    else:
        days, (hours, minutes, seconds) = 0, {1: [0, *parts, 0], 2: [0, *parts], 3: parts}[len(parts)]
    return ceil(days * 1440 + hours * 60 + minutes + seconds / 60)


def _memory(value: object) -> str:
    if not _MEMORY.fullmatch(str(value)):
        raise ValueError("expected megabytes, or a size such as 32G")
    return str(value)


def _lines(value: object) -> tuple[str, ...]:
    lines = [value] if isinstance(value, str) else value
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ValueError("expected a list of lines of shell")
    return tuple(lines)


def _parameters(value: object) -> dict[str, str | bool]:
    if not isinstance(value, dict):
        raise ValueError("expected a mapping such as {constraint: a100}")
    for key in value:
        name = str(key).replace("_", "-")
        if name in _OURS:
            raise ValueError(f"{key} is for en-bench to set")
        if name in _OWN_KEYS:
            raise ValueError(f"{key} has a key of its own: give slurm.{_OWN_KEYS[name]}")
    return {str(key).replace("_", "-"): text if isinstance(text, bool) else str(text) for key, text in value.items()}


_OURS = (
    *("signal", "array", "requeue", "no-requeue", "nodes", "ntasks", "ntasks-per-node", "job-name"),
    *("output", "error", "open-mode", "chdir", "wrap", "wait"),
)
_OWN_KEYS = {
    **{key: key for key in ("partition", "account", "qos", "time")},
    "mem": "memory",
    "cpus-per-task": "cpus_per_task",
    "gpus-per-node": "gpus_per_node",
}

_READERS: dict[str, Callable[[object], Any]] = {
    "partition": _text,
    "account": _text,
    "qos": _text,
    "time": _minutes,
    "memory": _memory,
    "cpus_per_task": _number,
    "gpus_per_node": _gpus,
    "at_once": _number,
    "signal_seconds": _number,
    "setup": _lines,
    "parameters": _parameters,
}


def leaves_gpus_open(cell: Cell, options: SlurmOptions) -> bool:
    """Whether a training that takes GPUs where it finds some gets a job that asks for none."""
    trainer: Config = cell.config.get("trainer") or {}
    asked = any(name == "gres" or name.startswith("gpus") for name in options.parameters)
    return options.gpus_per_node is None and not asked and str(trainer.get("accelerator") or "auto") == "auto"


def _ranks(cell: Cell, options: SlurmOptions) -> tuple[int, int, int | None]:
    """Nodes, ranks per node and GPUs per node that the trainer settings of `cell` ask for."""
    trainer: Config = cell.config.get("trainer") or {}
    devices, accelerator = trainer.get("devices", "auto"), str(trainer.get("accelerator", "auto"))
    nodes, gpus = trainer.get("num_nodes", 1), options.gpus_per_node
    if type(nodes) is not int or nodes < 1:
        raise InputError(f"{cell}: trainer.num_nodes is {nodes!r}: give a whole number above 0")
    if isinstance(devices, list):
        tasks = len(devices)
    elif str(devices) in ("auto", "-1", "None"):
        tasks = 1 if accelerator == "cpu" else gpus or 1
    elif str(devices).isdecimal() and int(devices) > 0:
        tasks = int(devices)
    else:
        raise InputError(f"{cell}: trainer.devices is {devices!r}: give a number, so that Slurm knows how many tasks")
    if gpus is None and accelerator in ("gpu", "cuda"):
        gpus = tasks
    if gpus and accelerator != "cpu" and tasks > gpus:
        raise InputError(f"{cell}: trainer.devices {tasks} on nodes with gpus_per_node {gpus}: give as many GPUs")
    return nodes, tasks, gpus

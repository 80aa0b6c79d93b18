"""Which GPUs there are for the slots of a matrix, and how many devices a cell wants, without importing torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from en_bench.errors import InputError
from en_bench.matrix.overlays import Config

VISIBLE = "CUDA_VISIBLE_DEVICES"
_THREADS = "OMP_NUM_THREADS"
_SECONDS_TO_LIST = 20.0


@dataclass(frozen=True)
class Slot:
    """A place for one process: its name for people, and the GPUs that it has, if there are any."""

    name: str
    gpus: tuple[str, ...] = ()


def choose_gpus(wanted: str | None) -> tuple[str, ...] | None:
    """The GPUs that `--gpus` names: a list such as `0,1,3`, `all` or `none`; without it all that are visible.

    None where there are none to see and nothing was said: nothing is to be set then. Raises InputError.
    """
    visible = _visible()
    if wanted is None:
        return visible or None
    if wanted == "cpu":
        raise InputError("--gpus cpu: give --gpus none to train on the CPU")
    if wanted == "none":
        return ()
    if wanted == "all":
        if not visible:
            raise InputError("--gpus all: no GPU is visible: see what nvidia-smi says, or leave the option out")
        return visible
    chosen = tuple(part.strip() for part in wanted.split(","))
    if not all(chosen) or len(set(chosen)) < len(chosen):
        raise InputError(f"--gpus {wanted}: give each GPU once, as in 0,1,3, or all, or none")
    unknown = [gpu for gpu in chosen if gpu not in visible]
    if unknown:
        there = ",".join(visible) or "none"
        raise InputError(f"--gpus {wanted}: no GPU {', '.join(unknown)} is visible here: there are {there}")
    return chosen


def _visible() -> tuple[str, ...]:
    """By the environment, which a job on a cluster sets, else by nvidia-smi."""
    told = os.environ.get(VISIBLE)
    if told is not None:
        return tuple(part.strip() for part in told.split(",") if part.strip() not in ("", "-1"))
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    try:
        listed = subprocess.run(
            [program, "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=_SECONDS_TO_LIST,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()  # installed, but there is no driver
    return tuple(line.strip() for line in listed.stdout.splitlines() if line.strip().isdecimal())


def make_slots(number: int | None, gpus: Sequence[str] | None) -> list[Slot]:
    """`number` slots, by default one per GPU, else one. Fewer slots than GPUs share them out, more share each."""
    if not gpus:
        return [Slot(str(index + 1)) for index in range(number or 1)]
    number = number or len(gpus)
    if number > len(gpus):
        shared = [(gpus[index % len(gpus)], index // len(gpus) + 1) for index in range(number)]
        return [Slot(f"GPU {gpu} #{place}", (gpu,)) for gpu, place in shared]
    each, more = divmod(len(gpus), number)
    ends = [each * (index + 1) + min(more, index + 1) for index in range(number)]
    groups = [tuple(gpus[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]
    return [Slot(f"GPU {','.join(group)}", group) for group in groups]


def slot_environment(slots: Sequence[Slot], gpus: Sequence[str] | None, threads: int | None) -> dict[str, str]:
    """What a process in these slots is to find in its environment beside what there is."""
    own: dict[str, str] = {}
    if gpus is not None:
        own[VISIBLE] = ",".join(gpu for slot in slots for gpu in slot.gpus)
        own["CUDA_DEVICE_ORDER"] = os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # the numbers of nvidia-smi
    if threads is not None:
        own[_THREADS] = str(threads)
    return own


def default_threads(slots: int, environment: Mapping[str, str] = os.environ) -> int | None:
    """CPU threads for each of several slots; None where the user has chosen, or one slot has all cores anyway."""
    if slots == 1 or _THREADS in environment:
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // slots)


def devices_wanted(config: Config) -> int | None:
    """How many devices a cell's training takes; None for all there are."""
    trainer = config.get("trainer")
    devices: object = trainer.get("devices") if isinstance(trainer, dict) else None
    if isinstance(devices, str):
        parts = [part.strip() for part in devices.split(",") if part.strip()]
        numbers = [int(part) for part in parts if part.isdecimal()]
        if "," not in devices and numbers:
            devices = numbers[0]
        elif len(numbers) == len(parts):
            devices = numbers
    if isinstance(devices, list) and devices:
        # They count what is visible: index 2 needs three.
        return max(len(devices), *(index + 1 for index in devices if isinstance(index, int)))
    return devices if isinstance(devices, int) and devices > 0 else None


def fitting_slots(slots: Sequence[Slot], free: Sequence[int], wanted: int | None) -> tuple[int, ...] | None:
    """Which of the `free` slots, the first that do, a cell gets that wants so many devices; None if it has to wait.

    GPUs that are shared by slots count once; without GPUs each slot counts as a device. A cell that wants more than
    there are gets all, and says itself what it lacks.
    """
    everything = {gpu for slot in slots for gpu in slot.gpus}
    if wanted is None:
        wanted = len(everything) or 1  # without GPUs Lightning takes one process
    wanted = min(wanted, len(everything) or len(slots))
    chosen: list[int] = []
    have: set[str | int] = set()
    for index in free:
        own: set[str | int] = set(slots[index].gpus) or {index}
        if have.isdisjoint(own) and len(have) < wanted:
            chosen.append(index)
            have |= own
    return tuple(sorted(chosen)) if len(have) >= wanted else None

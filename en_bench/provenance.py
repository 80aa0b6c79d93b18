"""Where a number comes from: versions, commit, device, time."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PACKAGES = ("en_bench", "torch", "torchvision", "timm", "lightning", "torchmetrics")


def versions() -> dict[str, str]:
    """Python's version and those of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if "torch" in sys.modules:  # its own word tells the build too, as in 2.15.0+cu132
        found["torch"] = str(sys.modules["torch"].__version__)
    return found


@cache
def commit() -> dict[str, Any]:
    """Commit of the checkout that the package lies in and whether the package differs from it; nulls outside.

    Asked once in a process, when it starts, since that is when the code was read.
    """
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
        return done.stdout.strip()

    try:
        # An installed copy inside somebody else's checkout (a venv, say) must not report that one's commit.
        git("ls-files", "--error-unmatch", str(Path(__file__).resolve()))
        # Of the package, untracked modules included: what else differs is not code that ran.
        return {"sha": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.SubprocessError):
        return {"sha": None, "dirty": None}


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's with the number of threads that torch uses."""
    import torch

    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    processor = f"{_processor()}, {torch.get_num_threads()} threads"
    return processor if device.type == "cpu" else f"{device.type} of {processor}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def now() -> str:
    """The time, UTC, to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")

"""Scripts of data_scripts called within the test's own process."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

Run = Callable[..., tuple[int, str, str]]


def caller(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> Run:
    """Calls the script with its arguments, with one worker unless told: exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = script.main(["--workers", "1", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def preparer(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> Run:
    """As `caller`, of raw files, target folder and further arguments."""
    call = caller(script, capsys)
    return lambda raw, out, *arguments: call("--raw", raw, "--out", out, *arguments)

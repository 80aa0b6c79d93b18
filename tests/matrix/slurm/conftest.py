"""Where no Slurm answers, programs that do in its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.matrix.slurm.programs import answer


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs in the place of Slurm's, which answer what a test has written into them."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    answer(programs, "true")
    return programs

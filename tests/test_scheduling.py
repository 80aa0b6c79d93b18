"""Which worker of xdist runs which test."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO

_TESTS = "import time\n" + "".join(f"def test_{number}(): time.sleep(0.2)\n" for number in range(4))


@pytest.mark.slow
def test_all_tests_on_the_cluster_go_to_one_worker_and_others_to_whoever_is_free(tmp_path: Path) -> None:
    for name in ("slurm/test_cells", "slurm/test_nodes", "resume/test_kills"):
        file = tmp_path / "tests" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(_TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "conftest.py").write_text("from tests.scheduling import pytest_xdist_make_scheduler\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-n", "2", "--dist", "loadgroup", "--import-mode=importlib"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        check=True,
    )
    ran = re.findall(r"^\[(gw\d)\] .* PASSED tests/(\w+)/", done.stdout, re.MULTILINE)
    assert len(ran) == 12
    (of_the_cluster,) = {worker for worker, folder in ran if folder == "slurm"}
    assert {worker for worker, folder in ran if folder == "resume"} - {of_the_cluster}

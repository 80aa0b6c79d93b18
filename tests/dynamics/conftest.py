from pathlib import Path

import pytest

from en_bench.cli import main
from tests.dynamics.runs import make_noisy_root, noisy_arguments


@pytest.fixture(scope="session")
def noisy(tmp_path_factory) -> Path:
    """A root with `a/train`, a quarter of whose given labels are wrong, and `a/val`."""
    return make_noisy_root(tmp_path_factory.mktemp("noisy"))


@pytest.fixture(scope="session")
def undisturbed(noisy, tmp_path_factory) -> Path:
    """The folder of a training that was never stopped."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert main(noisy_arguments(noisy, run)) == 0
    return run

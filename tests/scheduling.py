"""With `--dist loadgroup` all tests on the cluster go to one worker, so that one cluster serves them all.

xdist's own marks group nothing under pytest 9.2: https://github.com/pytest-dev/pytest-xdist/issues/1386
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

ON_THE_CLUSTER = "tests/slurm/"


class OneCluster(LoadScopeScheduling):
    """Each test by itself, but for those on the cluster, which come first: they take longest."""

    def _split_scope(self, nodeid: str) -> str:
        return ON_THE_CLUSTER if nodeid.startswith(ON_THE_CLUSTER) else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneCluster | None:
    return OneCluster(config, log) if config.getvalue("dist") == "loadgroup" else None

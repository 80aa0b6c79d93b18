import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from en_bench.matrix.plan import PlannedCell, plan
from en_bench.matrix.records import Record
from en_bench.matrix.spec import Spec, load_spec

HERE = Path(__file__).parent
TYPESET_TODAY = "d2" * 32


def digests(name: str) -> str | None:
    """The typeset training set lies here, as most records know it; the others do not."""
    return TYPESET_TODAY if name == "digits/typeset/train" else None


@pytest.fixture
def spec() -> Spec:
    return load_spec(HERE / "digits.yaml")


@pytest.fixture
def planned(spec: Spec) -> Sequence[PlannedCell]:
    """Made up: BatchNorm/typeset/2 is missing, ExemplarNorm/typeset/1 failed, ExemplarNorm/typeset/2 is stale."""
    records = [Record.from_json(raw) for raw in json.loads((HERE / "records.json").read_text())]
    return plan(spec, {record.id: record for record in records}, digests)

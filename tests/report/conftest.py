import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from en_bench.matrix.plan import PlannedCell, plan
from en_bench.matrix.records import Record
from en_bench.matrix.spec import Spec, load_spec

HERE = Path(__file__).parent
TODAY = {  # of the sets that lie here, as most records know them
    "digits/typeset/train": "d2" * 32,
    "web_images/train": "61e4332ae3ace8190df72341d04f9aea8afc9c3ae7cea0b44eeff9b5c1b4bd1b",
}


@pytest.fixture
def spec() -> Spec:
    return load_spec(HERE / "digits.yaml")


@pytest.fixture
def planned(spec: Spec) -> Sequence[PlannedCell]:
    """Made up: BatchNorm/typeset/2 is missing, ExemplarNorm/typeset/1 failed, ExemplarNorm/typeset/2 is stale."""
    records = [Record.from_json(raw) for raw in json.loads((HERE / "digits.json").read_text())]
    return plan(spec, {record.id: record for record in records}, TODAY.get)


@pytest.fixture
def paper_spec() -> Spec:
    return load_spec(HERE / "paper.yaml")


@pytest.fixture
def paper(paper_spec: Spec) -> Sequence[PlannedCell]:
    """Made up: one cell is missing, one failed, one is stale, and one validated on a part of a set."""
    records = [Record.from_json(json.loads(path.read_text())) for path in sorted((HERE / "records").glob("*.json"))]
    return plan(paper_spec, {record.id: record for record in records}, TODAY.get)

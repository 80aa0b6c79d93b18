import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from en_bench.data.manifest import Manifest, Shard, save_manifest
from en_bench.errors import InputError
from en_bench.matrix.overlays import merge
from en_bench.matrix.plan import Cell, State, cell_id, count_states, plan, plan_cells, without_places
from en_bench.matrix.records import Record
from en_bench.matrix.results import Results
from en_bench.matrix.spec import Spec, load_spec

MANIFEST = Manifest(
    folder=Path("data/digits/handwritten/train"),
    dataset="digits",
    split="train",
    classes=("0", "1"),
    columns=("given",),
    members=("image",),
    count=1000,
    skipped=0,
    shards=(Shard("digits-train-000000.tar", 1000, 10_240, "0" * 64),),
    index_sha256="0" * 64,
    inputs_sha256="0" * 64,
    seed=0,
    ignore_index=None,
    source={},
    image={},
    noise={},
)


def nowhere(name: str) -> str | None:
    return None


def record_of(spec: Spec, cell: Cell, status: str = "done") -> Record:
    part = {"set": f"digits/{cell.train}/train", "digest": "d1"}
    return Record(
        id=cell.id,
        spec=spec.name,
        status=status,
        norm=cell.norm,
        train=cell.train,
        seed=cell.seed,
        overlays=cell.config,
        log="log.txt",
        fit={"seed": cell.seed, "train": part, "val": {**part, "set": f"digits/{cell.train}/val"}, "metrics": {}},
        validate={
            label: {"set": f"digits/{label}/val", "digest": "d1", "n": 3, "metrics": {"top1": 0.5}}
            for label in spec.validate
        },
        targets={label: spec.target(label) for label in spec.validate},
    )


def states(spec: Spec, records: dict[str, Record], digests: Any = nowhere) -> list[str]:
    return [item.state.value for item in plan(spec, records, digests)]


@pytest.fixture
def spec(spec_file: Path) -> Spec:
    return load_spec(spec_file)


@pytest.fixture
def records(spec: Spec) -> dict[str, Record]:
    return {cell.id: record_of(spec, cell) for cell in plan_cells(spec)}


def test_results_without_their_training_count_for_nothing(spec: Spec, records: dict[str, Record]) -> None:
    """What the runner records when fit.json is damaged and the validations are still there."""
    first = next(iter(records))
    damaged = {**records, first: replace(records[first], status="failed", reason="changed", fit={})}
    item = plan(spec, damaged, nowhere)[0]
    assert (item.state, item.fresh) == (State.FAILED, frozenset())


def test_identity_is_the_hash_of_this_text() -> None:
    import hashlib

    canonical = '{"config":{"data":{"train":"a"},"lr":0.1},"seed":3}'
    expected = hashlib.sha256(canonical.encode()).hexdigest()[:16]
    assert cell_id({"lr": 0.1, "data": {"train": "a"}}, 3) == expected == "fc00d7a44a4dff24"


def test_identity_ignores_key_order_places_and_display() -> None:
    plain = {"model": {"lr": 0.1, "norm": "A"}, "data": {"train": "a"}}
    elsewhere = {
        "trainer": {"default_root_dir": "x", "logger": False, "enable_progress_bar": False},
        "data": {"workers": 4, "train": "a"},
        "model": {"norm": "A", "lr": 0.1},
    }
    assert cell_id(plain, 0) == cell_id(elsewhere, 0)
    assert elsewhere["data"] == {"workers": 4, "train": "a"}


NO_IDENTITY = {
    "seed_everything": 5,
    "data": {"workers": 9, "decoded_cache_mb": 1, "cache": "x", "cache_gb": 1, "on_change": "x"},
    "checkpoint": {"every_n_steps": 9, "every_minutes": 9},
    "dynamics": {"every_n_epochs": 9, "ratios": False},
    "trainer": {"default_root_dir": "x", "logger": False, "enable_progress_bar": False},
}


@pytest.mark.parametrize(
    "extra",
    [
        {section: value} if not isinstance(value, dict) else {section: {key: inner}}
        for section, value in NO_IDENTITY.items()
        for key, inner in (value.items() if isinstance(value, dict) else [("", None)])
    ],
    ids=str,
)
def test_what_makes_no_other_experiment(extra: dict[str, Any]) -> None:
    """A setting of these that became part of the identity would train all that is done again."""
    plain = {"data": {"train": "a"}, "trainer": {"max_epochs": 1}}
    assert cell_id(merge([plain, extra]), 0) == cell_id(plain, 0)
    assert cell_id(extra, 0) == cell_id({}, 0)


def test_the_seed_of_a_fit_is_part_of_what_it_is() -> None:
    """Of a matrix the cell's seed is: a fit outside of one has no other."""
    assert without_places({"seed_everything": 1}) != without_places({"seed_everything": 2})


@pytest.mark.parametrize(
    "other",
    [
        {"lr": 0.2},
        {"lr": 0.1, "data": {"train": "b"}},
        {"trainer": {"max_epochs": 1}},
        {"lr": 0.1, "data": {"root": "x"}},
    ],
)
def test_identity_sees_every_other_setting(other: dict[str, Any]) -> None:
    assert cell_id(other, 0) != cell_id({"lr": 0.1}, 0)
    assert cell_id(other, 0) != cell_id(other, 1)


def test_identity_ignores_labels_and_file_names(spec_file: Path) -> None:
    before = [cell.id for cell in plan_cells(load_spec(spec_file))]
    (spec_file.parent / "norm/en.yaml").rename(spec_file.parent / "norm/other.yaml")
    text = spec_file.read_text().replace("ExemplarNorm: norm/en.yaml", "EN: norm/other.yaml")
    spec_file.write_text(text.replace("name: digits", "name: other"))
    assert [cell.id for cell in plan_cells(load_spec(spec_file))] == before


def test_cells_are_the_product_and_overlays_add_up_in_order(spec: Spec) -> None:
    cells = plan_cells(spec)
    assert len({cell.id for cell in cells}) == len(cells) == 8
    assert str(cells[2]) == "ExemplarNorm/handwritten/0"
    assert cells[2].config == {
        "seed_everything": 0,
        "trainer": {"max_epochs": 2, "devices": 1},
        "data": {
            "workers": 2,
            "train": "digits/handwritten/train",
            "val": "digits/handwritten/val",
            "val_labels": "clean",
        },
        "model": {"lr": 0.1, "norm": {"class_path": "en_bench.norms.ExemplarNorm"}},
    }


def test_two_names_for_one_run_are_refused(spec_file: Path) -> None:
    spec_file.write_text(spec_file.read_text().replace("norm/en.yaml", "norm/bn.yaml"))
    with pytest.raises(InputError, match="BatchNorm/handwritten/0 and ExemplarNorm/handwritten/0 are the same run"):
        plan_cells(load_spec(spec_file))


def test_without_records_all_is_missing(spec: Spec) -> None:
    assert states(spec, {}) == ["missing"] * 8


def test_without_data_records_are_believed(spec: Spec, records: dict[str, Record]) -> None:
    assert states(spec, records) == ["done"] * 8
    assert count_states(plan(spec, records, nowhere)) == "done 8, missing 0, failed 0"


def test_same_manifests_leave_it_done(spec: Spec, records: dict[str, Record]) -> None:
    assert states(spec, records, lambda name: "d1") == ["done"] * 8


def test_another_training_manifest_makes_its_cells_stale(spec: Spec, records: dict[str, Record]) -> None:
    def digests(name: str) -> str:
        return "d2" if name == "digits/typeset/train" else "d1"

    planned = plan(spec, records, digests)
    assert [item.state for item in planned] == [State.DONE] * 4 + [State.STALE] * 4
    assert [item.result("handwritten") is None for item in planned] == [False] * 4 + [True] * 4
    assert count_states(planned) == "done 4, missing 4, failed 0"


def test_another_validation_manifest_spoils_only_that_result(spec: Spec, records: dict[str, Record]) -> None:
    spec = replace(spec, validate={**spec.validate, "other": spec.validate["typeset"]})
    records = {
        cell.id: replace(
            record_of(spec, cell),
            validate={**records[cell.id].validate, "other": {**records[cell.id].validate["typeset"], "set": "other"}},
        )
        for cell in plan_cells(spec)
    }
    item = plan(spec, records, lambda name: "d2" if name == "other" else "d1")[0]
    assert item.state is State.STALE
    assert item.fresh == {"handwritten", "typeset"}


def test_failed_record_is_failed_and_keeps_what_it_has(spec: Spec, records: dict[str, Record]) -> None:
    cell = plan_cells(spec)[0]
    whole = records[cell.id]
    records[cell.id] = replace(whole, status="failed", validate={"typeset": whole.validate["typeset"]})
    item = plan(spec, records, nowhere)[0]
    assert item.state is State.FAILED
    assert item.result("typeset") is not None
    assert item.result("handwritten") is None


def test_missing_validation_is_missing(spec: Spec, records: dict[str, Record]) -> None:
    cell = plan_cells(spec)[0]
    whole = records[cell.id]
    records[cell.id] = replace(whole, validate={"typeset": whole.validate["typeset"]})
    assert states(spec, records)[:2] == ["missing", "done"]


def test_result_of_another_set_under_the_same_label_is_not_taken(spec_file: Path, records: dict[str, Record]) -> None:
    with spec_file.open("a") as stream:
        stream.write("validate: {typeset: {data: {val: digits/other/val, val_labels: clean}}}\n")
    assert states(load_spec(spec_file), records) == ["missing"] * 8


@pytest.mark.parametrize("verb", ["plan", "status"])
def test_a_thousand_cells_need_neither_torch_nor_numpy_nor_data(spec_file: Path, verb: str) -> None:
    spec_file.write_text(spec_file.read_text().replace("[0, 1]", json.dumps(list(range(250)))))
    spec = load_spec(spec_file)
    results = Results(Path("results/digits"))
    for cell in plan_cells(spec)[::100]:
        record = record_of(spec, cell)
        cost = {"images_per_second": 100.0, "parameters": 7}
        results.save(replace(record, fit={**record.fit, "cost": cost, "device": "H100", "ranks": 1}))
    code = (
        "import sys; from en_bench.cli import main\n"
        f"assert main(['matrix', {verb!r}, {str(spec_file)!r}]) == 0\n"
        "heavy = {'torch', 'lightning', 'numpy', 'scipy', 'matplotlib', 'jinja2'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    # Of the one set that is here there is but the manifest: whoever looked into its index or shards would fail.
    shutil.rmtree("data")
    Path("data/digits/handwritten/train").mkdir(parents=True)
    save_manifest(MANIFEST)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    stale = 5  # of the records that name another digest of the set
    assert done.stdout.splitlines()[-1] == f"done {10 - stale}, missing {990 + stale}, failed 0"

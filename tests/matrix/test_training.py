from pathlib import Path

import pytest
import yaml

from en_bench.cli import main
from en_bench.files import write_json
from en_bench.matrix.commands import fit_command
from en_bench.matrix.plan import Cell, cell_id, plan_cells, without_seed_and_places
from en_bench.matrix.spec import load_spec
from en_bench.matrix.training import claim_training, finished_fit, holds, make_room, trained_so_far
from tests.conftest import REPO

RESOLVED = {
    "model": {
        "lr": 0.1,
        "warmup_epochs": 1.0,
        "norm": {"class_path": "en_bench.norms.ExemplarNorm", "init_args": {"reduction": 32, "normalizers": ["in"]}},
    },
    "trainer": {"devices": "1", "fast_dev_run": False, "logger": None, "default_root_dir": "hand/x"},
    "data": {"train": "a/train", "val": "a/val", "workers": 0, "root": "/data"},
    "seed_everything": 3,
}


@pytest.mark.parametrize(
    ("wanted", "held"),
    [
        ({}, True),
        ({"model": {"lr": 0.1}}, True),
        ({"model": {"lr": 0.2}}, False),
        ({"model": {"warmup_epochs": 1}}, True),
        ({"model": {"warmup_epochs": True}}, False),
        ({"model": {"width": 1}}, False),
        ({"model": {"norm": "ExemplarNorm"}}, True),
        ({"model": {"norm": "GroupNorm"}}, False),
        ({"model": {"norm": "Norm"}}, False),
        ({"model": {"norm": {"class_path": "ExemplarNorm"}}}, True),
        ({"model": {"norm": {"class_path": "en_bench.norms.ExemplarNorm", "init_args": {"reduction": 32.0}}}}, True),
        ({"model": {"norm": {"class_path": "ExemplarNorm", "init_args": {"reduction": 16}}}}, False),
        ({"model": {"norm": {"class_path": "BatchNorm"}}}, False),
        ({"model": {"norm": {"init_args": {"normalizers": ["in"]}}}}, True),
        ({"model": {"norm": {"init_args": {"normalizers": ["in", "ln"]}}}}, False),
        ({"model": {"norm": {"init_args": {"normalizers": "in"}}}}, False),
        ({"model": {"lr": {"x": 1}}}, False),
        ({"trainer": {"fast_dev_run": False}}, True),
        ({"trainer": {"fast_dev_run": 0}}, False),
        ({"trainer": {"logger": None}}, True),
        ({"trainer": {"logger": {}}}, True),
        ({"data": {"train": "b/train"}}, False),
        ({"trainer": {"devices": 1}}, True),
        ({"trainer": {"devices": "1"}}, True),
        ({"trainer": {"devices": 2}}, False),
    ],
)
def test_a_resolved_configuration_holds_the_overlays_values(wanted: dict[str, object], held: bool) -> None:
    assert holds(RESOLVED, wanted) is held


@pytest.mark.parametrize("name", ["small_batch", "cifar10_symmetric"])
def test_what_the_real_parser_resolves_holds_the_overlays_values(name, tmp_path, capsys):
    """Else a training whose runner was killed just before its mark would be moved aside, and done again."""
    spec = load_spec(REPO / "experiments" / f"{name}.yaml")
    for cell in {cell.norm: cell for cell in plan_cells(spec)}.values():
        assert main([*fit_command(cell, tmp_path / "run", None), "--print_config"]) == 0
        assert holds(yaml.safe_load(capsys.readouterr().out), without_seed_and_places(cell.config))


def write_fit(run: Path, seed: int = 3, config: object = RESOLVED) -> None:
    part = {"set": "a/train", "digest": "d"}
    write_json(
        run / "fit.json", {"seed": seed, "train": part, "val": part, "metrics": {}, "cost": {}, "config": config}
    )


@pytest.fixture
def cell() -> Cell:
    # Seed, workers and display differ from what was resolved: none of them makes another experiment.
    config = {"model": {"lr": 0.1}, "data": {"workers": 4}, "trainer": {"logger": False}}
    return Cell(cell_id(config, 3), "EN", "a", 3, (), config)


def test_the_mark_decides_and_without_it_the_configuration(tmp_path: Path, cell: Cell) -> None:
    assert finished_fit(tmp_path, cell) is None
    write_fit(tmp_path)
    assert finished_fit(tmp_path, cell) is not None
    write_fit(tmp_path, seed=4)
    assert finished_fit(tmp_path, cell) is None
    for config in ("text", {**RESOLVED, "model": {"lr": 0.2}}, None):
        write_fit(tmp_path, config=config)
        assert finished_fit(tmp_path, cell) is None
    claim_training(tmp_path, cell, {})
    assert finished_fit(tmp_path, cell) is not None
    write_json(tmp_path / "cell.json", {"id": "another"})
    write_fit(tmp_path)
    assert finished_fit(tmp_path, cell) is None


def test_overlays_choice_of_a_seed_yields_to_the_cells(tmp_path: Path, cell: Cell) -> None:
    config = {**cell.config, "seed_everything": 0}
    write_fit(tmp_path)
    assert finished_fit(tmp_path, Cell(cell_id(config, 3), "EN", "a", 3, (), config)) is not None


def test_room_is_made_without_losing_a_finished_training(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "x"
    assert make_room(run) is None
    for number in (1, 2):
        write_fit(run)
        (run / "log.txt").write_text("")
        assert f"moved to x.set-aside-{number}" in str(make_room(run))
    (run / "log.txt").write_text("")
    assert make_room(run) is None
    assert sorted(path.name for path in run.parent.iterdir()) == ["x", "x.set-aside-1", "x.set-aside-2"]
    assert not list(run.iterdir())


@pytest.mark.parametrize("remains", [(), (".lock", "progress.json", ".progress.json.new")])
def test_a_folder_that_nothing_was_written_to_is_no_training(tmp_path: Path, remains: tuple[str, ...]) -> None:
    run = tmp_path / "x"
    run.mkdir()
    for name in remains:
        (run / name).touch()
    assert make_room(run) is None
    assert [path.name for path in tmp_path.iterdir()] == ["x"] and not list(run.iterdir())


def test_how_far_a_training_is_whose_folder_refuses_ends_no_run(tmp_path: Path, cell: Cell) -> None:
    assert trained_so_far(tmp_path / ("x" * 300), cell, lambda name: None) is None

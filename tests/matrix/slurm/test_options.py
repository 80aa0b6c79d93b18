"""What cells ask of Slurm."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from en_bench.cli import main
from en_bench.errors import InputError
from en_bench.matrix.plan import Cell, plan_cells
from en_bench.matrix.slurm.options import Shape, SlurmOptions, parse_flags, parse_slurm
from en_bench.matrix.spec import load_spec


def cell(trainer: dict[str, Any] | None = None, norm: str = "EN") -> Cell:
    return Cell("0" * 16, norm, "a", 0, (), {} if trainer is None else {"trainer": trainer})


def test_settings_for_all_by_pattern_and_by_flag() -> None:
    raw = {
        "partition": "gpu",
        "time": "12:00:00",
        "memory": "32G",
        "cpus_per_task": 8,
        "gpus_per_node": 1,
        "signal_seconds": 60,
        "setup": ["module load cuda"],
        "parameters": {"constraint": "a100", "exclusive": True},
        "cells": {"EN/*": {"time": "1-12", "qos": "long"}, "*/a/*": {"qos": "short"}},
    }
    section = parse_slurm(raw, "spec: slurm")
    for_all = SlurmOptions(
        "gpu",
        minutes=720,
        memory="32G",
        cpus_per_task=8,
        gpus_per_node=1,
        signal_seconds=60,
        setup=("module load cuda",),
        parameters={"constraint": "a100", "exclusive": True},
    )
    assert section.shape(cell(norm="BN"), {}) == Shape(SlurmOptions(**{**asdict(for_all), "qos": "short"}), 1, 1)
    found = section.shape(cell(), parse_flags(["partition=big", "time=30", "gpus_per_node=4"]))
    assert (found.options.partition, found.options.minutes, found.options.qos) == ("big", 30, "short")
    assert found.tasks_per_node == 4  # without a number of devices Lightning takes all there are


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("1:30", 2), ("12:00:00", 720), ("1-0", 1440), ("2-12:30", 3630), ("1-0:0:1", 1441)],
)
def test_times_as_slurm_writes_them(text: str, minutes: int) -> None:
    assert parse_slurm({"time": text, "signal_seconds": 10}, "").shape(cell(), {}).options.minutes == minutes


@pytest.mark.parametrize(
    ("trainer", "gpus_given", "expected"),
    [
        ({"devices": 1}, None, (1, 1, None)),
        ({"devices": 4, "num_nodes": 2, "accelerator": "gpu"}, None, (2, 4, 4)),
        ({"devices": "2", "accelerator": "cpu"}, None, (1, 2, None)),
        ({"devices": [0, 1], "accelerator": "gpu"}, 2, (1, 2, 2)),
        ({"devices": "auto"}, 8, (1, 8, 8)),
        ({"devices": -1, "accelerator": "cpu"}, 8, (1, 1, 8)),
        (None, None, (1, 1, None)),
    ],
)
def test_tasks_follow_the_trainer(trainer: Any, gpus_given: int | None, expected: Any) -> None:
    settings = {} if gpus_given is None else {"gpus_per_node": gpus_given}
    shape = parse_slurm(settings, "").shape(cell(trainer), {})
    assert (shape.nodes, shape.tasks_per_node, shape.options.gpus_per_node) == expected
    assert shape.tasks == shape.nodes * shape.tasks_per_node


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ({"partitions": "gpu"}, "s: unknown key 'partitions'; did you mean 'partition'?"),
        ({"time": 43200}, r"s.time: 43200: expected a time in quotes, such as '12:00:00'"),
        ({"time": "soon"}, "s.time: 'soon': expected a time"),
        ({"memory": "much"}, "s.memory: 'much': expected megabytes"),
        ({"cpus_per_task": 0}, "s.cpus_per_task: 0: expected a whole number above 0"),
        ({"partition": "a b"}, "s.partition: 'a b': expected one word"),
        ({"setup": [1]}, "s.setup: .1.: expected a list of lines"),
        ({"parameters": {"signal": "USR1@5"}}, "s.parameters: .*: signal is for en-bench to set"),
        ({"parameters": {"mem": "3G"}}, "s.parameters: .*: mem has a key of its own: give slurm.memory"),
        ({"cells": {"EN/*": {"tme": "1"}}}, r"s.cells.EN/\*: unknown key 'tme'; did you mean 'time'?"),
        ({"cells": {"EN/*": "gpu"}}, r"s.cells.EN/\*: expected a mapping"),
        ({"cells": []}, "s.cells: expected"),
        ("gpu", "s: expected a mapping"),
    ],
)
def test_mistakes_are_told_with_key_and_cure(raw: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        parse_slurm(raw, "s")


@pytest.mark.parametrize(
    ("trainer", "told"),
    [
        ({"devices": "some"}, "EN/a/0: trainer.devices is 'some'"),
        ({"num_nodes": 0}, "EN/a/0: trainer.num_nodes is 0"),
        ({"devices": 4}, "EN/a/0: trainer.devices 4 on nodes with gpus_per_node 2"),
    ],
)
def test_settings_that_tell_no_number_of_tasks(trainer: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        parse_slurm({"gpus_per_node": 2}, "s").shape(cell(trainer), {})


def test_flags_that_are_none() -> None:
    with pytest.raises(InputError, match="--slurm gpu: expected KEY=VALUE"):
        parse_flags(["gpu"])
    with pytest.raises(InputError, match="--slurm: unknown key 'gpus'"):
        parse_flags(["gpus=2"])


def test_where_a_cell_runs_makes_no_other_cell(spec_file: Path) -> None:
    before = load_spec(spec_file)
    spec_file.write_text(spec_file.read_text() + "\nslurm: {partition: gpu, cells: {'*/0': {time: '9'}}}\n")
    spec = load_spec(spec_file)
    assert [found.id for found in plan_cells(spec)] == [found.id for found in plan_cells(before)]
    assert {spec.slurm.shape(found, {}).options.minutes for found in plan_cells(spec)} == {9, None}
    spec_file.write_text(spec_file.read_text().replace("partition", "partiton"))
    with pytest.raises(InputError, match=r"digits.yaml: slurm: unknown key 'partiton'; did you mean 'partition'"):
        load_spec(spec_file)


@pytest.mark.parametrize(("minutes", "seconds"), [("1", 60), ("2", 120), ("1:30", 600)])
def test_a_job_that_would_be_told_to_stop_when_it_starts(minutes: str, seconds: int) -> None:
    section = parse_slurm({"time": minutes, "signal_seconds": seconds}, "s")
    with pytest.raises(InputError, match=r"EN/a/0: slurm.time is \d min, and .* give more time, or fewer seconds"):
        section.shape(cell(), {})
    assert section.shape(cell(), {"time": "11"}).options.minutes == 11


def test_the_scripts_of_a_dry_run_leave_nothing_behind(spec_file: Path, tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("submitit")
    results = tmp_path / "results"
    assert main(["matrix", "run", str(spec_file), "--results", str(results), "--launcher", "slurm", "--dry-run"]) == 0
    assert "#SBATCH --signal=B:USR1@120" in capsys.readouterr().out
    assert not results.exists()

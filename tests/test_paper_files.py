"""The files of the paper's tables: what their cells are, what is reported beside them. Nothing is trained."""

import re
from pathlib import Path

import pytest
import yaml

from en_bench.cli import main
from en_bench.matrix.overlays import merge
from en_bench.matrix.plan import plan_cells
from en_bench.matrix.spec import load_spec
from tests.conftest import REPO
from tests.test_recipes import made, trainer_of

EXPERIMENTS = REPO / "experiments"


def test_every_point_of_the_small_batch_grid(shards, tmp_path):
    spec = load_spec(EXPERIMENTS / "small_batch.yaml")
    cells = {cell.train: cell for cell in plan_cells(spec) if cell.norm == "BatchNorm"}
    assert len(cells) == 9
    for label, cell in cells.items():
        ranks, per_rank = map(int, label.split("x"))
        task, data, options = made(cell.config, shards, backbone="cifar/resnet8")
        data.open("fit")
        trainer = trainer_of(options, tmp_path)
        assert (trainer.num_devices, data.batch_size, trainer.accumulate_grad_batches) == (ranks, per_rank, 1)
        assert task.optimisation.lr == pytest.approx(0.1 * ranks * per_rank / 256)
        task.check(data, trainer)  # the learning rate is for just this batch
        if ranks == 8:  # as the file's header says for one GPU
            task.check(data, trainer_of(options, tmp_path, devices=1, accumulate_grad_batches=8))


PAPER = (
    "imagenet",
    "imagenet_short",
    "imagenet_shufflenet",
    "webvision",
    "webvision_selected",
    "imagenet_webvision",
    "cifar",
    "fine_grained",
    "small_batch",
    "ablation",
    "finetune",
)


@pytest.mark.parametrize("name", PAPER)
def test_every_cell_is_a_task_with_a_normaliser_that_can_be_made(name, shards):
    spec = load_spec(EXPERIMENTS / f"{name}.yaml")
    assert spec.tuning == dict.fromkeys(spec.norms, 1)
    norms = {}
    for cell in (cell for cell in plan_cells(spec) if cell.seed == 0):
        task, _, _ = made(cell.config, shards)
        assert task.norm is not None and task.lr_batch is not None
        norms[cell.norm] = (repr(task.norm(64)), task.attention)
    assert len(set(norms.values())) == len(spec.norms), "each row is another network"


def test_the_ablations_are_the_papers():
    """Which arguments of ExemplarNorm each row changes."""
    spec = load_spec(EXPERIMENTS / "ablation.yaml")
    cells = {cell.norm: cell.config["model"]["norm"].get("init_args", {}) for cell in plan_cells(spec)}
    changed = [next(iter(arguments), None) for name, arguments in cells.items() if name.startswith("EN")]
    assert {name for name in changed if name} == {
        *("reduce", "activation", "shared_affine", "gate", "hidden", "reduction", "normalizers")
    }
    sweeps = {key: [a[key] for a in cells.values() if key in a] for key in ("hidden", "reduction", "gate")}
    assert sweeps == {"hidden": [10, 25, 100], "reduction": [8, 16, 64], "gate": ["mlp2", "mlp3"]}


GRID = ["8x32", "8x16", "8x8", "8x4", "8x2", "1x16", "1x32", "8x1", "1x8"]
# The README of SwitchNorm and, in the last row and where two numbers stand, that of SparseSwitchNorm, typed in a second
# time. SwitchNorm's 75.0 is of IN and LN alone.
ROWS: dict[str, list[list[float]]] = {
    "BatchNorm": [[76.4], [76.3], [75.2, 75.5], [72.7], [65.3], [76.2], [76.5], [], [75.4]],
    "GroupNorm": [[75.9], [75.8], [76.0], [75.8], [75.9], [75.9], [75.8], [75.5], [75.5]],
    "SwitchNorm": [[76.9], [76.7], [76.7], [75.9], [75.6], [76.3], [76.6], [75.0], [75.9]],
    "SparseSwitchNorm": [[77.2], [77.0], [76.8], [76.1], [75.9], [], [], [], []],
}


def test_reported_numbers_of_small_batches_are_those_of_the_sources():
    found: dict[tuple[str, str], list[float]] = {}
    for one in load_spec(EXPERIMENTS / "small_batch.yaml").reported:
        assert (one.target, one.metric, one.selection) == ("imagenet", "top1", "last")
        without_bn = (one.norm, one.train) == ("SwitchNorm", "8x1")
        if one.value is None:
            assert (one.norm, one.train, one.printed) == ("BatchNorm", "8x1", "diverges")
            found["BatchNorm", "8x1"] = []
            continue
        assert one.tolerance == (None if without_bn else pytest.approx(0.005)), "nothing to judge another normaliser by"
        assert one.printed == f"{100 * one.value:.1f}", "one digit, as in the source"
        assert without_bn == ("without BN" in one.source)
        of_ssn = one.norm == "SparseSwitchNorm" or (one.norm, one.train, one.value) == ("BatchNorm", "8x8", 0.755)
        assert one.source.startswith("Sparse_SwitchNorm README" if of_ssn else "Switchable-Normalization README")
        found.setdefault((one.norm, one.train), []).append(one.value)
    expected = {(norm, at): values for norm, row in ROWS.items() for at, values in zip(GRID, row, strict=True)}
    read = {key for key, values in expected.items() if values} | {("BatchNorm", "8x1")}
    assert found == {key: pytest.approx([v / 100 for v in expected[key]]) for key in read}


def test_reported_numbers_stand_wherever_the_training_is_theirs():
    """ImageNet, ResNet-50, 8 x 32, 100 epochs; and nowhere else."""
    whole = {norm: row[0] for norm, row in ROWS.items()}
    whole["BatchNorm"] = [76.55, *whole["BatchNorm"]]  # mmpretrain's, of the same recipe
    meant = {"imagenet": whole, "imagenet_webvision": whole, "ablation": {"BatchNorm": whole["BatchNorm"]}}
    for name in PAPER:
        if name == "small_batch":
            continue
        found: dict[str, list[float]] = {}
        for one in load_spec(EXPERIMENTS / f"{name}.yaml").reported:
            assert (one.train, one.target, one.tolerance) == ("imagenet", "imagenet", pytest.approx(0.005))
            assert one.value is not None
            found.setdefault(one.norm, []).append(one.value)
        assert found == {norm: pytest.approx([v / 100 for v in row]) for norm, row in meant.get(name, {}).items()}


def test_every_file_of_reported_numbers_is_used_and_says_where_it_was_read():
    used = {
        Path(part).name
        for name in PAPER
        for part in as_list(yaml.safe_load((EXPERIMENTS / f"{name}.yaml").read_text()).get("reported", []))
    }
    files = {path.name: yaml.safe_load(path.read_text()) for path in (EXPERIMENTS / "reported").glob("*.yaml")}
    assert used == set(files)
    assert all(" " in content["source"] for content in files.values())


def as_list(part: object) -> list[str]:
    return part if isinstance(part, list) else [str(part)]


@pytest.mark.parametrize("name", PAPER)
def test_what_the_head_of_each_file_says(name):
    path = EXPERIMENTS / f"{name}.yaml"
    spec, text = load_spec(path), path.read_text()
    assert spec.name == name and spec.title != name and spec.seeds == (0, 1, 2), "three seeds make intervals and tests"
    head = " ".join(line.removeprefix("#").strip() for line in text.partition("\nname:")[0].splitlines())
    assert "Prepare: " in head
    said = [int(number) for number in re.findall(r"\d+", head.partition("Cost: ")[2].partition("Prepare: ")[0])]
    cells = len(spec.norms) * len(spec.train) * len(spec.seeds)
    assert cells in said or said.count(cells // 2) == 2, "how many trainings, of all or of each of two sets"
    data = [cell.config["data"]["train"].partition("/")[0] for cell in plan_cells(spec)]
    scripts = {"cub200": "CUB-200", "cars": "Stanford Cars", "aircraft": "FGVC-Aircraft"}
    assert all(scripts.get(one, f"data/{one}") in head for one in data)


def test_what_is_transferred_without_labels_and_what_is_held_out():
    specs = {name: load_spec(EXPERIMENTS / f"{name}.yaml") for name in PAPER}
    adapted = {name: spec.adapted for name, spec in specs.items() if spec.adapted}
    assert adapted == {"imagenet_webvision": {"imagenet": "imagenet/train", "webvision": "webvision/train"}}
    shares = {name: {cell.config["data"].get("held_out", 0) for cell in plan_cells(s)} for name, s in specs.items()}
    assert shares == {name: {0.05 if name == "webvision_selected" else 0} for name in PAPER}
    whole, selected = (
        {str(cell): merge([cell.config, {"data": {"held_out": 0.05}}]) for cell in plan_cells(specs[name])}
        for name in ("webvision", "webvision_selected")
    )
    assert whole == selected, "but for that the same trainings"


SPECS = sorted(path for path in EXPERIMENTS.glob("*.yaml") if path.stem != "base")


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_file_plans_where_no_data_are(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EN_BENCH_SHARDS", raising=False)
    assert main(["matrix", "plan", str(path)]) == 0
    out, err = capsys.readouterr()
    cells = plan_cells(load_spec(path))
    listed = [line.split()[:3] for line in out.splitlines()[: len(cells)]]
    assert listed == [[cell.id, str(cell), "missing"] for cell in cells]
    assert f"= {len(cells)} trainings" in out and out.endswith(f"done 0, missing {len(cells)}, failed 0\n")
    assert "Traceback" not in out + err and not any(tmp_path.iterdir())

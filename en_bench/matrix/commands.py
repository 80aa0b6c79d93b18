"""The commands of a cell, as anyone could type them."""

from pathlib import Path

from en_bench.matrix.overlays import flag, shown
from en_bench.matrix.plan import Cell
from en_bench.matrix.spec import Spec


def fit_command(cell: Cell, run: Path, data_root: Path | None) -> list[str]:
    """The arguments of `en-bench` that train `cell` in the folder `run`, from the checkpoint there if there is one."""
    overlays = [part for overlay in cell.overlays for part in overlay.flags()]
    seed_and_place = ["--seed_everything", str(cell.seed), "--trainer.default_root_dir", shown(run)]
    return ["fit", *overlays, *seed_and_place, "--ckpt_path", "last", *_root(data_root)]


def validate_command(spec: Spec, label: str, run: Path, data_root: Path | None) -> list[str]:
    """The arguments of `en-bench` that validate the training in `run` on validation set `label`."""
    trained = ["--config", shown(run / "config.yaml"), "--ckpt_path", shown(checkpoint_path(run))]
    target = [part for key, value in spec.target(label).items() for part in flag(key, value)]
    return ["validate", *trained, *target, "--result", shown(result_path(run, label)), *_root(data_root)]


def cell_commands(spec: Spec, cell: Cell, run: Path, data_root: Path | None) -> list[list[str]]:
    """All commands of a cell: its training and each validation."""
    validations = [validate_command(spec, label, run, data_root) for label in spec.validate]
    return [fit_command(cell, run, data_root), *validations]


def checkpoint_path(run: Path) -> Path:
    return run / "checkpoints" / "last.ckpt"


def result_path(run: Path, label: str) -> Path:
    return run / "validate" / f"{label}.json"


def _root(data_root: Path | None) -> list[str]:
    return [] if data_root is None else ["--data.root", shown(data_root)]

"""The commands of a cell, as anyone could type them."""

from pathlib import Path

from en_bench.data.places import Place
from en_bench.matrix.adapting import adapted_path, recalibrated_checkpoint, recalibration_path
from en_bench.matrix.overlays import flag, shown
from en_bench.matrix.plan import Cell
from en_bench.matrix.spec import Spec


def fit_command(cell: Cell, run: Path, data_root: Place | None) -> list[str]:
    """The arguments of `en-bench` that train `cell` in the folder `run`, from the checkpoint there if there is one."""
    overlays = [part for overlay in cell.overlays for part in overlay.flags()]
    seed_and_place = ["--seed_everything", str(cell.seed), "--trainer.default_root_dir", shown(run)]
    return ["fit", *overlays, *seed_and_place, "--ckpt_path", "last", *_root(data_root)]


def validate_command(spec: Spec, label: str, run: Path, data_root: Place | None) -> list[str]:
    """The arguments of `en-bench` that validate the training in `run` on validation set `label`."""
    return _validation(spec, label, run, checkpoint_path(run), result_path(run, label), data_root)


def adapt_commands(spec: Spec, label: str, run: Path, data_root: Place | None) -> tuple[list[str], list[str]]:
    """The arguments of `en-bench` that make a checkpoint with running moments of unlabelled images, and validate it.

    The moments are those of each image of the split once, seen as validation sees images. Where the network has no
    running moments the first command says so and makes no checkpoint, and the second has nothing to do.
    """
    adapted = recalibrated_checkpoint(run, label)
    recalibrate = [
        *("norms", "recalibrate", *_trained(run, checkpoint_path(run)), "--out", shown(adapted)),
        *("--split", "val", *flag("data.val", spec.adapted[label]), "--if_none", "skip"),
        *("--result", shown(recalibration_path(run, label)), *_root(data_root)),
    ]
    return recalibrate, _validation(spec, label, run, adapted, adapted_path(run, label), data_root)


def _validation(
    spec: Spec, label: str, run: Path, checkpoint: Path, result: Path, data_root: Place | None
) -> list[str]:
    target = [part for key, value in spec.target(label).items() for part in flag(key, value)]
    return ["validate", *_trained(run, checkpoint), *target, "--result", shown(result), *_root(data_root)]


def _trained(run: Path, checkpoint: Path) -> list[str]:
    return ["--config", shown(run / "config.yaml"), "--ckpt_path", shown(checkpoint)]


def cell_commands(spec: Spec, cell: Cell, run: Path, data_root: Place | None) -> list[list[str]]:
    """All commands of a cell: its training, each validation, and each validation with adapted running moments."""
    validations = [validate_command(spec, label, run, data_root) for label in spec.validate]
    adapted = [command for label in spec.adapted for command in adapt_commands(spec, label, run, data_root)]
    return [fit_command(cell, run, data_root), *validations, *adapted]


def checkpoint_path(run: Path) -> Path:
    return run / "checkpoints" / "last.ckpt"


def result_path(run: Path, label: str) -> Path:
    return run / "validate" / f"{label}.json"


def _root(data_root: Place | None) -> list[str]:
    return [] if data_root is None else ["--data.root", shown(data_root)]

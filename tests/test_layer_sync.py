"""`--trainer.sync_batchnorm` and `--model.norm.sync`: what they reach, and that it is the joined batch."""

import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from en_bench.cli import main
from en_bench.errors import EnBenchWarning
from en_bench.layer_sync import SyncBatchMoments
from en_bench.norms import BatchNorm, ExemplarNorm, InstanceNorm
from tests.test_cli import fit_arguments, one_line, validate_arguments

Run = Callable[..., subprocess.CompletedProcess[str]]


def network() -> nn.Sequential:
    shared = nn.BatchNorm2d(4, eps=1e-3)
    return nn.Sequential(
        BatchNorm(4), BatchNorm(4, sync=True), InstanceNorm(4), ExemplarNorm(4, ("in", "ln")), shared, shared,
        nn.Sequential(BatchNormAct2d(4), nn.SyncBatchNorm(4), nn.BatchNorm2d(4, affine=False)),
    )  # fmt: skip


def kinds(model: nn.Module) -> list[str]:
    return [type(module).__name__ for module in model.modules()]


def identities(model: nn.Module) -> list[int]:
    return [id(parameter) for parameter in model.parameters()]


def syncs(model: nn.Module) -> list[bool]:
    return [module.sync for module in model.modules() if hasattr(module, "sync")]


def test_ours_and_theirs_are_synchronised_and_put_back():
    model, plugin = network().to("meta"), SyncBatchMoments()
    before, modules, parameters = copy.deepcopy(model), list(model.modules()), identities(model)
    assert plugin.apply(model) is model
    assert syncs(model) == [True, True, False, False]
    assert kinds(model[4:]) == [
        *("Sequential", "SyncBatchNorm", "Sequential", "SyncBatchNormAct", "ReLU", "Identity"),
        *("SyncBatchNorm", "SyncBatchNorm"),
    ]
    assert model[4] is model[5] and model[4].eps == 1e-3
    assert identities(model) == parameters
    model.to_empty(device="cpu").eval()  # other parameters and buffers, as no device change in training makes them
    parameters = identities(model)
    model[4].running_mean.fill_(7)

    assert plugin.revert(model) is model
    assert list(model.modules()) == modules
    assert syncs(model) == [False, True, False, False]
    assert identities(model) == parameters
    assert (model[4].running_mean == 7).all() and not model[4].training
    assert all(buffer.device.type == "cpu" for buffer in model.buffers())
    assert model.state_dict().keys() == before.state_dict().keys()
    assert plugin.revert(model) is model and syncs(model) == [False, True, False, False]


def test_a_model_that_is_a_layer_itself():
    layer, plugin = nn.BatchNorm1d(4).to("meta"), SyncBatchMoments()
    synchronised = plugin.apply(layer)
    assert isinstance(synchronised, nn.SyncBatchNorm)
    assert plugin.revert(synchronised) is layer


def test_torchs_layers_stay_on_a_cpu():
    model = network()
    with pytest.warns(EnBenchWarning, match=r"leaves 3 layers of torch's BatchNorm alone.*en_bench\.norms\.BatchNorm"):
        SyncBatchMoments().apply(model)
    assert kinds(model) == kinds(network())
    assert syncs(model) == [True, True, False, False]


def test_one_process_takes_the_flag_and_keeps_it_in_its_configuration(shards, tmp_path, capsys):
    arguments = ("--trainer.sync_batchnorm", "true", "--trainer.max_steps", 1)
    assert main(fit_arguments(shards, tmp_path / "run", *arguments, norm="en")) == 0
    outcome = json.loads((tmp_path / "run" / "fit.json").read_text())
    assert outcome["config"]["trainer"]["sync_batchnorm"] is True
    assert outcome["config"]["trainer"]["plugins"] is None
    assert "sync_batchnorm: true" in (tmp_path / "run" / "config.yaml").read_text()
    assert main(validate_arguments(tmp_path / "run")) == 0
    capsys.readouterr()

    twice = (*arguments, "--trainer.plugins", "lightning.pytorch.plugins.TorchSyncBatchNorm")
    assert main(fit_arguments(shards, tmp_path / "twice", *twice, norm="en")) == 1
    assert "Received multiple values for TorchSyncBatchNorm" in one_line(capsys)


def trained(run: Run, shards: Path, folder: Path, devices: int, *options: object) -> dict[str, Tensor]:
    """The state after three steps on batches of 32 over all ranks; order and augmentation are those of one process."""
    ranks = ("--trainer.devices", devices, "--trainer.strategy", "ddp", "--data.batch_size", 32 // devices)
    steps = ("--trainer.max_steps", 3, "--trainer.limit_val_batches", 0, "--model.lr", 0.01)
    done = run(*fit_arguments(shards, folder, *ranks, *steps, *options, norm="en"), cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    assert "EnBenchWarning" not in done.stderr
    state: dict[str, Tensor] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return state


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of a value, in units of 1 or of the largest value of its tensor."""
    assert one.keys() == other.keys()
    return max(
        float((other[key].double() - value.double()).abs().max() / value.double().abs().max().clamp_min(1))
        for key, value in one.items()
    )


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_joined_batch(shards, tmp_path, run_command):
    one = trained(run_command, shards, tmp_path / "one", 1)
    flag = trained(run_command, shards, tmp_path / "flag", 2, "--trainer.sync_batchnorm", "true")
    argument = trained(run_command, shards, tmp_path / "argument", 2, "--model.norm.sync", "true")
    apart = trained(run_command, shards, tmp_path / "apart", 2)
    assert distance(flag, argument) == 0
    assert distance(one, flag) < 1e-5
    assert distance(one, apart) > 1e-3


@pytest.mark.slow
def test_two_processes_with_torchs_own_layers_say_once_that_these_stay(shards, tmp_path, run_command):
    options = ("--model.norm", "null", "--trainer.sync_batchnorm", "true", "--trainer.max_steps", 1)
    ranks = ("--trainer.devices", 2, "--trainer.strategy", "ddp", "--data.batch_size", 16)
    done = run_command(*fit_arguments(shards, tmp_path / "run", *ranks, *options), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("layers of torch's BatchNorm alone") == 1, done.stderr

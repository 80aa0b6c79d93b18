"""`en-bench norms recalibrate`: a checkpoint in, another one out."""

import json
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from en_bench import backbones
from en_bench.cli import main
from en_bench.data.module import ShardDataModule
from en_bench.data.transforms import CenterCrop, PadCropFlip
from en_bench.lease_guard import LEASE
from en_bench.matrix.lease import Leases
from en_bench.matrix.progress import Progress, read_progress, write_progress
from en_bench.norms import BatchNorm, swap_norms
from en_bench.telemetry import pass_progress
from tests.test_cli import fit_arguments, one_line

MOMENTS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory) -> Path:
    """The folder of a finished run on set a."""
    run = tmp_path_factory.mktemp("trained") / "run"
    assert main(fit_arguments(shards, run)) == 0
    return run


def arguments(run: Path, out: Path, *more: object) -> list[str]:
    given = ("--config", run / "config.yaml", "--ckpt_path", run / "checkpoints" / "last.ckpt", "--out", out)
    return ["norms", "recalibrate", *map(str, given), *map(str, more)]


def loaded(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def images(shards: Path, split: str, **options: int) -> list[Tensor]:
    """Batches as the data module makes them."""
    chosen = {"batch_size": 32, "seed": 0, **options}
    data = ShardDataModule(
        "a/train", "a/val", PadCropFlip(32, padding=2, flip=False), CenterCrop(32), str(shards), **chosen
    )
    data.setup("fit")
    loader = data.train_dataloader() if split == "train" else data.validation_loader()
    return [data.on_after_batch_transfer(batch, 0).image[batch.valid] for batch in loader]


def as_shared_out(shards: Path, *sizes: int) -> list[Tensor]:
    """The validation images in batches of these sizes."""
    return list(torch.cat(images(shards, "val")).split(sizes))


def check_first_layer(state: dict[str, Tensor], batches: list[Tensor]) -> None:
    """Its moments, by hand: those of what the first convolution gives over all images."""
    maps = torch.cat([torch.conv2d(x, state["network.conv1.weight"], padding=1) for x in batches]).double()
    torch.testing.assert_close(state["network.bn1.running_mean"].double(), maps.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(state["network.bn1.running_var"].double(), maps.var((0, 2, 3)), rtol=1e-5, atol=1e-6)
    assert state["network.bn1.num_batches_tracked"] == len(batches)


def test_the_moments_are_those_of_the_training_images(trained, shards, tmp_path, capsys):
    old, out, result = trained / "checkpoints" / "last.ckpt", tmp_path / "deep" / "new.ckpt", tmp_path / "facts.json"
    bytes_before = old.read_bytes()
    assert main(arguments(trained, out, "--result", result)) == 0
    assert "7 normalisers, 192 images of a/train in 6 batches" in capsys.readouterr().out
    assert old.read_bytes() == bytes_before
    before, after = loaded(old), loaded(out)
    check_first_layer(after["state_dict"], images(shards, "train"))

    for key, value in before["state_dict"].items():
        same = torch.equal(after["state_dict"][key], value)
        assert same == (key.rpartition(".")[2] not in MOMENTS) or key.endswith("tracked"), key
    made = after["en_bench"].pop("recalibrated")
    facts = json.loads(result.read_text())
    assert made == {"set": "a/train", "digest": facts["digest"], "normalisers": 7, "batches": 6, "samples": 192}
    assert after["en_bench"] == before["en_bench"]
    assert after.keys() == before.keys() and after["global_step"] == before["global_step"]
    assert facts["normalisers"] == 7 and facts["samples"] == 192 and facts["unreached"] == []


def test_a_validation_takes_the_new_checkpoint(trained, tmp_path, capsys):
    out = tmp_path / "new.ckpt"
    assert main(arguments(trained, out)) == 0
    outcomes = []
    for checkpoint in (trained / "checkpoints" / "last.ckpt", out):
        result = tmp_path / "result.json"
        validate = ["validate", "--config", str(trained / "config.yaml"), "--ckpt_path", str(checkpoint)]
        assert main([*validate, "--result", str(result)]) == 0
        outcomes.append(json.loads(result.read_text())["metrics"])
    # After six steps from scratch the averages of momentum 0.1 are still far from the moments of the images.
    assert outcomes[1]["nll"] != outcomes[0]["nll"]


def test_validation_images_count_once_each_whatever_the_batch(trained, shards, tmp_path):
    states = []
    for size, sizes in ((93, [93]), (40, [31, 31, 31]), (46, [31, 31, 31])):
        out = tmp_path / f"{size}.ckpt"
        assert main(arguments(trained, out, "--split", "val", "--data.val_batch_size", size)) == 0
        assert loaded(out)["en_bench"]["recalibrated"]["samples"] == 93
        states.append(loaded(out)["state_dict"])
        check_first_layer(states[-1], as_shared_out(shards, *sizes))
    for name in MOMENTS[:2]:
        for state in states[1:]:
            torch.testing.assert_close(states[0][f"network.bn1.{name}"], state[f"network.bn1.{name}"])
    for key in (f"network.layer3.0.bn2.{name}" for name in MOMENTS):
        assert torch.equal(states[1][key], states[2][key])  # 40 or 46 at most: both times three of 31


@pytest.mark.slow
def test_a_map_of_one_pixel_needs_no_batch_of_one_image(shards, tmp_path):
    """Of 93 images 46 and 46 leave one, whose moments nobody could take where a map is 1 x 1."""
    run = tmp_path / "run"
    small = ("--model.backbone", "timm/resnet18", "--data.val_batch_size", 46, "--trainer.max_steps", 1)
    assert main(fit_arguments(shards, run, *small)) == 0
    assert main(arguments(run, tmp_path / "new.ckpt", "--split", "val")) == 0
    made = loaded(tmp_path / "new.ckpt")["en_bench"]["recalibrated"]
    assert (made["batches"], made["samples"]) == (3, 93)


def test_it_tells_how_far_it_is(trained, tmp_path, monkeypatch):
    told: list[Progress] = []

    def write(run: Path, what: Progress) -> None:
        write_progress(run, what)
        assert run == trained
        found = read_progress(run)
        assert found == what
        told.append(found)

    monkeypatch.setattr(pass_progress, "write_progress", write)
    monkeypatch.setattr(pass_progress, "_SECONDS_BETWEEN", 0.0)
    (trained / "progress.json").write_text("of a training that runs")
    assert main(arguments(trained, tmp_path / "by_hand.ckpt")) == 0
    assert (trained / "progress.json").read_text() == "of a training that runs" and not told
    lease = Leases(tmp_path / "leases").take("x")
    monkeypatch.setenv(LEASE, f"{lease.token}:{lease.path}")
    assert main(arguments(trained, tmp_path / "new.ckpt", "--split", "val", "--data.val_batch_size", 31)) == 0
    assert [(each.command, each.phase, each.epoch, each.step, each.steps) for each in told] == [
        ("recalibrate", "recalibrate", None, step, 3) for step in range(4)
    ]
    assert [each.images_per_second is None for each in told] == [True, False, False, False]
    assert [each.seconds_left is None for each in told] == [True, True, False, False] and told[3].seconds_left == 0.0
    assert read_progress(trained) is None
    monkeypatch.setattr(BatchNorm, "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(arguments(trained, tmp_path / "other.ckpt"))
    assert read_progress(trained) is None


def test_other_sets_and_fewer_batches(trained, shards, tmp_path):
    out = tmp_path / "new.ckpt"
    options = ("--split", "val", "--data.val", "b/val", "--data.val_batch_size", 16, "--batches", 2)
    assert main(arguments(trained, out, *options)) == 0
    made = loaded(out)["en_bench"]["recalibrated"]
    assert (made["set"], made["batches"], made["samples"]) == ("b/val", 2, 30)  # of 61: 15, 15, 15 and 16
    assert main(arguments(trained, tmp_path / "train.ckpt", "--batches", 2)) == 0
    check_first_layer(loaded(tmp_path / "train.ckpt")["state_dict"], list(islice(images(shards, "train"), 2)))


def test_the_precision_of_the_run_applies_and_the_checkpoint_stays_wide(trained, tmp_path):
    narrow, wide = tmp_path / "narrow.ckpt", tmp_path / "wide.ckpt"
    assert main(arguments(trained, narrow, "--trainer.precision", "bf16-mixed")) == 0
    assert main(arguments(trained, wide)) == 0
    one, other = loaded(narrow)["state_dict"], loaded(wide)["state_dict"]
    assert all(one[key].dtype == other[key].dtype for key in one)
    difference = (one["network.bn1.running_mean"] - other["network.bn1.running_mean"]).abs().max()
    assert 0 < difference < 0.01


def test_a_narrow_network_keeps_a_wide_checkpoint(trained, tmp_path):
    out = tmp_path / "new.ckpt"
    assert main(arguments(trained, out, "--trainer.precision", "bf16-true")) == 0
    before, after = (loaded(path)["state_dict"] for path in (trained / "checkpoints" / "last.ckpt", out))
    assert {key: value.dtype for key, value in after.items()} == {key: value.dtype for key, value in before.items()}
    assert torch.equal(after["network.conv1.weight"], before["network.conv1.weight"])
    assert not torch.equal(after["network.bn1.running_mean"], before["network.bn1.running_mean"])


def test_exemplar_norm_and_options_of_many_devices(shards, tmp_path):
    run = tmp_path / "run"
    assert main(fit_arguments(shards, run, "--trainer.max_steps", 1, norm="en")) == 0
    ranks = ("--trainer.devices", 8, "--trainer.strategy", "ddp", "--trainer.num_nodes", 2)
    assert main(arguments(run, tmp_path / "new.ckpt", *ranks, "--batches", 1)) == 0
    check_first_layer(loaded(tmp_path / "new.ckpt")["state_dict"], images(shards, "train")[:1])


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--batches", "0"], 1, "--batches 0 is too small: use 1 or more"),
        (["--batches", "7"], 1, "a/train makes 6 batches: use --batches 6 or less"),
        (["--split", "val", "--data.val_batch_size", "31", "--batches", "4"], 1, "a/val makes 3 batches"),
        (["--split", "test"], 2, "en-bench norms recalibrate: error: --split: expected one of"),
        (["--data.train", "a/trian"], 1, "a/trian: no such folder"),
        (["--model.norm", "en_bench.norms.ExemplarNorm"], 1, "the checkpoint belongs to another model"),
        (["--ckpt_path", "nowhere.ckpt"], 1, "there is no checkpoint nowhere.ckpt"),
        (["--batchs", "2"], 2, "there is no option --batchs"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(trained, tmp_path, capsys, options, code, words):
    out = tmp_path / "new.ckpt"
    assert main(arguments(trained, out, *options)) == code
    assert words in one_line(capsys)
    assert not out.exists()


def test_no_checkpoint_is_overwritten(trained, tmp_path, capsys):
    old = trained / "checkpoints" / "last.ckpt"
    before = old.read_bytes()
    (tmp_path / "link.ckpt").symlink_to(old)
    for out in (old, tmp_path / "link.ckpt"):
        assert main(arguments(trained, out)) == 1
        assert "exists: give another --out" in one_line(capsys)
    assert old.read_bytes() == before


def test_what_must_be_given(trained, capsys):
    given = ["norms", "recalibrate", "--config", str(trained / "config.yaml")]
    assert main(given) == 1
    assert "recalibrate needs --ckpt_path" in one_line(capsys)
    assert main([*given, "--ckpt_path", str(trained / "checkpoints" / "last.ckpt")]) == 1
    assert "recalibrate needs --out" in one_line(capsys)


def test_a_network_without_running_moments(shards, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(fit_arguments(shards, run, "--trainer.max_steps", 1, norm="in")) == 0
    capsys.readouterr()
    assert main(arguments(run, tmp_path / "new.ckpt")) == 1
    assert "has no normaliser with running moments" in one_line(capsys)
    result = tmp_path / "result.json"
    assert main(arguments(run, tmp_path / "new.ckpt", "--if_none", "skip", "--result", result)) == 0
    assert "cifar/resnet8 has no normaliser with running moments: nothing to recalibrate" in capsys.readouterr().out
    assert json.loads(result.read_text())["normalisers"] == 0 and not (tmp_path / "new.ckpt").exists()


def test_images_need_no_labels(trained, shards, tmp_path):
    """Images of unknown labels, and a column that the run's configuration asks for and they do not have."""
    from tests.data.test_unknown_labels import partly_labelled

    partly_labelled(tmp_path / "sets" / "c" / "unlabelled", 40, unknown=40)
    sets = ("--data.root", tmp_path / "sets", "--data.val", "c/unlabelled", "--data.val_batch_size", 16)
    for column in ("noisy", "clean"):
        out = tmp_path / f"{column}.ckpt"
        assert main(arguments(trained, out, "--split", "val", *sets, "--data.val_labels", column)) == 0
        assert loaded(out)["en_bench"]["recalibrated"]["samples"] == 40


def test_a_validation_says_what_its_checkpoint_was_recalibrated_on(trained, tmp_path):
    out, result = tmp_path / "new.ckpt", tmp_path / "result.json"
    assert main(arguments(trained, out, "--split", "val", "--data.val", "b/train")) == 0
    for checkpoint in (out, trained / "checkpoints" / "last.ckpt"):
        validate = ["validate", "--config", str(trained / "config.yaml"), "--ckpt_path", str(checkpoint)]
        assert main([*validate, "--result", str(result)]) == 0
        recalibrated = json.loads(result.read_text()).get("recalibrated")
        assert recalibrated == loaded(checkpoint)["en_bench"].get("recalibrated")
    assert loaded(out)["en_bench"]["recalibrated"]["set"] == "b/train"


def test_an_interrupt_leaves_no_file(trained, tmp_path, monkeypatch, capsys):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(BatchNorm, "forward", interrupted)
    assert main(arguments(trained, tmp_path / "out" / "new.ckpt")) == 130
    assert not (tmp_path / "out").exists()


def test_the_library_function_does_the_same(trained, shards, tmp_path):
    from en_bench.norms.recalibrate import recalibrate

    assert main(arguments(trained, tmp_path / "new.ckpt")) == 0
    network = backbones.build("cifar/resnet8", 3)
    swap_norms(network, BatchNorm)
    weights = loaded(trained / "checkpoints" / "last.ckpt")["state_dict"]
    network.load_state_dict({key.removeprefix("network."): value for key, value in weights.items()})
    recalibrate(network.to(memory_format=torch.channels_last), images(shards, "train"))
    new = loaded(tmp_path / "new.ckpt")["state_dict"]
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, new[f"network.{key}"], rtol=1e-4, atol=1e-5)

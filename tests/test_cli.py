"""The commands as users type them: what they do, and what they say when something is wrong."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from en_bench.cli import main
from tests.conftest import REPO
from tests.images import make_split

EXPERIMENTS = REPO / "experiments"
OVERLAYS = [
    argument for overlay in ("base.yaml", "recipe/digits.yaml") for argument in ("--config", str(EXPERIMENTS / overlay))
]


def fit_arguments(root: Path, run: Path, *more: object, norm: str = "bn") -> list[str]:
    return [
        "fit",
        *OVERLAYS,
        *("--config", str(EXPERIMENTS / "norm" / f"{norm}.yaml")),
        *("--data.root", str(root), "--data.train", "a/train", "--data.val", "a/val", "--data.batch_size", "32"),
        *("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.default_root_dir", str(run)),
        *map(str, more),
    ]


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory) -> Path:
    """The folder of a finished run on set a."""
    run = tmp_path_factory.mktemp("trained") / "run"
    assert main(fit_arguments(shards, run)) == 0
    return run


def validate_arguments(run: Path, *more: object) -> list[str]:
    checkpoint = run / "checkpoints" / "last.ckpt"
    return ["validate", "--config", str(run / "config.yaml"), "--ckpt_path", str(checkpoint), *map(str, more)]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What stderr holds, which must be one line and no traceback."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1, lines
    assert "Traceback" not in lines[0]
    return lines[0]


def test_help_imports_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "en_bench", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "matrix" in done.stdout and "fit" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert not imported & {"torch", "lightning", "numpy", "matplotlib", "scipy"}


def test_a_run_leaves_config_metrics_checkpoint_and_outcome(trained, shards):
    outcome = json.loads((trained / "fit.json").read_text())
    assert outcome["command"] == "fit" and outcome["seed"] == 0
    assert outcome["train"]["n"] == 200 and outcome["val"]["n"] == 93
    assert outcome["steps"] == 6 and outcome["epochs"] == 1
    assert outcome["metrics"]["val/n"] == 93
    assert outcome["cost"]["parameters"] == 74_835  # ResNet-8 with three classes: 75,290 with ten, less 7 * 65
    assert outcome["cost"]["flops"] > 24_000_000  # by hand in test_flops.py
    assert outcome["train"]["variant"] == outcome["val"]["variant"] == {"short_side": None}
    assert outcome["versions"]["torch"] == torch.__version__
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["val/top1"] == outcome["metrics"]["val/top1"]
    saved = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["en_bench"]["classes"] == ["dark", "grey", "bright"]
    assert "hyper_parameters" not in saved


def test_validation_repeats_the_score_of_the_training_and_leaves_its_config(trained, shards, capsys):
    before = (trained / "config.yaml").read_text()
    assert main(validate_arguments(trained)) == 0
    out = capsys.readouterr().out
    assert "n 93 of 93" in out
    result = json.loads(Path(out.rpartition("wrote ")[2].strip()).read_text())
    fit = json.loads((trained / "fit.json").read_text())
    assert result["metrics"] == {
        k.removeprefix("val/"): v for k, v in fit["metrics"].items() if k in ("val/top1", "val/nll", "val/ece")
    }
    assert (trained / "config.yaml").read_text() == before


def test_another_set_another_batch_and_workers_give_the_same_score(trained, tmp_path):
    scores = []
    for number, options in enumerate(
        (("--data.val_batch_size", 61), ("--data.val_batch_size", 7, "--data.workers", 2))
    ):
        result = tmp_path / f"{number}.json"
        assert main(validate_arguments(trained, "--data.val", "b/val", "--result", result, *options)) == 0
        scores.append(json.loads(result.read_text()))
    assert scores[0]["n"] == scores[1]["n"] == 61
    assert scores[0]["metrics"]["top1"] == scores[1]["metrics"]["top1"]
    assert scores[0]["metrics"]["nll"] == pytest.approx(scores[1]["metrics"]["nll"], rel=1e-5)


def test_equal_seeds_train_equally_and_another_seed_does_not(trained, shards, tmp_path):
    weights = []
    for name, seed in (("same", 0), ("other", 1)):
        assert main(fit_arguments(shards, tmp_path / name, "--seed_everything", seed)) == 0
        weights.append(torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    first = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(first[k], weights[0][k]) for k in first)
    assert not all(torch.equal(first[k], weights[1][k]) for k in first)


def test_a_part_of_the_set_is_told_as_a_part(trained, tmp_path, capsys):
    result = tmp_path / "part.json"
    limited = ("--trainer.limit_val_batches", 1, "--data.val_batch_size", 32, "--result", result)
    assert main(validate_arguments(trained, *limited)) == 0
    assert "n 32 of 93  (a part only: limit_val_batches)" in capsys.readouterr().out
    assert json.loads(result.read_text())["whole_set"] is False


def test_one_batch_and_all_batches_are_told_apart_whatever_is_imported_first(tmp_path):
    """typing takes Optional[Union[float, int]] and Optional[Union[int, float]] for one, whichever came first."""
    code = (
        "import typing; typing.Optional[typing.Union[float, int]]; typing.Union[float, int, None]\n"
        "import sys; from en_bench.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    data = ("--data.train", "a/train", "--data.val", "a/val")
    limits = ("--trainer.limit_val_batches", "1", "--trainer.limit_train_batches", "1.0")
    done = subprocess.run(
        [sys.executable, "-c", code, "fit", *OVERLAYS, *data, *limits, "--print_config"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "limit_val_batches: 1\n" in done.stdout
    assert "limit_train_batches: 1.0\n" in done.stdout


def test_a_finished_run_is_not_overwritten(trained, shards, capsys):
    before = (trained / "fit.json").read_text()
    assert main(fit_arguments(shards, trained)) == 1
    assert "already holds a finished training" in one_line(capsys)
    assert (trained / "fit.json").read_text() == before


def test_a_training_cut_by_steps_leaves_a_checkpoint_of_its_last_step(shards, tmp_path):
    assert main(fit_arguments(shards, tmp_path / "run", "--trainer.max_steps", 2)) == 0
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    assert main(validate_arguments(tmp_path / "run")) == 0


def test_metrics_of_a_run_that_was_cut_off_are_kept_aside(shards, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1}\n')
    assert main(fit_arguments(shards, run, "--trainer.max_steps", 1)) == 0
    assert (run / "metrics.1.jsonl").read_text() == '{"step": 1}\n'


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--data.train", "a/trian"], 1, "a/trian: no such folder"),
        (["--data.train", "a"], 1, "name one of its splits: train, val"),
        (["--config", "nowhere.yaml"], 2, "nowhere.yaml"),
        (["--model.norm", "ExampleNorm"], 2, "no class ExampleNorm: did you mean ExemplarNorm?"),
        (["--model.norm", "torch.nn.BatchNorm2d"], 2, "not a Norm of en_bench"),
        (
            ["--model.norm", "ExemplarNorm", "--model.norm.reductoin", "3"],
            2,
            "no option reductoin: did you mean reduction",
        ),
        (["--model.bakbone", "x"], 2, "no option --model.bakbone: did you mean --model.backbone"),
        (["--model.lr", "fast"], 2, "--model.lr: expected float, got fast"),
        (["--model.backbone", "timm/resnet5"], 1, "unknown model"),
        (["--model.num_classes", "5"], 1, "contradicts the data's 3 classes"),
        (["--data.batch_size", "512"], 1, "cannot fill 1 rank x batch 512: use --data.batch_size 200 or less"),
        (["--data.labels", "clean"], 1, "no label column 'clean'"),
        (["--ckpt_path", "nowhere.ckpt"], 1, "there is no checkpoint nowhere.ckpt"),
        (["--data.held_out", "1.5"], 1, "--data.held_out 1.5 is no share of a training split: use 0 (none) .. 0.9"),
        (["--data.held_out", "1e-9"], 1, "holds out none of the 200 samples of a/train that have a label: use more"),
        (["--data.held_out", "0.9"], 1, "19 training samples cannot fill 1 rank x batch 32: use --data.batch_size 19"),
        (["--model.lr", "0"], 1, "lr has to be above 0"),
        (["--trainer.gradient_clip_val", ".inf"], 1, "the configuration: trainer: gradient_clip_val: inf is no finite"),
        (["--model.momentum", "0"], 1, "give --model.nesterov false"),
        (["--model.norm", "GroupNorm", "--model.norm.groups", "0"], 1, "--model.norm: "),
        (["--trainer.accelerator", "gpux"], 1, "the trainer's options do not fit"),
        (["--trainer.strategy", "foo"], 1, "the trainer's options do not fit"),
        (["--trainer.max_epochs", "-1"], 1, "give --trainer.max_epochs or --trainer.max_steps"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(shards, tmp_path, capsys, options, code, words):
    assert main(fit_arguments(shards, tmp_path / "run", *options)) == code
    assert words in one_line(capsys)
    assert not (tmp_path / "run" / "fit.json").exists()


def test_an_unknown_key_and_broken_yaml_in_an_overlay(shards, tmp_path, capsys):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("model:\n  leanring_rate: 3\n")
    assert main(fit_arguments(shards, tmp_path / "run", "--config", overlay)) == 2
    assert "no option --model.leanring_rate" in one_line(capsys)
    overlay.write_text("model: [\n  lr: 3\n")
    assert main(fit_arguments(shards, tmp_path / "run", "--config", overlay)) == 2
    assert "overlay.yaml" in one_line(capsys)


def test_nothing_validated_and_a_file_for_a_folder(trained, shards, tmp_path, capsys):
    assert main(validate_arguments(trained, "--trainer.limit_val_batches", "0.0")) == 1
    assert "nothing of a/val was validated" in one_line(capsys)
    (tmp_path / "file").write_text("mine")
    assert main(fit_arguments(shards, tmp_path / "file")) == 1
    assert "file" in one_line(capsys)
    assert (tmp_path / "file").read_text() == "mine"


def test_flags_given_when_resuming_take_effect(shards, tmp_path):
    run = tmp_path / "run"
    assert main(fit_arguments(shards, run, "--trainer.max_epochs", 1)) == 0
    (run / "fit.json").unlink()  # as if it had been cut off after the first of two epochs
    checkpoint = run / "checkpoints" / "last.ckpt"
    changed = ("--model.lr", 0.003, "--model.momentum", 0.5, "--model.weight_decay", 0.25)
    resumed = ("--trainer.max_epochs", 2, "--ckpt_path", checkpoint)
    assert main(fit_arguments(shards, run, *resumed, *changed)) == 0
    saved = torch.load(checkpoint, weights_only=True)
    groups = [(g["momentum"], g["weight_decay"], g["initial_lr"]) for g in saved["optimizer_states"][0]["param_groups"]]
    assert groups == [(0.5, 0.25, 0.003), (0.5, 0.0, 0.003)]
    assert saved["lr_schedulers"][0]["base_lrs"] == [0.003, 0.003]
    outcome = json.loads((run / "fit.json").read_text())
    assert outcome["steps"] == 12


def test_a_foreign_checkpoint_leaves_the_configuration_that_is_there(trained, shards, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "fit.json").unlink()
    before = (run / "config.yaml").read_text(), (run / "metrics.jsonl").read_text()
    foreign = ("--model.backbone", "cifar/resnet20", "--ckpt_path", run / "checkpoints" / "last.ckpt")
    assert main(fit_arguments(shards, run, *foreign)) == 1
    assert "belongs to another model" in one_line(capsys)
    assert ((run / "config.yaml").read_text(), (run / "metrics.jsonl").read_text()) == before


def test_a_result_elsewhere_is_not_overwritten_by_a_later_validation(shards, tmp_path):
    elsewhere = tmp_path / "elsewhere.json"
    run = tmp_path / "run"
    assert main(fit_arguments(shards, run, "--result", elsewhere, "--trainer.max_steps", 1)) == 0
    assert elsewhere.read_text() == (run / "fit.json").read_text()
    assert main(validate_arguments(run)) == 0
    assert json.loads(elsewhere.read_text())["command"] == "fit"


def test_accumulated_gradients_print_each_step_once(shards, tmp_path, capsys):
    options = ("--trainer.accumulate_grad_batches", 2, "--trainer.log_every_n_steps", 1, "--data.batch_size", 20)
    assert main(fit_arguments(shards, tmp_path / "run", *options)) == 0
    out = capsys.readouterr().out
    steps = [line.split("step ")[1].split()[0] for line in out.splitlines() if "step " in line]
    assert steps == [f"{k}/5" for k in range(1, 6)]


def test_truncated_shard_and_foreign_manifest(shards, tmp_path, capsys):
    shutil.copytree(shards / "a", tmp_path / "a")
    shard = sorted((tmp_path / "a" / "train").glob("*.tar"))[1]
    shard.write_bytes(shard.read_bytes()[:-5000])
    assert main(fit_arguments(tmp_path, tmp_path / "run")) == 1
    assert shard.name in (line := one_line(capsys)) and "cut off" in line
    shutil.rmtree(tmp_path / "a" / "train")
    shutil.copytree(shards / "a" / "train", tmp_path / "a" / "train")
    shutil.copy(shards / "b" / "train" / "manifest.json", tmp_path / "a" / "train" / "manifest.json")
    assert main(fit_arguments(tmp_path, tmp_path / "run")) == 1
    assert "manifest.json" in one_line(capsys)


def test_classes_that_differ(trained, shards, tmp_path, capsys):
    shutil.copytree(shards / "a", tmp_path / "a")
    make_split(tmp_path / "c" / "val", 12, classes=("dark", "bright", "grey"))
    assert main(fit_arguments(tmp_path, tmp_path / "run", "--data.val", "c/val")) == 1
    assert "the same names in another order" in one_line(capsys)
    assert main(validate_arguments(trained, "--data.root", tmp_path, "--data.val", "c/val")) == 1
    assert "the checkpoint and c/val differ in 2 of 3 classes" in one_line(capsys)


def test_checkpoints_that_do_not_fit(trained, tmp_path, capsys):
    assert main(validate_arguments(trained, "--model.norm", "ExemplarNorm")) == 1
    assert "the checkpoint belongs to another model" in one_line(capsys)
    assert main(validate_arguments(trained, "--ckpt_path", trained / "config.yaml")) == 1
    assert "no checkpoint that can be read safely" in one_line(capsys)
    torch.save({"x": 1}, tmp_path / "x.ckpt")
    assert main(validate_arguments(trained, "--ckpt_path", tmp_path / "x.ckpt")) == 1
    assert "holds no state_dict" in one_line(capsys)
    assert main(["validate", "--config", str(trained / "config.yaml")]) == 1
    assert "validate needs --ckpt_path" in one_line(capsys)


def test_a_pickle_that_runs_code_is_refused(trained, tmp_path, capsys):
    evil = tmp_path / "evil.ckpt"
    evil.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    assert main(validate_arguments(trained, "--ckpt_path", evil)) == 1
    assert "evil.ckpt" in one_line(capsys)
    assert not (tmp_path / "ran").exists()


def test_an_unknown_verb_is_wrong_usage(capsys):
    assert main(["frobnicate"]) == 2
    assert "invalid choice" in capsys.readouterr().err


def test_two_processes_over_uneven_shards_validate_each_sample_once(shards, tmp_path, run_command):
    """In the validation of a training; test_exact_ranks.py has validations alone, for any workers and batches."""
    run = tmp_path / "two"
    ddp = ("--trainer.devices", 2, "--trainer.strategy", "ddp", "--data.batch_size", 16)
    done = run_command(*fit_arguments(shards, run, *ddp, norm="en"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("n 93 of 93") == 1
    outcome = json.loads((run / "fit.json").read_text())
    assert outcome["ranks"] == 2 and outcome["steps"] == 6
    # The scores of both are those of one process over the whole set.
    assert main(validate_arguments(run, "--trainer.devices", 1, "--result", tmp_path / "one.json")) == 0
    one = json.loads((tmp_path / "one.json").read_text())
    assert outcome["metrics"]["val/n"] == one["n"] == 93
    assert outcome["metrics"]["val/top1"] == one["metrics"]["top1"]
    assert outcome["metrics"]["val/nll"] == pytest.approx(one["metrics"]["nll"], rel=1e-6)


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_joined_batch(shards, tmp_path, run_command):
    """A normaliser that does not look at the batch, so that the split over ranks is all that differs."""
    states = []
    for devices in (1, 2):
        run = tmp_path / str(devices)
        ranks = ("--trainer.devices", devices, "--trainer.strategy", "ddp", "--data.batch_size", 32 // devices)
        options = (*ranks, "--trainer.max_steps", 3, "--model.lr", 0.01)
        done = run_command(*fit_arguments(shards, run, *options, norm="gn"), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        states.append(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    for name, weight in states[0].items():
        # Sums over 32 and over twice 16 samples are rounded otherwise, which makes 1e-5 on some processors; other
        # samples in the batches make 5e-4 or more.
        torch.testing.assert_close(states[1][name], weight, rtol=1e-4, atol=5e-5, msg=name)


def test_too_few_samples_for_two_processes_is_told_before_a_second_one_starts(shards, tmp_path, capfd, monkeypatch):
    # A second process would be this command line again, which does not parse and says so.
    monkeypatch.setattr(sys, "argv", ["en-bench", "no-such-verb"])
    ddp = ("--trainer.devices", 2, "--trainer.strategy", "ddp", "--data.batch_size", 128)
    before = psutil.Process().children()
    assert main(fit_arguments(shards, tmp_path / "two", *ddp)) == 1
    assert psutil.Process().children() == before
    told = capfd.readouterr().err
    assert "200 training samples cannot fill 2 ranks x batch 128: use --data.batch_size 100 or less" in told
    assert told.count("error") == 1

"""What `en-bench noise audit RUN` refuses: other data than the run's, what is no run, and impossible options."""

import dataclasses
import shutil

import pyarrow.parquet as pq
import pytest

from en_bench.audit import cleanlab_scores, verb
from en_bench.audit.same_training import check_same_set
from en_bench.cli import main
from en_bench.data.manifest import load_manifest, save_manifest
from en_bench.data.module import ShardDataModule
from en_bench.data.transforms import CenterCrop
from en_bench.dynamics.files import files_of
from en_bench.errors import InputError
from en_bench.noise.kinds import SymmetricNoise
from tests.audit.conftest import audit
from tests.test_cli import one_line


def test_a_cut_file_of_the_record_is_told(copied, capsys):
    path = sorted((copied / "dynamics").glob("epoch=*/*.parquet"))[1]
    path.write_bytes(path.read_bytes()[:-100])
    capsys.readouterr()
    assert main(audit(copied)) == 1
    assert f"{path} cannot be read" in one_line(capsys)
    assert not (copied / "audit").exists()


def test_a_set_that_has_changed_is_refused(plain, copied, root, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(root, other)
    manifest = load_manifest(other / "a" / "train")
    save_manifest(dataclasses.replace(manifest, source={"made": "again"}))
    capsys.readouterr()
    assert main(audit(copied, "--data.root", other)) == 1
    assert "is of a set with manifest" in one_line(capsys)
    assert main(audit(plain, "--data.root", other)) == 1
    assert "the checkpoint was trained on a set with manifest" in one_line(capsys)


def test_other_labels_are_refused(plain, trained, capsys):
    capsys.readouterr()
    assert main(audit(plain, "--data.labels", "clean")) == 1
    assert "the checkpoint was trained on labels 'given', not on 'clean'" in one_line(capsys)
    assert main(audit(trained, "--data.labels", "clean")) == 1
    line = one_line(capsys)
    assert "records are of other labels than a/train has here: it is of given, here are clean: leave" in line
    assert main(audit(trained, *NOISE)) == 1
    assert "it is of given, here are given + symmetric 0.4 (seed 0): leave --data.labels and" in one_line(capsys)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--top", "-3"], "--top -3: a contact sheet shows 1 to 1,000 samples: use --top 100"),
        (["--bootstrap", "-1"], "--bootstrap -1 is too small"),
        (["--score", "luck"], "unknown score 'luck': choose one of aum, loss"),
        (["--score", "aum"], "--score aum is not there: the run has no record of samples"),
        (["--ckpt_path", "nowhere.ckpt"], "there is no checkpoint nowhere.ckpt"),
        (["--data.train", "a/trian"], "a/trian: no such folder"),
        (["--out", __file__], "is a file: give a folder"),
        (["--model.norm", "en_bench.norms.ExemplarNorm"], "the checkpoint belongs to another model"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(plain, capsys, options, words):
    capsys.readouterr()
    assert main(audit(plain, *options)) == 1
    assert words in one_line(capsys)


def test_what_is_no_run_is_told(plain, tmp_path, capsys):
    assert main(["noise", "audit"]) == 1
    assert "audit needs the run's folder first: en-bench noise audit RUN" in one_line(capsys)
    assert main(audit(tmp_path / "nothing")) == 1
    assert "is no run: it has no config.yaml" in one_line(capsys)
    shutil.copy(plain / "config.yaml", tmp_path)
    assert main(audit(tmp_path)) == 1
    assert "there is no checkpoint" in one_line(capsys)
    assert main(["noise", "audit", "--help"]) == 0
    assert "--top" in capsys.readouterr().out


NOISE = ("--data.noise", "en_bench.noise.kinds.SymmetricNoise", "--data.noise.rate", 0.4)


def test_another_held_out_part_is_refused(plain, capsys):
    capsys.readouterr()
    assert main(audit(plain, "--data.held_out", 0.3)) == 1
    told = "the checkpoint was trained with a share of 0.0 held out, here it is 0.3: use --data.held_out 0.0"
    assert told in one_line(capsys)


def test_a_record_of_another_held_out_part_is_refused(copied, capsys):
    for path in files_of(copied).values():
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"held_out": b"0.2"}), path)
    capsys.readouterr()
    assert main(audit(copied)) == 1
    assert "is of a training with a share of 0.2 held out, here it is 0.0: use --data.held_out 0.2" in one_line(capsys)


def test_other_noise_is_refused(plain, capsys):
    capsys.readouterr()
    assert main(audit(plain, *NOISE)) == 1
    line = one_line(capsys)
    told = "the checkpoint was trained with no label noise, here is label noise symmetric 0.4 (seed 0)"
    assert line.rstrip().endswith(f"{told}: use --data.noise null")


def test_a_checkpoint_may_be_older_than_noise_and_the_held_out_part(root):
    def module(**options):
        data = ShardDataModule(
            "a/train", "a/val", CenterCrop(32), CenterCrop(32), str(root), batch_size=32, seed=0, **options
        )
        data.setup("fit")
        return data

    data, noisy = module(), module(noise=SymmetricNoise(0.4))
    assert data.train_manifest is not None
    state = data.state_dict()
    old = {name: value for name, value in state.items() if name not in ("noise", "held_out")}
    for accepted in (state, old, {}):
        check_same_set({"ShardDataModule": accepted}, data.train_manifest, data)
    check_same_set({"ShardDataModule": noisy.state_dict()}, data.train_manifest, noisy)
    for refusing in (noisy, module(held_out=0.3)):
        with pytest.raises(InputError, match=r"was trained with (no label noise|a share of 0\.0)"):
            check_same_set({"ShardDataModule": old}, data.train_manifest, refusing)
    for saved in (noisy.state_dict(), module(noise=SymmetricNoise(0.2)).state_dict()):
        with pytest.raises(InputError, match=r"here is no label noise: leave --data\.noise out"):
            check_same_set({"ShardDataModule": saved}, data.train_manifest, data)


@pytest.mark.parametrize("score", ["aum", "self_confidence"])
def test_a_score_that_cannot_be_there_is_refused_before_the_pass(plain, monkeypatch, capsys, score):
    def passes(*_: object, **__: object) -> None:
        raise AssertionError("the pass has begun")

    monkeypatch.setattr(verb, "run_pass", passes)
    monkeypatch.setattr(cleanlab_scores, "find_spec", lambda name: None)
    capsys.readouterr()
    assert main(audit(plain, "--score", score)) == 1
    assert f"--score {score} is not there: " in one_line(capsys)

"""The W&B mirror, without a network: it never stops a training and never changes a number."""

import json
import socket

import pytest

from en_bench.cli import main
from tests.conftest import REPO, SAME_THREADS
from tests.test_cli import fit_arguments

OVERLAY = ("--config", REPO / "experiments" / "logger" / "wandb.yaml")


def metrics(folder):
    return json.loads((folder / "fit.json").read_text())["metrics"]


def test_without_a_login_the_run_is_mirrored_offline_under_one_id(shards, tmp_path, run_command):
    assert main(fit_arguments(shards, tmp_path / "plain")) == 0
    no_login = {"HOME": str(tmp_path), "WANDB_API_KEY": "", "NETRC": str(tmp_path / "none"), **SAME_THREADS}
    done = run_command(*fit_arguments(shards, tmp_path / "run", *OVERLAY), cwd=tmp_path, **no_login)
    assert done.returncode == 0, done.stderr
    assert metrics(tmp_path / "run") == metrics(tmp_path / "plain")
    run_id = (tmp_path / "run" / "wandb-id.txt").read_text().strip()
    files = list((tmp_path / "run").rglob("*.wandb"))
    assert [file.name for file in files] == [f"run-{run_id}.wandb"]
    assert files[0].stat().st_size > 0
    assert (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_a_login_without_a_network_goes_offline_and_the_key_stays_secret(shards, tmp_path, run_command):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    key = "0123456789abcdef0123456789abcdef01234567"
    login = {"HOME": str(tmp_path), "WANDB_API_KEY": key, "WANDB_BASE_URL": address}
    done = run_command(*fit_arguments(shards, tmp_path / "run", *OVERLAY), cwd=tmp_path, **login)
    assert done.returncode == 0, done.stderr
    assert "kept offline" in done.stderr
    assert metrics(tmp_path / "run")["val/n"] == 93
    assert list((tmp_path / "run").rglob("*.wandb"))
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or key.encode() not in path.read_bytes(), path
    assert key not in done.stdout + done.stderr

"""Whose a folder is, where locks tell it, where they do not work, and where a lease tells it."""

import errno
import fcntl
from pathlib import Path

import pytest

from en_bench import folder_claim
from en_bench.errors import InputError
from en_bench.folder_claim import claim_folder
from en_bench.lease_guard import LEASE


def test_a_folder_is_claimed_once_and_under_a_lease_by_whoever_holds_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_claim, "_SECONDS_TO_CLAIM", 0.0)
    with claim_folder(tmp_path, "wait"):
        with (
            pytest.raises(InputError, match="another run is at work in "),
            claim_folder(tmp_path, "wait"),
        ):
            pass
        monkeypatch.setenv(LEASE, "a:b")  # of a holder that was stopped, and has the lock still
        with claim_folder(tmp_path, "wait"):
            pass
        monkeypatch.delenv(LEASE)
        with pytest.raises(InputError), claim_folder(tmp_path, "wait"):
            pass
    with claim_folder(tmp_path, "wait"):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP])
def test_a_folder_without_locks_is_worked_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with claim_folder(tmp_path / "run", "wait"):
        assert (tmp_path / "run").is_dir()

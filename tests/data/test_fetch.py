"""Files fetched from a server that cuts, stalls, truncates, corrupts, answers 500 and goes away."""

from __future__ import annotations

import hashlib
import os
import random
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from en_bench.data.fetch import Patience, fetch, fetch_checked, is_final
from en_bench.data.manifest import load_manifest
from en_bench.data.places import place, read_bytes
from en_bench.errors import InputError
from tests.data.flaky_http import Fault, FlakyServer, serving
from tests.images import make_split

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(tries=3, first_wait_s=0.01, stall_s=0.3)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FlakyServer]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.tar").write_bytes(CONTENT)
    with serving(tmp_path / "served") as server:
        yield server


def fetched(server: FlakyServer, tmp_path: Path, patience: Patience = QUICK) -> bytes:
    target = tmp_path / "target"
    with target.open("w+b", buffering=0) as file:
        fetch_checked(place(f"{server.url}/a.tar"), file, len(CONTENT), SHA256, patience)
    return target.read_bytes()


@pytest.mark.parametrize("ranges", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "faults",
    [
        [],
        [Fault(cut=1_000_000)],
        [Fault(cut=0), Fault(cut=5)],
        [Fault(stall=400_000)],
        [Fault(stall=0)],
        [Fault(truncate=700_000)],
        [Fault(truncate=0)],
        [Fault(status=500), Fault(status=503)],
        [Fault(status=429)],
        [Fault(status=416)],
        [Fault(corrupt=True), Fault(corrupt=True)],
        [Fault(cut=900_000), Fault(status=500), Fault(corrupt=True), Fault(truncate=5)],
    ],
    ids=lambda faults: "+".join(map(str, faults)) or "none",
)
def test_what_arrives_is_right_whatever_went_wrong(server, tmp_path, faults, ranges):
    server.ranges = ranges
    server.faults["a.tar"] = list(faults)
    assert fetched(server, tmp_path) == CONTENT
    assert server.faults["a.tar"] == [], "each fault was met"


def test_goes_on_where_the_connection_broke(server, tmp_path, capfd):
    server.faults["a.tar"] = [Fault(cut=1_000_000), Fault(stall=1_000_000)]
    assert fetched(server, tmp_path) == CONTENT
    assert [name for name, _ in server.asked] == ["a.tar"] * 3
    begins = [first for _, first in server.asked]
    assert begins == sorted(begins) and begins[0] == 0 < begins[1] <= 1_000_000 < begins[2] <= 2_000_000
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith(f"{server.url}/a.tar: ") for line in lines)
    assert f"at byte {begins[1]}: try 2 of 3" in lines[0] and "nothing came for 0.3 s" in lines[1]


def test_a_server_without_ranges_is_read_anew_from_the_beginning(server, tmp_path):
    server.ranges = False
    server.faults["a.tar"] = [Fault(cut=1_000_000), Fault(cut=2_000_000), Fault(corrupt=True)]
    assert fetched(server, tmp_path) == CONTENT
    assert server.asked == [("a.tar", 0)] * 4


def test_a_server_that_cuts_each_answer_is_read_to_the_end(server, tmp_path):
    server.always["a.tar"] = Fault(cut=200_000)
    assert fetched(server, tmp_path) == CONTENT
    assert server.requests["a.tar"] >= 15


def test_a_server_that_goes_away_is_waited_for(server, tmp_path):
    server.stop()
    back = threading.Timer(0.6, server.start)
    back.start()
    assert fetched(server, tmp_path, Patience(tries=6, first_wait_s=0.1, stall_s=5)) == CONTENT
    back.join()


@pytest.mark.parametrize(
    ("fault", "requests", "message"),
    [
        (Fault(status=404), 1, r"it is not there: upload the split again, or correct the URL$"),
        (Fault(status=403), 1, r"403.*Forbidden.*: check your access; credentials are taken from the environment$"),
        (Fault(status=500), 3, r"500.*, after 3 tries: check the network and the server, then .* again$"),
        (Fault(truncate=100), 3, r"it ended after \d+ of 3000000 bytes, after 3 tries: check"),
        (Fault(stall=10), 3, r"nothing came for 0.3 s, after 3 tries"),
        (Fault(corrupt=True), 3, r"sha256 .{12}… instead of .{12}… in 3 downloads: it is damaged or belongs to"),
    ],
    ids=str,
)
def test_what_stays_wrong_is_one_line_with_the_url_and_the_cure(server, tmp_path, fault, requests, message):
    server.always["a.tar"] = fault
    server.ranges = fault.truncate is None
    with pytest.raises(InputError, match=rf"^{server.url}/a.tar: {message}") as raised:
        fetched(server, tmp_path)
    assert "\n" not in str(raised.value)
    assert server.requests["a.tar"] == requests


def test_more_bytes_than_the_manifest_says_are_not_taken(server, tmp_path):
    (server.folder / "a.tar").write_bytes(CONTENT + b"more")
    with pytest.raises(InputError, match="more than 3000000 bytes in 3 downloads"):
        fetched(server, tmp_path)
    assert (tmp_path / "target").stat().st_size <= len(CONTENT)


def test_a_refused_connection_is_one_line(tmp_path):
    where = place("http://127.0.0.1:9/a.tar?token=secret")
    with (tmp_path / "target").open("w+b", buffering=0) as file, pytest.raises(InputError) as raised:
        fetch_checked(where, file, 5, "0" * 64, QUICK)
    assert str(raised.value).startswith("http://127.0.0.1:9/a.tar: ") and "after 3 tries" in str(raised.value)
    assert "secret" not in str(raised.value)


def test_waiting_doubles_and_ends_within_about_a_minute():
    waits = [Patience().wait_s(failures) for failures in range(1, Patience().tries)]
    assert all(1.5 * 2**i <= wait <= 2.5 * 2**i for i, wait in enumerate(waits))
    assert len({Patience().wait_s(1) for _ in range(20)}) > 1, "many processes must not come back at the same moment"


def test_waiting_draws_nothing_from_the_runs_random_numbers():
    random.seed(3)
    state = random.getstate()
    Patience().wait_s(2)
    assert random.getstate() == state


def test_a_full_disk_is_not_tried_again(server):
    with open("/dev/full", "r+b", buffering=0) as full, pytest.raises(InputError, match="No space left on device"):
        fetch_checked(place(f"{server.url}/a.tar"), full, len(CONTENT), SHA256, QUICK)
    assert server.requests["a.tar"] == 1


def test_a_file_system_of_fsspec_without_http_is_read_in_ranges(tmp_path):
    from upath import UPath

    where = UPath("memory://bucket/a.tar")
    where.fs.pipe_file(where.path, CONTENT)
    sink = bytearray()
    fetch(where, sink)
    assert sink == CONTENT
    sink = bytearray(CONTENT[:1000])
    fetch(where, sink, len(CONTENT))
    assert sink == CONTENT, "goes on behind what is there"
    with pytest.raises(FileNotFoundError):
        fetch(UPath("memory://bucket/absent"), bytearray())


def test_a_file_system_that_hangs_for_ever_is_left_behind(monkeypatch):
    from fsspec.implementations.memory import MemoryFileSystem
    from upath import UPath

    where = UPath("memory://bucket/hangs.tar")
    where.fs.pipe_file(where.path, CONTENT)
    asked, release, real = [], threading.Event(), MemoryFileSystem.cat_file

    def cat_file(self, path, start=None, end=None, **options):
        asked.append((start, end))
        if len(asked) == 2:
            release.wait(60)
        return real(self, path, start=start, end=end, **options)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    sink = bytearray()
    fetch(where, sink, len(CONTENT), QUICK)
    release.set()
    assert sink == CONTENT
    assert asked[2][0] == asked[1][0] and asked[2][1] - asked[2][0] < asked[1][1] - asked[1][0], "smaller ranges then"


def test_a_child_of_a_process_that_has_fetched_fetches(server):
    where = place(f"{server.url}/a.tar")
    fetch(where, bytearray())
    child = os.fork()
    if child == 0:
        sink = bytearray()
        try:
            fetch(where, sink, len(CONTENT), QUICK)
        finally:
            os._exit(0 if sink == CONTENT else 1)
    deadline = time.monotonic() + 20
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, 9)
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(ended[1]) == 0


def test_certificates_and_missing_credentials_are_final():
    assert is_final(ssl.SSLCertVerificationError("self-signed"))
    assert is_final(type("NoCredentialsError", (Exception,), {})())
    assert is_final(PermissionError(13, "Forbidden"))
    assert not is_final(TimeoutError()) and not is_final(ConnectionResetError())


def test_manifest_and_index_over_a_flaky_network(tmp_path, monkeypatch):
    split = make_split(tmp_path / "train", 30)
    monkeypatch.setattr("en_bench.data.fetch.time.sleep", lambda seconds: None)
    with serving(split) as server:
        server.faults["manifest.json"] = [Fault(status=500), Fault(cut=10)]
        server.faults["index.npz"] = [Fault(cut=100), Fault(status=502)]
        manifest = load_manifest(server.url)
        assert manifest.digest == load_manifest(split).digest
        assert len(manifest.load_index()) == 30
        assert server.requests == {"manifest.json": 3, "index.npz": 3}
        with pytest.raises(FileNotFoundError):
            read_bytes(place(f"{server.url}/absent"))
        with pytest.raises(InputError, match=r"no manifest.json there"):
            load_manifest(f"{server.url}/absent")

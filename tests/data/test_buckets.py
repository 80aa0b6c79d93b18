"""Shards in a bucket: a real S3 server on loopback, which goes away and comes back."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from en_bench.data.archives import RawFiles
from en_bench.data.cached_files import CachedFiles
from en_bench.data.fetch import Patience
from en_bench.data.manifest import load_manifest
from en_bench.data.places import names_in, place, read_bytes, read_range, remove, shown, size_of, write_file
from en_bench.data.reader import ShardReader
from en_bench.data.reading_order import NaturalOrder
from en_bench.data.shard_cache import ShardCache
from en_bench.data.shuffle import Shuffle
from en_bench.errors import InputError
from tests.data.preparing import SAMPLES, contents, prepare
from tests.scripts.raw import tar_bytes, zip_bytes

REPO = Path(__file__).resolve().parents[2]
SECRET = "s3cret-key-of-the-test"


class Server:
    """moto's S3 on a port of 127.0.0.1. Its content outlives `stop`."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._server: object = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        server.start()
        self._server = server

    def stop(self) -> None:
        self._server.stop()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    server = Server()
    settings = {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": "id-of-the-test",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        server.start()
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        yield server
        server.stop()
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole") / "train"
    prepare(str(folder), workers=1)
    return contents(folder)


def in_bucket(url: str) -> dict[str, bytes]:
    return {name: read_bytes(place(url) / name) for name in names_in(place(url))}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bucket_gets_the_bytes_of_a_folder(server, whole, workers):
    url = f"s3://bucket/plain{workers}/train"
    prepare(url, workers)
    assert in_bucket(url) == whole
    manifest = load_manifest(url)
    assert manifest.count == SAMPLES - 7
    assert len(manifest.load_index()) == manifest.count
    manifest.check_shards()
    prepare(url, workers)  # nothing to do


@pytest.mark.slow
def test_killed_and_resumed_in_a_bucket(server, whole):
    url = "s3://bucket/killed/train"
    command = [sys.executable, "-m", "tests.data.preparing", url, "1"]
    run = subprocess.run([*command, "--die-at", "70"], cwd=REPO, timeout=60, check=False)
    assert run.returncode == -signal.SIGKILL
    with pytest.raises(InputError, match="its preparation has not ended"):
        load_manifest(url)
    with pytest.raises(InputError, match=r"left 4 of 8 shards: add --resume to go on"):
        prepare(url, workers=1)
    prepare(url, workers=2, resume=True)
    assert in_bucket(url) == whole


@pytest.mark.slow
def test_a_lost_bucket_is_one_line_and_can_be_resumed(server, whole):
    url = "s3://bucket/lost/train"
    command = [sys.executable, "-m", "tests.data.preparing", url, "1", "--seconds", "0.03"]
    process = subprocess.Popen(
        command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    deadline = time.monotonic() + 60
    while sum(name.endswith(".tar") for name in names_in(place(url))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    server.stop()
    try:
        said, errors = process.communicate(timeout=120)
    finally:
        process.kill()
        server.start()
    assert process.returncode == 1, errors
    assert said.count("\n") == 1, said
    assert said.startswith(f"{url}: ") and "finished shards are kept" in said and "run again with --resume" in said
    assert SECRET not in said + errors
    prepare(url, workers=1, resume=True)
    assert in_bucket(url) == whole


class Payloads(Dataset[bytes]):
    def __init__(self, reader: ShardReader) -> None:
        self.reader = reader

    def __getitem__(self, sample: int) -> bytes:
        return self.reader.read(sample)

    def __len__(self) -> int:
        return len(self.reader)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_shards_in_a_bucket_train_through_the_cache(server, tmp_path, capfd, workers):
    """A set larger than the cache, forked workers, a process that fetches ahead, and a server that goes away."""
    url, folder = f"s3://bucket/far{workers}/train", tmp_path / "train"
    for target in (url, str(folder)):
        prepare(target, workers=1)
    with ShardReader(load_manifest(folder), load_manifest(folder).load_index()) as reader:
        payloads = [reader.read(i) for i in range(len(reader))]
    manifest = load_manifest(url)
    order = Shuffle(tuple(shard.samples for shard in manifest.shards), seed=0, span=2)
    cache = ShardCache(tmp_path / "cache", 5 * max(shard.bytes for shard in manifest.shards))
    files = CachedFiles(manifest, cache, order, patience=Patience(tries=12, first_wait_s=0.2, stall_s=10))
    reader = ShardReader(manifest, manifest.load_index(), files=files)
    retry, told = ": try 2 of 12 in ", [""]

    def comes_back() -> None:
        """Once it was missed: what is fetched ahead may last for a while."""
        deadline = time.monotonic() + 60
        while retry not in "".join(told) and time.monotonic() < deadline:
            told.append(capfd.readouterr().err)
            time.sleep(0.05)
        server.start()

    samples: list[int] = []
    loader = DataLoader(Payloads(reader), batch_size=None, sampler=samples, num_workers=workers)
    for epoch in range(3):
        samples[:] = order.order(epoch).tolist()
        files.tell(epoch, 0)
        for step, payload in enumerate(loader):
            assert payload == payloads[samples[step]]
            files.tell(epoch, step + 1)
            if (epoch, step, workers) == (1, 10, 0):  # forked workers would keep its port open
                server.stop()
                back = threading.Thread(target=comes_back)
                back.start()
    if not workers:
        back.join()
        assert retry in "".join(told)
    assert 0 < cache.total() <= cache.bound
    found = files.statistics()
    assert 0 < found.missed < found.opened
    files.close()
    reader.close()


@pytest.mark.slow
def test_a_shard_that_is_not_in_the_bucket_is_one_line(server, tmp_path):
    url = "s3://bucket/lacking/train"
    prepare(url, workers=1)
    manifest = load_manifest(url)
    lacking = manifest.place_of(manifest.shards[0])
    remove(lacking)
    files = CachedFiles(manifest, ShardCache(tmp_path, 10**9), NaturalOrder((15,) * 8), ahead=False)
    with pytest.raises(InputError, match=rf"^{shown(lacking)}: it is not there: upload the split again, or correct"):
        files.open(0)
    server.stop()
    try:
        files.patience = Patience(tries=2, first_wait_s=0.01, stall_s=20)
        with pytest.raises(
            InputError, match=rf"^{shown(manifest.place_of(manifest.shards[1]))}: .*, after 2 tries"
        ) as e:
            files.open(1)
        assert SECRET not in str(e.value)
    finally:
        server.start()
    files.close()


def test_places_in_a_bucket(server):
    where = place("s3://bucket/small/file.bin")
    write_file(where, b"0123456789")
    assert (read_bytes(where), size_of(where), read_range(where, 3, 4)) == (b"0123456789", 10, b"3456")
    assert names_in(place("s3://bucket/small")) == ["file.bin"]
    remove(where)
    remove(where)
    assert names_in(place("s3://bucket/small")) == []
    with pytest.raises(FileNotFoundError):
        read_bytes(where)


def test_a_bucket_that_is_not_there_is_one_line(server):
    with pytest.raises(
        InputError, match=r"^s3://absent/x/train: The specified bucket does not exist: choose another --out$"
    ):
        prepare("s3://absent/x/train", workers=1)
    with pytest.raises(InputError, match=r"s3://bucket/none: no manifest\.json there"):
        load_manifest("s3://bucket/none")


@pytest.mark.parametrize("form", ["folder", "tar", "tar.gz", "zip", "nested"])
def test_raw_files_in_a_bucket_read_like_those_on_disk(server, tmp_path, form):
    files = {"a/1.jpg": b"one", "a/2.jpg": b"two", "b/1.jpg": b"three"}
    url = f"s3://bucket/raw-{form}"
    if form == "folder":
        for name, content in files.items():
            write_file(place(url) / name, content)
    elif form == "nested":
        write_file(place(url) / "outer.tar", tar_bytes({"inner.tar": tar_bytes(files)}))
        files = {f"outer.tar/inner.tar/{name}": content for name, content in files.items()}
    else:
        url = f"{url}/raw.{form}"
        write_file(place(url), zip_bytes(files) if form == "zip" else tar_bytes(files, "w:gz" if "gz" in form else "w"))
    raw = RawFiles(url, nested=form == "nested")
    assert {name: raw.read(name) for name in raw.names} == files
    assert RawFiles(url).refused == []
    with pytest.raises(InputError, match="s3://bucket/none: no such folder or archive"):
        RawFiles("s3://bucket/none")


def test_urls_are_shown_without_keys():
    assert shown("s3://id:secret@bucket/a/b?token=t") == "s3://bucket/a/b"
    assert shown(Path("/a/b")) == "/a/b"


def test_urls_that_nothing_reads_name_the_cure():
    with pytest.raises(InputError, match=r"nosuch://x/y: Unsupported filesystem: 'nosuch': install what it names, or"):
        place("nosuch://x/y")
    if importlib.util.find_spec("gcsfs") is None:
        with pytest.raises(InputError, match=r"gs://x/y: .*gcsfs.*: install what it names, or use a folder"):
            place("gs://x/y")


def test_keys_in_urls_are_refused_without_being_shown():
    with pytest.raises(InputError, match=r"^s3://bucket/a: it was given with a user or key, .* the environment$"):
        place("s3://id:secret@bucket/a")


def test_a_url_of_a_local_file_is_a_path(tmp_path):
    assert place(f"file://{tmp_path}/x") == tmp_path / "x"

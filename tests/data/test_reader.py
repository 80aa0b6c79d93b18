import multiprocessing
import os
import pickle
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from en_bench.data.images import ImageEncoder
from en_bench.data.manifest import load_manifest
from en_bench.data.reader import ShardReader
from en_bench.data.writer import Source, write_split
from en_bench.errors import InputError
from tests.images import coloured_png, make_split


@pytest.fixture
def split(tmp_path: Path) -> Path:
    return make_split(tmp_path / "train", 60, shards=7)


def open_reader(split: Path, max_open: int = 64) -> ShardReader:
    manifest = load_manifest(split)
    return ShardReader(manifest, manifest.load_index(), max_open)


def contents_by_tarfile(split: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(split.glob("*.tar")):
        with tarfile.open(path) as tar:
            found |= {m.name: tar.extractfile(m).read() for m in tar if m.name.endswith(".png")}
    return found


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_every_sample_reads_as_tarfile_reads_it(split):
    expected = contents_by_tarfile(split)
    with open_reader(split) as reader:
        assert len(reader) == len(expected) == 60
        assert {f"{reader.index.key(i)}.png": reader.read(i) for i in reversed(range(60))} == expected


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
def test_few_files_stay_open_and_close_releases_them(split):
    before = open_files()
    reader = open_reader(split, max_open=2)
    assert len(reader.manifest.shards) > 4
    expected = [reader.read(i) for i in range(60)]
    assert open_files() == before + 2
    reader.close()
    assert open_files() == before
    assert [reader.read(i) for i in range(60)] == expected, "a closed reader opens again"
    del reader
    assert open_files() == before


def test_a_pickled_reader_reads(split):
    reader = open_reader(split)
    expected = reader.read(7)
    again = pickle.loads(pickle.dumps(reader))  # noqa: S301 - our own bytes
    reader.close()
    assert again.read(7) == expected


def read_in_child(reader: ShardReader, sample: int, queue: "multiprocessing.Queue[bytes]") -> None:
    queue.put(reader.read(sample))
    reader.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_reads_and_leaves_the_parent_its_files(split, method):
    reader = open_reader(split)
    expected = [reader.read(i) for i in range(60)]
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=read_in_child, args=(reader, 11, queue))
    child.start()
    assert queue.get(timeout=60) == expected[11]
    child.join()
    assert [reader.read(i) for i in range(60)] == expected


def test_the_file_used_longest_ago_is_closed_first(split):
    with open_reader(split, max_open=2) as reader:
        first_of = [int((reader.index.shard == shard).argmax()) for shard in range(4)]
        for shard in (0, 1, 0, 2):
            reader.read(first_of[shard])
        for path in split.glob("*.tar"):
            path.unlink()
        reader.read(first_of[0])
        reader.read(first_of[2])
        with pytest.raises(InputError, match="No such file"):
            reader.read(first_of[1])


def complain_in_child(reader: ShardReader, queue: "multiprocessing.Queue[str]") -> None:
    try:
        reader.read(0)
    except InputError as error:
        queue.put(str(error))
    else:
        queue.put("read through the parent's file")


def test_a_forked_process_opens_files_of_its_own(split):
    with open_reader(split) as reader:
        reader.read(0)
        (split / reader.manifest.shards[0].name).unlink()
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        child = context.Process(target=complain_in_child, args=(reader, queue))
        child.start()
        assert "No such file" in queue.get(timeout=60)
        child.join()
        reader.read(0)


def test_a_shard_cut_off_while_reading_is_named(split):
    with open_reader(split) as reader:
        shard = split / reader.manifest.shards[0].name
        with shard.open("r+b") as file:
            file.truncate(int(reader.index.offset[0, 0]) + 10)
        size = int(reader.index.size[0, 0])
        with pytest.raises(InputError) as error:
            reader.read(0)
        message = str(error.value)
        assert message.startswith(f"{shard}, sample '{reader.index.key(0)}': 10 bytes read instead of {size} at")
        assert message.endswith("copy or prepare it again")


def test_a_shard_that_is_gone_is_named(split):
    with open_reader(split) as reader:
        (split / reader.manifest.shards[0].name).unlink()
        with pytest.raises(InputError, match=r"000000.tar, sample 'toy-.*': No such file or directory: copy"):
            reader.read(0)


@pytest.mark.parametrize("sample", [-1, 60])
def test_padding_and_samples_that_are_not_there_are_refused(split, sample):
    with open_reader(split) as reader, pytest.raises(IndexError):
        reader.read(sample)


LONG = "a_folder/" * 12
SEEDS = (0, 1)


def preparations(root: Path, keys: list[str]) -> list[Path]:
    """The same samples of one size, written once per seed into one shard each."""
    encoder = ImageEncoder(encoding="png")
    folders = [root / f"seed{seed}" for seed in SEEDS]
    for seed, folder in zip(SEEDS, folders, strict=True):
        write_split(
            folder,
            [Source(key, {"given": 0}, partial(coloured_png, 0, i), key) for i, key in enumerate(keys)],
            dataset="toy",
            split="train",
            classes=["one"],
            encode=encoder,
            image=encoder.describe(),
            source={},
            seed=seed,
        )
    return folders


@pytest.mark.parametrize(
    ("stem", "found"),
    [("short-", "short-"), (LONG, LONG), ("k" * 96, "k" * 96), ("k" * 93, "k" * 93), ("鳥/ä ", "鳥/ä ")],
    ids=["ustar", "pax", "just too long", "just fits", "not ASCII"],
)
def test_shards_of_another_preparation_are_refused(tmp_path, stem, found):
    keys = [f"{stem}{i:03d}" for i in range(40)]
    folders = preparations(tmp_path, keys)
    shards = [next(folder.glob("*.tar")) for folder in folders]
    assert shards[0].stat().st_size == shards[1].stat().st_size
    for folder in folders:
        with open_reader(folder) as reader:
            assert all(reader.read(i) == coloured_png(0, keys.index(reader.index.key(i))) for i in range(40))
    shards[0].write_bytes(shards[1].read_bytes())
    manifest = load_manifest(folders[0])
    manifest.check_shards()
    refused = []
    with open_reader(folders[0]) as reader, open_reader(folders[1]) as other:
        for i in range(40):
            if reader.index.key(i) == other.index.key(i) and reader.index.offset[i, 0] == other.index.offset[i, 0]:
                assert reader.read(i) == other.read(i)
                continue
            with pytest.raises(InputError) as error:
                reader.read(i)
            refused.append(str(error.value))
            assert refused[-1].startswith(f"{shards[0]}, sample {reader.index.key(i)!r}: ")
            assert refused[-1].endswith(
                "at its place: the shards are not those of this manifest: copy or prepare the split again"
            )
    assert len(refused) > 30
    assert any(f": {found}" in message.replace("'", "") and ".png' lies" in message for message in refused)


def test_a_key_that_begins_another_is_not_taken_for_it(tmp_path):
    first, second = (
        preparations(tmp_path / name, keys) for name, keys in (("one", ["a", "b"]), ("two", ["a_2", "b.v1/c"]))
    )
    shard = next(first[0].glob("*.tar"))
    shard.write_bytes(next(second[0].glob("*.tar")).read_bytes())
    with open_reader(first[0]) as reader:
        for i in range(2):
            with pytest.raises(InputError, match="not those of this manifest"):
                reader.read(i)


def test_a_name_split_by_another_tar_writer_is_put_together(tmp_path):
    folder = preparations(tmp_path, ["d" * 60 + "/" + "e" * 35])[0]
    with open_reader(folder) as reader:
        expected = reader.read(0)
        shard = folder / reader.manifest.shards[0].name
        content = bytearray(shard.read_bytes())
        start = int(reader.index.offset[0, 0]) - 512
        content[start : start + 100] = (b"e" * 35 + b".png").ljust(100, b"\0")
        content[start + 345 : start + 500] = (b"d" * 60).ljust(155, b"\0")
        shard.write_bytes(content)
        assert reader.read(0) == expected


def test_bytes_that_are_no_tar_are_refused(split):
    with open_reader(split) as reader:
        shard = split / reader.manifest.shards[0].name
        shard.write_bytes(bytes(shard.stat().st_size))
        with pytest.raises(InputError, match=r"sample 'toy-.*': no file begins at its place: the shards are not"):
            reader.read(0)


@pytest.mark.parametrize("max_open", [1, 64])
@pytest.mark.parametrize("size", [8, 128])  # images of less and of more than what is copied once more
def test_many_are_read_as_one_by_one(tmp_path, max_open, size):
    samples = [Source(f"s{i:02d}", {"given": 0}, partial(coloured_png, 0, i, size), f"{i}") for i in range(20)]
    encoder = ImageEncoder(encoding="png")
    facts = {"dataset": "d", "split": "s", "classes": ("c",), "image": encoder.describe(), "source": {}}
    write_split(tmp_path / "s", samples, encode=encoder, shards=4, **facts)
    with open_reader(tmp_path / "s", max_open) as reader:
        assert bool(reader.index.size.min() > 2**14) is (size == 128)
        rows = np.random.default_rng(0).permutation(20)
        assert list(reader.read_many(rows)) == [reader.read(row) for row in rows.tolist()]
        assert list(reader.read_many(rows[:0])) == []


def test_a_foreign_sample_among_many_is_told_when_its_turn_comes(tmp_path):
    split = make_split(tmp_path / "s", 9, shards=1)
    with open_reader(split) as reader:
        reader.index.keys[4] = b"another"
        found = reader.read_many(np.arange(9))
        assert [next(found) for _ in range(4)] == [reader.read(row) for row in range(4)]
        with pytest.raises(InputError, match="lies at its place"):
            next(found)

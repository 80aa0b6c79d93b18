"""`en-bench data verify`: each kind of damage is told as what it is, and nothing else is."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from en_bench.cli import main
from en_bench.data import verify
from en_bench.data.manifest import load_manifest
from en_bench.data.places import place, write_file
from tests.data.damage import make, replace_index, verified
from tests.test_cli import one_line


@pytest.fixture
def split(tmp_path: Path) -> Path:
    return make(tmp_path / "train")


def test_a_whole_split_has_no_problem_whoever_does_the_work(split, capsys):
    expected = f"{split}: verified 9 samples in 3 shards: no problem"
    assert verified(split) == (0, [expected])
    assert main(["data", "verify", str(split), "--workers", "2"]) == 0
    told = capsys.readouterr()
    assert told.out == expected + "\n"
    assert "train: 9 of 9 samples" in told.err
    assert verified(split, "--fast") == (0, [f"{split}: verified size and sha256 of 3 shards (9 samples): no problem"])


def test_a_truncated_shard_is_told_with_the_samples_it_lost(split):
    manifest = load_manifest(split)
    name, size = manifest.shards[1].name, manifest.shards[1].bytes
    index = manifest.load_index()
    first, second, third = (index.key(row) for row in (3, 4, 5))
    with (split / name).open("r+b") as file:
        file.truncate(int(index.offset[4, 0]) + 100)
    code, lines = verified(split)
    assert code == 1
    assert lines == [
        f"  {name}: {int(index.offset[4, 0]) + 100:,} bytes instead of {size:,}",
        f"  {name}, sample {second!r}: .png is cut off",
        f"  {name}: not a whole tar: unexpected end of data",
        f"  {name}, sample {third!r}: missing",
        f"{split}: verified 8 samples in 3 shards: 4 problems",
    ]
    assert first not in "".join(lines)
    assert verified(split, "--fast")[1] == [
        lines[0],
        f"{split}: verified size and sha256 of 3 shards (9 samples): 1 problem",
    ]


def test_a_flipped_bit_is_told_with_its_sample(split):
    manifest = load_manifest(split)
    shard, index = manifest.shards[2], manifest.load_index()
    content = bytearray((split / shard.name).read_bytes())
    content[int(index.offset[7, 0]) + 60] ^= 1
    (split / shard.name).write_bytes(content)
    code, lines = verified(split)
    found = hashlib.sha256(content).hexdigest()
    assert code == 1
    assert lines[0] == f"  {shard.name}: sha256 {found[:12]}… instead of {shard.sha256[:12]}…"
    assert lines[1].startswith(f"  {shard.name}, sample {index.key(7)!r}: .png cannot be decoded: ")
    assert lines[2:] == [f"{split}: verified 9 samples in 3 shards: 2 problems"]
    assert verified(split, "--fast")[1][0] == lines[0]


def test_swapped_shards_of_one_size_are_told_by_hash_and_keys(split):
    manifest = load_manifest(split)
    a, b = manifest.shards[0], manifest.shards[1]
    assert a.bytes == b.bytes
    contents = (split / a.name).read_bytes(), (split / b.name).read_bytes()
    (split / a.name).write_bytes(contents[1])
    (split / b.name).write_bytes(contents[0])
    index = manifest.load_index()
    assert verified(split) == (
        1,
        [
            f"  {a.name}: sha256 {b.sha256[:12]}… instead of {a.sha256[:12]}…",
            f"  {a.name}: holds none of its 3 samples; the first that lies there is {index.key(3)!r}",
            f"  {b.name}: sha256 {a.sha256[:12]}… instead of {b.sha256[:12]}…",
            f"  {b.name}: holds none of its 3 samples; the first that lies there is {index.key(0)!r}",
            f"{split}: verified 3 samples in 3 shards: 4 problems",
        ],
    )


def test_a_missing_shard_and_a_strange_one_are_told(split):
    name = load_manifest(split).shards[0].name
    (split / name).rename(split / "other.tar")
    assert verified(split) == (
        1,
        [
            "  'other.tar': a tar that manifest.json does not list",
            f"  {name}: missing",
            f"{split}: verified 6 samples in 2 shards: 2 problems",
        ],
    )


def test_the_manifest_of_another_preparation_is_told(split, tmp_path):
    make(tmp_path / "other" / "train", offset=1000)
    shutil.copy(tmp_path / "other" / "train" / "manifest.json", split)
    code, lines = verified(split)
    assert code == 1
    assert lines[0].startswith(f"  {split}/index.npz: sha256 ")
    assert "belongs to another manifest.json" in lines[0]
    assert [line.split(": ")[1].split()[0] for line in lines[1:4]] == ["sha256"] * 3
    assert lines[4:] == [f"{split}: verified 9 samples in 3 shards: 4 problems"]


def test_a_key_used_twice_is_told(split):
    index = load_manifest(split).load_index()
    index.keys[:2] = index.keys[0]
    replace_index(split, index)
    assert verified(split)[1][0] == f"  index: key {index.key(0)!r} is that of 2 samples"


def test_skipped_samples_must_be_listed(split):
    (split / "skipped.csv").write_text("key,origin,reason\n")
    assert verified(split)[1][0] == "  skipped.csv: lists 0 samples, manifest.json says 1"
    (split / "skipped.csv").write_text("something,else\n1,2\n")
    assert "skipped.csv: not a list of key, origin and reason" in verified(split)[1][0]
    (split / "skipped.csv").unlink()
    assert "skipped.csv: No such file or directory" in verified(split)[1][0]


def test_what_is_no_tar_is_told(split):
    name = load_manifest(split).shards[0].name
    (split / name).write_bytes(b"x" * load_manifest(split).shards[0].bytes)
    lines = verified(split)[1]
    assert lines[1] == f"  {name}: not a whole tar: invalid header"
    assert lines[2] == f"  {name}: holds none of its 3 samples"
    (split / name).unlink()
    (split / name).mkdir()
    assert verified(split)[1][0].startswith(f"  {name}: cannot be read: Is a directory")


def test_all_splits_of_a_folder_are_checked_and_summed_up(tmp_path):
    make(tmp_path / "set" / "train")
    make(tmp_path / "set" / "variant" / "val", offset=5)
    (tmp_path / "set" / ".hidden").mkdir()
    shutil.copy(tmp_path / "set" / "train" / "manifest.json", tmp_path / "set" / ".hidden")
    top = tmp_path / "set"
    assert verified(top) == (
        0,
        [
            f"{top}/train: verified 9 samples in 3 shards: no problem",
            f"{top}/variant/val: verified 9 samples in 3 shards: no problem",
            f"{top}: verified 18 samples in 6 shards: no problem",
        ],
    )
    (top / "half" / ".preparing").mkdir(parents=True)
    (top / "variant" / "val" / "manifest.json").write_text("{")
    code, lines = verified(top)
    assert code == 1
    assert lines[0].startswith(f"  {top}/half: its preparation has not ended: run the script")
    assert lines[1] == f"{top}/half: verified 0 samples in 0 shards: 1 problem"
    assert lines[3].startswith(f"  {top}/variant/val/manifest.json: not JSON")
    assert lines[5] == f"{top}: verified 9 samples in 3 shards: 2 problems"


@pytest.fixture
def bucket(split: Path) -> str:
    """The split at a URL."""
    url = f"memory://verify-{split.parent.name}"
    for path in split.iterdir():
        if path.is_file():
            write_file(place(f"{url}/set/train/{path.name}"), path.read_bytes())
    return url


def test_splits_at_a_url_are_checked_like_those_in_a_folder(split, bucket):
    assert verified(f"{bucket}/set/train") == (0, [f"{bucket}/set/train: verified 9 samples in 3 shards: no problem"])
    assert verified(bucket)[1] == [f"{bucket}/set/train: verified 9 samples in 3 shards: no problem"]
    name = load_manifest(split).shards[1].name
    content = bytearray((split / name).read_bytes())
    content[20] ^= 1  # in the name of the first member
    write_file(place(f"{bucket}/set/train/{name}"), bytes(content))
    lines = verified(bucket)[1]
    assert lines[0].startswith(f"  {name}: sha256 ")
    assert lines[1:3] == [
        f"  {name}: not a whole tar: bad checksum",
        f"  {name}: holds none of its 3 samples",
    ]
    place(f"{bucket}/set/train/{name}").unlink()
    assert verified(bucket, "--fast")[1][0] == f"  {name}: missing"


def test_a_connection_that_fails_is_one_line_per_shard(bucket, monkeypatch):
    def fails(where: object, offset: int, size: int) -> bytes:
        raise OSError("memory://…: connection reset by peer")

    monkeypatch.setattr(verify, "read_range", fails)
    code, lines = verified(bucket)
    assert code == 1
    assert [line.partition(": ")[2] for line in lines[:3]] == [
        "cannot be read: memory://…: connection reset by peer"
    ] * 3
    assert lines[3] == f"{bucket}/set/train: verified 0 samples in 0 shards: 3 problems"


def test_wrong_arguments_end_in_one_line(tmp_path, capsys):
    for arguments, message in [
        ([tmp_path / "absent"], "absent: no such folder: prepare"),
        ([tmp_path], "no manifest.json in it: prepare the data set, or correct the path"),
        (["memory://nothing-there/set"], "memory://nothing-there/set: no manifest.json there: prepare"),
        (["nowhere://x"], "nowhere://x: "),
        ([tmp_path, "--workers", 0], "--workers 0 is too small: use 1 or more"),
    ]:
        assert main(["data", "verify", *map(str, arguments)]) == 1
        assert message in one_line(capsys)


def test_help_imports_no_numpy():
    for arguments in (["data", "--help"], ["data", "show", "--help"]):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "en_bench", *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert "split" in done.stdout
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
        assert not imported & {"torch", "numpy", "PIL", "fsspec"}

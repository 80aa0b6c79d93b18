"""`en-bench data index`: labels from `.cls`, JSON, keys and other files, and the classes that they name."""

from __future__ import annotations

import pytest

from en_bench.data.manifest import load_manifest
from tests.data.foreign import Verb, labels_of, sample, skipped_of, tar, tars


@pytest.fixture
def index(capsys: pytest.CaptureFixture[str]) -> Verb:
    return Verb(capsys)


KEYS = ["cat/1", "cat/2", "dog_house/1", "b/cat/3"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), ["cat", "cat", "dog_house", "cat"]),
        (("--labels", "key"), ["cat", "cat", "dog_house", "cat"]),
        (("--pattern", r"(\d)$"), ["1", "2", "1", "3"]),
        (("--labels", "key", "--pattern", "^(...)"), ["cat", "cat", "dog", "b/c"]),
    ],
)
def test_labels_of_keys(tmp_path, index, options, expected):
    tar(tmp_path / "x.tar", [file for i, key in enumerate(KEYS) for file in sample(key, i % 3, i, kind="none")])
    told = index(tmp_path, *options)
    assert ("labels are taken from the keys (--labels names another place)" in told.lines) == (not options)
    assert list(labels_of(tmp_path).values()) == expected
    assert load_manifest(tmp_path).classes == tuple(sorted(set(expected)))
    assert index.verified(tmp_path) == []


def test_labels_before_the_underscore(tmp_path, index):
    """As in timm's ImageNet, whose keys are n01440764_10026."""
    tar(
        tmp_path / "x.tar",
        [*sample("n02_7", 0, 0, "none"), *sample("n01_1_2", 1, 1, "none"), *sample("b", 1, 1, "none")],
    )
    told = index(tmp_path)
    assert labels_of(tmp_path) == {"n02_7": "n02", "n01_1_2": "n01"}
    assert skipped_of(tmp_path) == {"b": "its key names no class: it has no folder and no underscore"}
    assert told.lines[-1].endswith(f"skipped 1, see {tmp_path}/skipped.csv")


def test_labels_of_files(tmp_path, index):
    """Text of .cls and of other extensions, fields of JSON, and several columns at once."""
    tars(tmp_path / "txt", kind="txt")
    index(tmp_path / "txt", "--labels", "txt")
    assert load_manifest(tmp_path / "txt").classes == ("dark", "grey")
    assert labels_of(tmp_path / "txt")["0001"] == "grey" and labels_of(tmp_path / "txt")["0003"] == "dark"
    tars(tmp_path / "json", kind="json")
    told = index(tmp_path / "json", "--column", "clean=json:about.clean")
    assert told.lines[0] == "labels are taken from .json, field 'label' (--labels names another place)"
    assert labels_of(tmp_path / "json") == {f"{i:04d}": str(i % 3) for i in range(20)}
    assert labels_of(tmp_path / "json", "clean") == {f"{i:04d}": str((i % 3 + i % 2) % 3) for i in range(20)}
    index(tmp_path / "json", "--field", "about.clean", "--column", "shown=json:label")
    assert labels_of(tmp_path / "json") == {f"{i:04d}": str((i % 3 + i % 2) % 3) for i in range(20)}
    assert labels_of(tmp_path / "json", "shown")["0001"] == "1"
    assert index.verified(tmp_path / "json") == []
    assert "50.00 % differ from clean" not in "".join(index(tmp_path / "json", verb="info").lines)


def test_noise_against_a_clean_column_is_told(tmp_path, index):
    index(tars(tmp_path, kind="json"), "--column", "clean=json:about.clean")
    assert any("50.00 % differ from clean (10 of 20)" in line for line in index(tmp_path, verb="info").lines)


def test_cls_may_hold_names(tmp_path, index):
    names = ["zebra", "ant", " Ωmega\n", "zebra"]
    files = [
        file for i, name in enumerate(names) for file in [*sample(f"{i}", 0, i, "none"), (f"{i}.CLS", name.encode())]
    ]
    tar(tmp_path / "x.tar", files)
    index(tmp_path)
    assert load_manifest(tmp_path).classes == ("ant", "zebra", "Ωmega")
    assert list(labels_of(tmp_path).values()) == ["zebra", "ant", "Ωmega", "zebra"]


@pytest.mark.parametrize(
    ("name", "content", "expected", "skipped"),
    [
        ("names.txt", "dark\ngrey\nbright\n", ["dark", "grey", "bright"], 0),
        ("names.txt", "dark\ngrey", ["dark", "grey", None], 6),
        ("list.csv", "wnid,name\nn3,x\nn1,y\nn2,z\n", ["n3", "n1", "n2"], 0),
        ("map.csv", "source,target\n0,b\n2,a\n", ["b", None, "a"], 7),
        ("map.csv", "# version: 1\nsource,target\n0,b\n1,b\n2,a\n", ["b", "b", "a"], 0),
    ],
)
def test_classes_by_a_file(tmp_path, index, name, content, expected, skipped):
    (tmp_path / name).write_text(content)
    folder = tars(tmp_path / "set")
    assert index(folder, "--classes", tmp_path / name).code == 0
    assert labels_of(folder) == {f"{i:04d}": expected[i % 3] for i in range(20) if expected[i % 3]}
    reasons = set(skipped_of(folder).values())
    assert load_manifest(folder).skipped == skipped == len(skipped_of(folder))
    assert reasons <= {"label '2' is beyond the 2 classes", "label '1' is none of the 2 classes"}
    assert index.verified(folder) == []


def test_what_may_surprise_is_said(tmp_path, index):
    tar(tmp_path / "a.tar", [*sample("1", 0, 0), *sample("2", 5, 1), *sample("3", 5, 1)])
    told = index(tmp_path, "--column", "clean=json:label")
    assert "warning: 4 of 6 classes have no sample: 1, 2, 3, 4" in told.lines
    assert "warning: 3 of 3 samples have no label of a class in column 'clean'" in told.lines
    assert labels_of(tmp_path, "clean") == {"1": None, "2": None, "3": None}
    tar(tmp_path / "one" / "a.tar", sample("d/1", 0, 0, "none"))
    assert "warning: 1 classes in 1 samples: see whether --labels is right" in index(tmp_path / "one").lines


def test_json_that_holds_no_label(tmp_path, index):
    contents = ['{"label": 1}', "{", "[1]", '{"label": null}', '{"label": [1]}', '{"label": true}', '{"label": 2.0}']
    contents += ["[" * 100_000, '{"label": 1' + "0" * 400 + "}", '{"label": 0.5}', "{}", '{"label": "0"}']
    files = [
        file
        for i, content in enumerate(contents)
        for file in [*sample(f"{i:02d}", 1, i, "none"), (f"{i:02d}.json", content.encode())]
    ]
    tar(tmp_path / "x.tar", files)
    assert index(tmp_path, "--labels", "json").code == 0
    assert labels_of(tmp_path) == {"00": "1", "06": "2", "11": "0"}
    reasons = skipped_of(tmp_path)
    assert reasons["01"] == reasons["07"] == "its .json is not JSON"
    assert reasons["02"] == reasons["10"] == "its .json has no field 'label'"
    assert reasons["03"] == "field 'label' of its .json is null, neither a number nor a name"
    assert reasons["04"].endswith("is list, neither a number nor a name") and "bool" in reasons["05"]
    assert "float" in reasons["09"] and len(reasons) == 9

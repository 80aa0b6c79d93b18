"""Every kind of noise: its rate, its matrix, what it depends on, and that its labels never change."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_scripts.layouts.cifar_sets import CIFAR10, CIFAR100
from en_bench.errors import InputError
from en_bench.noise.base import Noise
from en_bench.noise.conditional import MatrixNoise, PairNoise, SymmetricNoise
from en_bench.noise.instance import InstanceNoise
from en_bench.noise.kinds import KINDS
from en_bench.noise.transition import transition_counts
from tests.data.test_draws import by_hand

N, C = 50_000, 10
KEYS = np.array([f"train/{i:05d}" for i in range(N)], dtype="S")
LABELS = np.arange(N, dtype=np.int32) % C
CLASSES = CIFAR10.classes


def images(rows):
    """Those of the rows, made of their keys; of few colours, so that images of one class are alike."""
    pattern = (np.arange(32 * 32 * 3) * 104729).astype(np.int32)
    made = (rows[:, None].astype(np.int32) % 50 * 7919 + pattern) % 251 + rows[:, None] % 5
    return made.astype(np.uint8).reshape(-1, 32, 32, 3)


@pytest.fixture(scope="module")
def skewed(tmp_path_factory) -> Path:
    """A matrix with zeros, a class that stays and one that always goes."""
    matrix = np.eye(C) * 0.7 + np.eye(C, k=1) * 0.2 + np.eye(C, k=-3) * 0.1
    matrix[4] = np.eye(C)[4]
    matrix[5] = (np.eye(C)[0] + np.eye(C)[9]) / 2
    matrix /= matrix.sum(axis=1, keepdims=True)
    path = tmp_path_factory.mktemp("matrix") / "T.json"
    path.write_text(json.dumps({"classes": list(CLASSES), "matrix": matrix.tolist()}))
    return path


def kinds(skewed: Path) -> dict[str, Noise]:
    return {
        "symmetric": SymmetricNoise(0.4),
        "symmetric_own": SymmetricNoise(0.4, include_own=True, seed=3),
        "pair": PairNoise(0.45),
        "cifar10": PairNoise(0.4, "cifar10"),
        "matrix": MatrixNoise(str(skewed)),
        "instance": InstanceNoise(0.4),
    }


NAMES = ["symmetric", "symmetric_own", "pair", "cifar10", "matrix", "instance"]
CONDITIONAL = NAMES[:-1]


def bounded(count: float, n: float, p: float) -> bool:
    """Whether a count is within five standard deviations of a binomial's mean."""
    return abs(count - n * p) <= 5 * math.sqrt(n * p * (1 - p))


@pytest.mark.parametrize("name", CONDITIONAL)
def test_the_realised_matrix_is_the_transition_within_binomial_bounds(skewed, name):
    noise = kinds(skewed)[name]
    made = noise.apply(LABELS, KEYS, CLASSES)
    counts = transition_counts(LABELS, made, C)
    wanted = noise.transition(CLASSES)
    assert wanted.sum(axis=1) == pytest.approx(np.ones(C))
    for i in range(C):
        for j in range(C):
            assert bounded(counts[i, j], N / C, wanted[i, j]), (i, j)
    assert (counts[wanted == 0] == 0).all() and made.dtype == np.int32


@pytest.mark.parametrize(
    ("noise", "share"),
    [
        (SymmetricNoise(0.2), 0.2),
        (SymmetricNoise(0.4), 0.4),
        (SymmetricNoise(0.6, seed=9), 0.6),
        (SymmetricNoise(0.4, include_own=True), 0.36),
        (PairNoise(0.45), 0.45),
        (PairNoise(0.4, "cifar10"), 0.2),
        (InstanceNoise(0.4), 0.4),
        # mean of the normal (0.2, 0.1) truncated to 0 .. 1: 0.2 + 0.1 * phi(-2) / (1 - Phi(-2)), phi(2) = 0.0539910
        (InstanceNoise(0.2), 0.2 + 0.1 * 0.0539910 / 0.9772499),
    ],
    ids=str,
)
def test_the_share_of_wrong_labels_is_what_the_rate_says(noise, share):
    n = 8_000 if noise.needs_images else N
    made = noise.apply(LABELS[:n], KEYS[:n], CLASSES, images)
    assert bounded((made != LABELS[:n]).sum(), n, share)


@pytest.mark.parametrize("name", NAMES)
def test_labels_do_not_depend_on_order_subset_or_the_width_of_keys(skewed, name):
    noise = kinds(skewed)[name]
    rows = np.arange(3000)
    whole = noise.apply(LABELS[rows], KEYS[rows], CLASSES, images)
    assert np.array_equal(noise.apply(LABELS[rows], KEYS[rows], CLASSES, images), whole)
    order = np.random.default_rng(5).permutation(rows)[:1700]
    keys = KEYS.astype("S60")[order]
    assert np.array_equal(noise.apply(LABELS[order], keys, CLASSES, lambda chosen: images(order[chosen])), whole[order])
    other = type(noise)(**vars_of(noise), seed=noise.seed + 1)
    assert not np.array_equal(other.apply(LABELS[rows], KEYS[rows], CLASSES, images), whole)


def vars_of(noise: Noise) -> dict[str, Any]:
    """The arguments that a noise was made with, but the seed."""
    return {name: value for name, value in vars(noise).items() if name in ("rate", "include_own", "mapping", "matrix")}


@pytest.mark.parametrize("name", NAMES)
def test_unknown_labels_stay_unknown_and_change_no_other(skewed, name):
    noise = kinds(skewed)[name]
    labels = LABELS[:2000].copy()
    labels[::3] = -1
    made = noise.apply(labels, KEYS[:2000], CLASSES, images)
    assert (made[::3] == -1).all() and (made[labels >= 0] >= 0).all()
    whole = noise.apply(LABELS[:2000], KEYS[:2000], CLASSES, images)
    assert np.array_equal(made[labels >= 0], whole[labels >= 0])
    assert np.array_equal(labels[::3], np.full(667, -1)), "what was given is left as it is"


DIGESTS = {
    "symmetric": "4b89acc244958b9a",
    "symmetric_own": "ebb3b208f4ca5079",
    "pair": "1c732cd4d111c714",
    "cifar10": "6e4d9f341de5c02d",
    "matrix": "b3e759c158e0c9a3",
    "instance": "ba4f1cb76b2b2e79",
}


@pytest.mark.parametrize("name", NAMES)
def test_labels_never_change(skewed, name):
    """Recorded runs depend on them."""
    made = kinds(skewed)[name].apply(LABELS[:5000], KEYS[:5000], CLASSES, images)
    assert hashlib.sha256(made.astype("<i4").tobytes()).hexdigest()[:16] == DIGESTS[name]


def test_symmetric_labels_by_hand():
    """From the published generator, in the stream "noise": the first number decides whether, the second which."""
    stream = int.from_bytes(b"noise", "big")
    wanted = []
    for i in range(300):
        chance, choice = by_hand(KEYS[i], 7, stream, 2)
        others = [label for label in range(C) if label != LABELS[i]]
        wanted.append(others[int(choice * 9)] if chance < 0.4 else int(LABELS[i]))
    assert SymmetricNoise(0.4, seed=7).apply(LABELS[:300], KEYS[:300], CLASSES).tolist() == wanted
    assert 80 < sum(a != b for a, b in zip(wanted, LABELS, strict=False)) < 160


def test_a_higher_rate_keeps_the_wrong_labels_of_a_lower_one():
    low, high = (SymmetricNoise(rate).apply(LABELS, KEYS, CLASSES) for rate in (0.2, 0.4))
    wrong = low != LABELS
    assert np.array_equal(low[wrong], high[wrong]) and (high != LABELS).sum() > 1.9 * wrong.sum()


def test_rates_of_nought_and_one():
    assert np.array_equal(SymmetricNoise(0).apply(LABELS, KEYS, CLASSES), LABELS)
    assert (SymmetricNoise(1).apply(LABELS, KEYS, CLASSES) != LABELS).all()
    assert np.array_equal(PairNoise(1).apply(LABELS, KEYS, CLASSES), (LABELS + 1) % C)
    two = LABELS % 2
    assert np.array_equal(SymmetricNoise(1).apply(two, KEYS, ("a", "b")), 1 - two)


def test_noise_and_augmentation_draw_different_numbers():
    from en_bench.data.draws import draws

    flipped = SymmetricNoise(0.5, seed=0).apply(LABELS, KEYS, CLASSES) != LABELS
    for epoch in range(3):
        augmentation = draws(KEYS, 0, epoch, 3)
        for column in augmentation.T:
            assert abs(np.corrcoef(flipped, column)[0, 1]) < 5 / math.sqrt(N)


def test_the_usual_maps_of_cifar():
    named = {"truck": "automobile", "bird": "airplane", "deer": "horse", "cat": "dog", "dog": "cat"}
    matrix = PairNoise(0.3, "cifar10").transition(CLASSES)
    for i, source in enumerate(CLASSES):
        for j, target in enumerate(CLASSES):
            moved = named.get(source)
            wanted = (0.3 if target == moved else 0.7 if target == source else 0) if moved else float(i == j)
            assert matrix[i, j] == pytest.approx(wanted)
    hundred = PairNoise(0.3, "cifar100").transition(CIFAR100.classes)
    np.fill_diagonal(hundred, 0)
    moves = dict(zip(CIFAR100.classes, np.array(CIFAR100.classes)[hundred.argmax(axis=1)].tolist(), strict=True))
    assert sorted(moves.values()) == sorted(CIFAR100.classes), "each class is mistaken for one, and one for it"
    assert moves["beaver"] == "dolphin" and moves["whale"] == "beaver"  # aquatic mammals
    assert moves["maple_tree"] == "oak_tree" and moves["willow_tree"] == "maple_tree"
    circles = set()
    for name in moves:
        circle = [name]
        while (following := moves[circle[-1]]) != name:
            circle.append(following)
        circles.add(frozenset(circle))
    assert len(circles) == 20 and {len(circle) for circle in circles} == {5}


def test_mappings_by_name_and_from_a_table(tmp_path):
    table = tmp_path / "map.csv"
    table.write_text("source,target\ncat,dog\nship,truck\n")
    of_table, of_names = PairNoise(0.5, str(table)), PairNoise(0.5, {"cat": "dog", "ship": "truck"})
    assert np.array_equal(of_table.transition(CLASSES), of_names.transition(CLASSES))
    assert of_table.arguments()["mapping"]["file"] == "map.csv" and len(of_table.arguments()["mapping"]["sha256"]) == 64
    assert str(PairNoise(0.4, "cifar10")) == "pair 0.4 mapping cifar10 (seed 0)"


def test_noise_of_files_is_named_by_them(skewed, tmp_path):
    assert str(MatrixNoise(str(skewed))) == "matrix T.json (seed 0)"
    (tmp_path / "map.csv").write_text("source,target\ncat,dog\n")
    assert str(PairNoise(0.4, str(tmp_path / "map.csv"), seed=2)) == "pair 0.4 mapping map.csv (seed 2)"
    assert str(SymmetricNoise(0.4, include_own=True)) == "symmetric 0.4 include_own true (seed 0)"


def test_descriptions_tell_kinds_arguments_and_seeds_apart(skewed):
    told = {json.dumps(noise.describe(), sort_keys=True) for noise in kinds(skewed).values()}
    told |= {json.dumps(SymmetricNoise(0.4, seed=1).describe(), sort_keys=True)}
    assert len(told) == 7 and {noise.kind for noise in kinds(skewed).values()} == set(KINDS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SymmetricNoise(1.5).validate(), "1.5 is not a rate: use 0 to 1"),
        (lambda: PairNoise(-0.1).validate(), "-0.1 is not a rate"),
        (lambda: SymmetricNoise(float("nan")).validate(), "nan is not a rate"),
        (lambda: SymmetricNoise(0.1, seed=-1).validate(), "-1 is not a seed"),
        (lambda: InstanceNoise(0).validate(), "leave it out"),
        (lambda: SymmetricNoise(0.1).check(("only",)), "one class has no other"),
        (
            lambda: PairNoise(0.1, "cifar100").check(CIFAR10.classes),
            "classes that it has, or use mapping cifar10 or next",
        ),
        (lambda: PairNoise(0.1, "cifar10").check(CIFAR10.classes[1:]), "'airplane' of its mapping is none of the 9"),
        (
            lambda: PairNoise(0.1, "cifar01").validate(),
            "there is no mapping 'cifar01': use next, cifar10, cifar100, or a CSV",
        ),
        (lambda: MatrixNoise("nowhere.json").validate(), "nowhere.json: No such file or directory: name the file"),
    ],
)
def test_what_cannot_be_made_is_told_in_one_line(make, message):
    with pytest.raises(InputError) as told:
        make()
    assert message in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nonsense", "no transition matrix"),
        ("[[1, 0], [0.5, 0.4]]", "row 1 is no distribution (sum 0.9, least 0.4)"),
        ("[[1.5, -0.5], [0, 1]]", "row 0 is no distribution (sum 1, least -0.5)"),
        ("[[1, 0, 0], [0, 1, 0]]", "shape (2, 3) is not square"),
        ("[[1, 0], [1]]", "no transition matrix"),
        ('{"classes": ["a"], "matrix": [[1, 0], [0, 1]]}', "1 class names for 2 rows"),
        ('{"classes": [1, 2], "matrix": [[1, 0], [0, 1]]}', "class names that are not text"),
        ('{"classes": ["a", "c"], "matrix": [[1, 0], [0, 1]]}', "first 'c' in the place of 'b'"),
        (
            "[[1, 0, 0], [0, 1, 0], [0, 0, 1]]",
            "the matrix is of 3 classes, and the set has 2: use a matrix of this very set",
        ),
        ('{"classes": ["a", "b"]}', "no transition matrix"),
        ("[[NaN, 1], [0, 1]]", "row 0 is no distribution"),
    ],
)
def test_files_that_hold_no_matrix_of_the_set(tmp_path, content, message):
    path = tmp_path / "T.json"
    path.write_text(content)
    with pytest.raises(InputError) as told:
        MatrixNoise(str(path)).check(("a", "b"))
    assert message in str(told.value) and "\n" not in str(told.value)


def test_numpy_files_without_pickles(tmp_path):
    np.save(tmp_path / "T.npy", np.array([[0.25, 0.75], [0, 1]], dtype=np.float32))
    assert MatrixNoise(str(tmp_path / "T.npy")).transition(("a", "b")).tolist() == [[0.25, 0.75], [0, 1]]
    np.save(tmp_path / "object.npy", np.array([[1, None], [0, 1]], dtype=object), allow_pickle=True)
    (tmp_path / "empty.npy").touch()
    np.savez(tmp_path / "several.npz", np.eye(2))
    (tmp_path / "several.npz").rename(tmp_path / "several.npy")
    for name in ("object", "empty", "several"):
        with pytest.raises(InputError, match=r"^[^\n]*no transition matrix[^\n]*$"):
            MatrixNoise(str(tmp_path / f"{name}.npy")).validate()


def test_equal_bytes_under_another_name_compare_as_equal(tmp_path):
    for name, row in (("a", "0.5, 0.5"), ("b", "0.5, 0.5"), ("other", "0.4, 0.6")):
        (tmp_path / f"{name}.json").write_text(f"[[{row}], [0, 1]]")
        (tmp_path / f"{name}.csv").write_text(f"source,target\ncat,{name if name == 'other' else 'dog'}\n")
    for make in (lambda name: MatrixNoise(f"{name}.json"), lambda name: PairNoise(0.1, f"{name}.csv")):
        a, b, other = (make(str(tmp_path / name)) for name in ("a", "b", "other"))
        assert a.compared() == b.compared() != other.compared()
        assert a.describe() != b.describe() and "b." in str(b), "records name the file"

from pathlib import Path

import pytest

from en_bench.errors import InputError
from en_bench.matrix.spec import load_spec


def edit(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def test_reads_every_part(spec_file: Path) -> None:
    spec = load_spec(spec_file)
    assert (spec.name, spec.title) == ("digits", "Digits, handwritten against typeset")
    assert [overlay.path for overlay in spec.base] == [
        Path("experiments/base.yaml"),
        Path("experiments/recipe/digits.yaml"),
    ]
    assert list(spec.norms) == ["BatchNorm", "ExemplarNorm"]
    assert list(spec.train) == list(spec.validate) == ["handwritten", "typeset"]
    assert (spec.seeds, spec.metric) == ((0, 1), "top1")
    assert spec.target("typeset") == {"data.val": "digits/typeset/val", "data.val_labels": "clean"}


def test_validation_only_sets(spec_file: Path) -> None:
    edit(spec_file, "seeds:", "validate: {other: {data: {val: else/val, val_labels: given}}}\nseeds:")
    spec = load_spec(spec_file)
    assert list(spec.validate) == ["other"]
    assert spec.target("other") == {"data.val": "else/val", "data.val_labels": "given"}


def test_a_part_of_the_training_sets(spec_file: Path) -> None:
    assert list(load_spec(edit(spec_file, "seeds:", "validate: [typeset]\nseeds:")).validate) == ["typeset"]


def test_base_may_set_what_all_cells_share(spec_file: Path) -> None:
    edit(spec_file.parent / "base.yaml", "workers: 2", "workers: 2, val: shared/val, val_labels: clean")
    edit(spec_file, "typeset: data/typeset.yaml", "typeset: {data: {train: a}}")
    assert load_spec(spec_file).target("typeset") == {"data.val": "shared/val", "data.val_labels": "clean"}


def test_a_training_set_by_its_own_overlays_validates_on_its_own(spec_file: Path) -> None:
    edit(spec_file, "seeds:", "validate: {typeset: data/typeset.yaml}\nseeds:")
    assert load_spec(spec_file).target("typeset")["data.val"] == "digits/typeset/val"


def test_overlay_file_with_a_place_is_named(spec_file: Path) -> None:
    edit(spec_file.parent / "base.yaml", "workers: 2", "root: /data")
    with pytest.raises(InputError, match=r"digits.yaml: base: base.yaml: .* sets data.root.* give --data-root"):
        load_spec(spec_file)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds: [0, 1]", "seed: [0]", "unknown key 'seed'; did you mean 'seeds'?"),
        ("seeds: [0, 1]", "", "the key 'seeds' is missing"),
        ("seeds: [0, 1]", "seeds: []", "expected a list of whole numbers"),
        ("seeds: [0, 1]", "seeds: [0, -1]", "-1 is no whole number"),
        ("seeds: [0, 1]", "seeds: [true]", "True is no whole number"),
        ("seeds: [0, 1]", "seeds: [0, 0]", "stands twice"),
        (
            "norm/en.yaml",
            "norm/em.yaml",
            "norms.ExemplarNorm: there is no file norm/em.yaml; did you mean 'norm/en.yaml'",
        ),
        (
            "norm/en.yaml",
            "norm/nosuch.yaml",
            "from the specification's folder on: experiments/norm/nosuch.yaml would be it\n",
        ),
        (
            "{BatchNorm: norm/bn.yaml, ExemplarNorm: norm/en.yaml}",
            "[norm/bn.yaml, norm/en.yaml]",
            "norms: it is a list: give each a label, as in norms: {LABEL: OVERLAY, ...}",
        ),
        ("norm/en.yaml", "3", "an overlay is a file name or a mapping, not 3"),
        ("ExemplarNorm:", "batchnorm:", "'batchnorm' stands twice"),
        ("ExemplarNorm:", "BatchNorm:", "'BatchNorm' stands twice"),
        ("ExemplarNorm:", "a/b:", "cannot name a file"),
        ("ExemplarNorm:", "no:", "the key False is not text: put it in quotes"),
        ("ExemplarNorm:", "..:", "cannot name a file"),
        ("{BatchNorm: norm/bn.yaml, ExemplarNorm: norm/en.yaml}", "{}", "norms: expected at least one"),
        ("name: digits", "name: ../digits", "cannot name a file"),
        ("title: Digits", "title: [Digits]\n#", "expected one line of text"),
        ("seeds:", "metric: top-1\nseeds:", "'top-1' is not one of top1, top5, nll, ece; did you mean 'top1'?"),
        ("seeds:", "validate: [typset]\nseeds:", "'typset' is no label of train; did you mean 'typeset'?"),
        ("seeds:", "validate: []\nseeds:", "the list is empty"),
        (
            "seeds:",
            "validate: [typeset, {v2: {data: {val: x, val_labels: y}}}]\nseeds:",
            "{'v2': {'data': {'val': 'x', 'val_labels': 'y'}}} is no label of train; other sets need a mapping",
        ),
        ("seeds:", "validate: [[typeset]]\nseeds:", "['typeset'] is no label of train"),
        ("seeds:", "validate: [typeset, typeset]\nseeds:", "stands twice"),
        (
            "seeds:",
            "validate: {x: {data: {val_labels: a}}}\nseeds:",
            "validate.x: its overlays set no data.val",
        ),
        (
            "seeds:",
            "validate: {x: {data: {val: a}}}\nseeds:",
            "leave data.val_labels open, though training set handwritten",
        ),
        ("typeset: data/typeset.yaml", "typeset: {data: {val: a}}", "train.typeset: its overlays set no data.train"),
        ("typeset: data/typeset.yaml", "typeset: {1: a}", "put it in quotes"),
        ("typeset: data/typeset.yaml", "typeset: [data/typeset.yaml, {data: {root: /d}}]", "sets data.root"),
        ("norm/en.yaml", "{data: {root: null}}", "norms.ExemplarNorm: an overlay sets data.root"),
        ("norm/en.yaml", "{data.root: /d}", "the key 'data.root' has a dot"),
        ("norm/en.yaml", "[norm/en.yaml, {ckpt_path: a.ckpt}]", "norms.ExemplarNorm: an overlay sets ckpt_path, which"),
        ("norm/en.yaml", "[norm/en.yaml, {result: a.json}]", "an overlay sets result, which each cell has of its own"),
        ("norm/en.yaml", "{trainer: {default_root_dir: a}}", "an overlay sets trainer.default_root_dir, which"),
        ("norm/en.yaml", "{trainer: {gradient_clip_val: .inf}}", "trainer: gradient_clip_val: inf is no finite number"),
        ("norm/en.yaml", "{model: {names: [1, -.inf]}}", "model: names: -inf is no finite number"),
        ("norm/en.yaml", "{model: {norm.class_path: x}}", "the key 'norm.class_path' has a dot"),
        (
            "norm/en.yaml",
            "[norm/en.yaml, {data: {train: a}}]",
            "norms.ExemplarNorm: a normaliser's overlays set data.train",
        ),
        ("norm/en.yaml", "{data: {val: a}}", "norms.ExemplarNorm: a normaliser's overlays set data.val"),
        ("norm/en.yaml", "{data: {val_labels: a}}", "norms.ExemplarNorm: a normaliser's overlays set data.val_labels"),
        (
            "seeds:",
            "validate: {x: {model: {lr: 1}, data: {val: a, val_labels: a}}}\nseeds:",
            "validate.x: its overlays set model.lr, which no validation would take over",
        ),
        (
            "seeds:",
            "validate: {x: {data: {val: a, val_labels: a, val_batch_size: 8}}}\nseeds:",
            "validate.x: its overlays set data.val_batch_size",
        ),
    ],
)
def test_mistake_is_one_line_with_file_and_cure(old: str, new: str, message: str, spec_file: Path) -> None:
    with pytest.raises(InputError) as error:
        load_spec(edit(spec_file, old, new))
    assert message in f"{error.value}\n"
    assert str(error.value).startswith("experiments/digits.yaml")
    assert "\n" not in str(error.value)


def test_missing_specification(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.yaml: no such file"):
        load_spec(tmp_path / "none.yaml")

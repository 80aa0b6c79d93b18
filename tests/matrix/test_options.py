"""Options that overlays set, told from typing errors before anything is imported."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from lightning import Trainer

from en_bench.data.module import ShardDataModule
from en_bench.dynamics import DynamicsRecorder
from en_bench.errors import InputError
from en_bench.matrix import options as matrix_options
from en_bench.matrix.options import check_options, options
from en_bench.matrix.spec import load_spec
from en_bench.resume.checkpoint import RunCheckpoint
from en_bench.tasks.classification import ClassificationTask
from tests.conftest import REPO
from tests.matrix.test_spec import edit
from tests.matrix.test_verbs import call


@pytest.mark.parametrize(
    ("section", "cls"),
    [
        ("trainer", Trainer),
        ("model", ClassificationTask),
        ("data", ShardDataModule),
        ("checkpoint", RunCheckpoint),
        ("dynamics", DynamicsRecorder),
    ],
)
def test_the_source_tells_what_the_class_has(section: str, cls: type) -> None:
    assert options(section) == set(inspect.signature(cls).parameters)


@pytest.mark.parametrize("verb", [["plan"], ["run", "--dry-run"], ["run"]])
@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        (
            "base.yaml",
            "trainer: {max_epcohs: 2}",
            "experiments/base.yaml: trainer.max_epcohs: there is no such option; did you mean 'max_epochs'?",
        ),
        ("norm/en.yaml", "model: {nrom: ExemplarNorm}", "experiments/norm/en.yaml: model.nrom: .* mean 'norm'"),
        ("recipe/digits.yaml", "trianer: {max_epochs: 2}", "no section 'trianer'; did you mean 'trainer'?"),
        ("base.yaml", "trainer: 5", "base.yaml: trainer: expected a mapping .*, found 5$"),
        ("base.yaml", "trainer: {max_epochs: two}", "base.yaml: trainer.max_epochs: 'two' is no whole number$"),
        ("base.yaml", "trainer: {max_epochs: 0}", "base.yaml: trainer.max_epochs: 0: nothing would be trained"),
        ("base.yaml", "trainer: {max_steps: 0}", "base.yaml: trainer.max_steps: 0: nothing would be trained"),
        ("recipe/digits.yaml", "data: {quite_else: 2}", "experiments/recipe/digits.yaml: data.quite_else: .* option$"),
    ],
)
def test_a_typing_error_is_told_before_anything_runs(
    spec_file: Path, verb: list[str], file: str, content: str, told: str
) -> None:
    (spec_file.parent / file).write_text(content)
    with pytest.raises(InputError, match=told.replace("?", r"\?").replace("nrom: .*", "nrom:.*")):
        call("matrix", *verb, str(spec_file))
    assert not Path("results").exists()


def test_of_an_inline_overlay_the_specification_is_named(spec_file: Path) -> None:
    edit(spec_file, "{data: {val_labels: clean}}", "{data: {val_labels: clean, seeed: 3}}")
    with pytest.raises(InputError, match=r"^experiments/digits.yaml: data.seeed: .*; did you mean 'seed'\?$"):
        call("matrix", "plan", str(spec_file))


def test_no_false_alarm(spec_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = spec_file.parent / "base.yaml"
    callback = "lightning.pytorch.callbacks.LearningRateMonitor"
    base.write_text(
        f"trainer: {{callbacks+: [{{class_path: {callback}}}], max_epochs: '2', max_steps: -1}}\n"
        "model:\nseed_everything: 3\n"
        "checkpoint: {every_minutes: 5}\ndynamics: {every_n_epochs: 1}\nmine: {anything: 1}\n"
    )
    check_options(load_spec(spec_file))
    # Where the source is another than it was, nothing is known.
    options.cache_clear()
    monkeypatch.setitem(matrix_options._CLASSES, "model", (("en_bench", "tasks/classification.py", "Elsewhere"),))
    monkeypatch.setitem(matrix_options._CLASSES, "data", (("no_such_package", "module.py", "ShardDataModule"),))
    base.write_text("model: {anything: 1}\ndata: {anything: 1}\n")
    check_options(load_spec(spec_file))
    options.cache_clear()


def test_the_experiments_that_are_here_have_no_typing_error_and_torch_is_not_needed_to_tell() -> None:
    program = (
        "import sys; from pathlib import Path; from en_bench.matrix.options import check_options\n"
        "from en_bench.matrix.spec import load_spec\n"
        "specs = [path for path in Path('experiments').glob('*.yaml') if 'norms:' in path.read_text()]\n"
        "for path in specs: check_options(load_spec(path))\n"
        "print(len(specs), 'torch' in sys.modules, 'lightning' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True)
    count, *imported = done.stdout.split()
    assert int(count) > 10 and imported == ["False", "False"]

"""What docs/datasets.md says can be typed."""

import argparse
import importlib
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from en_bench.data.prepare import add_raw_options, make_parser
from en_bench.matrix.spec import load_spec
from tests.scripts.raw import REPO

DOCS = REPO / "docs" / "datasets.md"
SCRIPTS = [path for path in sorted((REPO / "data_scripts").glob("*.py")) if "def main(" in path.read_text()]


def recipes() -> list[list[str]]:
    """The commands of the fenced blocks, each as its words."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", DOCS.read_text(), re.S | re.M)
    return [shlex.split(line) for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def parsed(command: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """A recipe's options, by the parser that its script makes."""
    found: list[argparse.Namespace] = []
    python, script, *arguments = command
    assert python == "python"
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))

    def parse_only(parser: argparse.ArgumentParser, work: object, argv: list[str]) -> int:
        found.append(parser.parse_args(argv))
        return 0

    monkeypatch.setattr(module, "run_script", parse_only)
    assert module.main(arguments) == 0
    return found[0]


@pytest.mark.parametrize("command", recipes(), ids=lambda command: " ".join(command[1:])[-40:])
def test_every_recipe_is_one_that_its_script_takes(monkeypatch, command):
    args = parsed(command, monkeypatch)
    for name in ("class_map", "class_list"):
        table = getattr(args, name, None)
        assert table is None or (REPO / table).is_file()
    if command[1].endswith("imagefolder.py"):
        importlib.import_module("data_scripts.imagefolder").check_options(args)


def test_every_script_has_a_recipe_and_every_common_option_a_line():
    used = {Path(command[1]).name for command in recipes()}
    assert used == {path.name for path in SCRIPTS}
    parser = make_parser("")
    add_raw_options(parser)
    text = DOCS.read_text()
    options = [action.option_strings[-1] for action in parser._actions if action.dest != "help"]
    assert len(options) > 10
    assert [option for option in options if f"\n| `{option}" not in text] == []


def test_every_overlay_that_is_named_is_one_and_finds_what_its_recipe_writes():
    prefixes = set(re.findall(r"`((?:data|validate)/\w+\*?)\.yaml`", DOCS.read_text()))
    named = {path for prefix in prefixes for path in (REPO / "experiments").glob(f"{prefix}.yaml")}
    assert all(list((REPO / "experiments").glob(f"{prefix}.yaml")) for prefix in prefixes)
    there = {path for folder in ("data", "validate") for path in (REPO / "experiments" / folder).glob("*.yaml")}
    assert there - named == {REPO / "experiments" / "validate" / "cifar7_1.yaml"}
    written = {command[command.index("--out") + 1].removeprefix("data/") for command in recipes()}
    for path in there:
        for split in ("train", "val"):
            where = yaml.safe_load(path.read_text())["data"].get(split)
            assert where is None or where.split("/")[0] in written, path


def test_the_matrix_with_sets_to_validate_on_is_one(tmp_path):
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", DOCS.read_text(), re.S | re.M)
    shutil.copytree(REPO / "experiments", tmp_path / "experiments")
    (tmp_path / "experiments" / "shifts.yaml").write_text(text)
    spec = load_spec(tmp_path / "experiments" / "shifts.yaml")
    assert list(spec.validate) == ["cifar10", "10.1", "fog"]
    assert spec.target("fog") == {"data.val": "cifar10_c_fog_3/val"}

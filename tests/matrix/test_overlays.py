from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ActionConfigFile, ArgumentParser

from en_bench.errors import InputError
from en_bench.matrix.overlays import Overlay, merge, read_yaml, shown


class Model:
    def __init__(self, lr: float = 0.1, names: list[str] | None = None) -> None: ...


class Small(Model):
    def __init__(self, lr: float = 0.1, names: list[str] | None = None, width: int = 1) -> None: ...


class Large(Model):
    def __init__(self, lr: float = 0.1, names: list[str] | None = None, depth: int = 1) -> None: ...


def parse(arguments: list[str]) -> dict[str, Any]:
    """What the real parser makes of the arguments."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action=ActionConfigFile)
    parser.add_subclass_arguments(Model, "model", required=False)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--decay", type=float, default=0.0)
    parser.add_argument("--run.name", type=str | None, default="x")
    parser.add_argument("--run.on", type=bool, default=False)
    parsed = parser.parse_args(arguments).as_dict()
    del parsed["config"]
    return parsed


def name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


@pytest.mark.parametrize(
    "config",
    [
        {"steps": 5, "decay": -1e-3, "run": {"name": "a b", "on": True}},
        {"run": {"name": None}},
        {"run": {"name": "-x"}},
        {"model": {"class_path": "Large", "init_args": {"depth": 7, "names": ["x", "y: z"], "lr": 1e-05}}},
    ],
)
def test_inline_overlay_as_flags_means_the_same_as_a_file(config: dict[str, Any], tmp_path: Path) -> None:
    import yaml

    if "model" in config:
        config = {"model": {**config["model"], "class_path": name(Large)}}
    (tmp_path / "overlay.yaml").write_text(yaml.safe_dump(config))
    by_flags = parse(Overlay(config).flags())
    assert by_flags == parse(["--config", str(tmp_path / "overlay.yaml")])
    assert by_flags != parse([])


def test_a_class_is_one_flag_and_all_else_a_flag_per_leaf() -> None:
    inner = {"class_path": "A", "init_args": {"x": [1], "y": None}}
    assert Overlay(
        {"model": {"norm": inner, "init_args": {"lr": 0.1}}, "on": True, "name": "a b", "z": {}}
    ).flags() == [
        "--model.norm",
        '{"class_path": "A", "init_args": {"x": [1], "y": null}}',
        "--model.init_args.lr",
        "0.1",
        "--on",
        "true",
        "--name",
        "a b",
        "--z",
        "{}",
    ]


def test_files_and_inline_overlays_apply_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("steps: 2\ndecay: 1e-3\n")
    (tmp_path / "b.yaml").write_text("steps: 4\n")
    chain = [
        Overlay({"steps": 2, "decay": 1e-3}, tmp_path / "a.yaml"),
        Overlay({"steps": 3, "run": {"name": "inline"}}),
        Overlay({"steps": 4}, tmp_path / "b.yaml"),
    ]
    parsed = parse([part for overlay in chain for part in overlay.flags()])
    merged = merge(overlay.config for overlay in chain)
    assert merged == {"steps": 4, "decay": 1e-3, "run": {"name": "inline"}}
    assert (parsed["steps"], parsed["decay"], parsed["run"]["name"]) == (4, 1e-3, "inline")


def test_arguments_of_a_replaced_class_stay_because_the_parser_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(f"model:\n  class_path: {name(Small)}\n  init_args: {{lr: 0.5, width: 3}}\n")
    large = {"model": {"class_path": name(Large)}}
    real = parse(["--config", str(tmp_path / "small.yaml"), *Overlay(large).flags()])
    assert real["model"]["init_args"]["lr"] == 0.5
    merged = merge([read_yaml(tmp_path / "small.yaml"), large])
    # A superset of what takes effect: dropping lr here would give two different trainings one identity.
    assert merged == {"model": {"class_path": name(Large), "init_args": {"lr": 0.5, "width": 3}}}


def test_a_class_on_the_way_that_drops_arguments_makes_another_configuration() -> None:
    """By the real parser: Large knows no width, so that Small after it has its default again."""
    small = {"model": {"class_path": name(Small), "init_args": {"width": 3}}}
    large, again = {"model": {"class_path": name(Large)}}, {"model": {"class_path": name(Small)}}
    other = {"model": {"class_path": name(Model)}}
    chains = [[small], [small, large, again], [small, large], [small, other, large], [small, again]]
    parsed = [parse([part for config in chain for part in Overlay(config).flags()]) for chain in chains]
    assert [each["model"]["init_args"].get("width") for each in parsed] == [3, 1, None, None, 3]
    merged = [merge(chain) for chain in chains]
    assert merged[1] != merged[0]
    assert merged[1]["model"] == {**merged[0]["model"], "replaced_classes": [name(Small), name(Large)]}
    assert merged[3] != merged[2]
    # Where one class or none came before, the configuration is what it always was, and so the identity.
    assert merged[2] == {"model": {"class_path": name(Large), "init_args": {"width": 3}}}
    assert merged[4] == merged[0] == small
    assert merge([merge([small, large]), {"steps": 2}]) == {**merged[2], "steps": 2}


def test_a_class_that_had_no_arguments_leaves_no_trace() -> None:
    a, b, c = ({"m": {"class_path": path}} for path in "ABC")
    assert merge([a, b, {"m": {"init_args": {"x": 1}}}, c]) == {"m": {"class_path": "C", "init_args": {"x": 1}}}
    assert merge([a, {"m": {"init_args": {"x": 1}}}, {"m": "B"}, {"m": "A"}])["m"]["replaced_classes"] == ["A", "B"]
    spelt = [{"m": {"class_path": path, "init_args": {"x": 1}}} for path in ("p.A", "A", "p.A", "B")]
    assert "replaced_classes" not in merge(spelt)["m"], "the same class, whose package may be left out"
    inner = {"o": {"class_path": "X", "init_args": {"m": {"class_path": "A", "init_args": {"x": 1}}}}}
    through = [{"o": {"init_args": {"m": {"class_path": path}}}} for path in "BA"]
    assert merge([inner, *through]) != merge([inner])


def test_short_form_of_a_class_merges_like_the_long_one() -> None:
    long = {"m": {"class_path": "A", "init_args": {"x": 1}}}
    assert merge([long, {"m": "B"}]) == {"m": {"class_path": "B", "init_args": {"x": 1}}}
    assert merge([{"m": "A"}, {"m": {"init_args": {"x": 1}}}]) == long
    assert merge([{"m": "A"}, {"m": "B"}]) == {"m": "B"}


def test_lists_replace_unless_they_append() -> None:
    assert merge([{"a": [1]}, {"a": [2]}]) == {"a": [2]}
    assert merge([{"a+": [1]}, {"a+": [2]}]) == {"a+": [1, 2]}


def test_merging_changes_no_overlay() -> None:
    first, second = {"a": {"b": 1}}, {"a": {"c": 2}}
    merge([first, second])["a"]["d"] = 3
    assert (first, second) == ({"a": {"b": 1}}, {"a": {"c": 2}})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-.5", "-.5"),
        ("1.", 1.0),
        ("12", 12),
        ("2024-01-02", "2024-01-02"),
        ("v1", "v1"),
        ("1e", "1e"),
    ],
)
def test_numbers_as_the_training_reads_them(text: str, value: object, tmp_path: Path) -> None:
    from jsonargparse._loaders_dumpers import yaml_load

    (tmp_path / "a.yaml").write_text(f"key: {text}\n")
    ours = read_yaml(tmp_path / "a.yaml")["key"]
    assert ours == value
    assert type(ours) is type(value)
    assert yaml_load(f"key: {text}\n")["key"] == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "'a' stands twice"),
        ("a: [1\n", "not valid YAML"),
        ("a: 1\n b: 2\n", ":2: not valid YAML"),
        ("- a\n", "expected a mapping"),
        ("on: 1\n", "put it in quotes"),
        ("a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("a: !!set {x}\n", "neither text"),
        ("a: \x00\n", "not valid YAML"),
        ("a: {b: .inf}\n", "a: b: inf is no finite number"),
        ("a: [.nan]\n", "a: nan is no finite number"),
    ],
)
def test_bad_file_is_one_line_with_its_name(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(InputError, match=r"bad\.yaml") as error:
        read_yaml(tmp_path / "bad.yaml")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_empty_file_is_an_empty_overlay(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert read_yaml(tmp_path / "empty.yaml") == {}


def test_shown_paths_are_relative_only_below_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert shown(Path("a/b")) == str(Path("a/b"))
    assert shown(tmp_path / "here" / "c") == "c"
    assert shown(tmp_path / "elsewhere") == str(tmp_path / "elsewhere")

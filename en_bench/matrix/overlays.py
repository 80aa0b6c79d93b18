"""Overlays: YAML mappings that add up to the configuration of one training."""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from en_bench.errors import InputError, message_of

Config = dict[str, Any]

REPLACED = "replaced_classes"


class _Loader(yaml.SafeLoader):
    """YAML as the training command's parser reads it (1e-3 is a number, a date is text), and every key only once."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own way to hold them)
        first: [(tag, pattern) for tag, pattern in found if not tag.endswith((":float", ":timestamp"))]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?\d[\d_]*(?:\.[\d_]*)?(?:[eE][-+]?\d+)?$|\.\d+(?:[eE][-+]\d+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def read_yaml(path: Path) -> Config:
    """The mapping in a YAML file (an empty file is an empty mapping); InputError if it is not one of plain values."""
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{path}{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path}: not valid YAML: {message_of(error)}") from None
    config = {} if value is None else value
    check_plain(config, str(path))
    return dict(config)


def check_plain(config: object, where: str) -> None:
    """Raise InputError unless `config` is a mapping from text to mappings, lists, texts, numbers, booleans and null.

    Infinities and NaN are no numbers here: no record could hold them, since JSON knows none.
    """
    if not isinstance(config, dict):
        raise InputError(f"{where}: expected a mapping (key: value), found {type(config).__name__}")
    _check_value(config, where)


def _check_value(value: object, where: str) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise InputError(f"{where}: the key {key!r} is not text: put it in quotes")
            _check_value(inner, f"{where}: {key}")
    elif isinstance(value, list):
        for inner in value:
            _check_value(inner, where)
    elif value is not None and not isinstance(value, str | int | float):
        raise InputError(f"{where}: {value!r} is neither text, number, boolean, list nor mapping")
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where}: {value} is no finite number, and no record could hold it: use null or a number")


def merge(configs: Iterable[Mapping[str, Any]]) -> Config:
    """Add configurations up: mappings merge deep, else the later wins; lists under a key such as `callbacks+` append.

    A later `class_path` keeps the earlier `init_args`, as jsonargparse does for all the new class accepts. Which these
    are only the class knows, so the merged mapping may hold more than takes effect, never less. Where arguments went
    through two classes or more before the last one, `replaced_classes` names these: each may have dropped arguments
    that the last one would accept, as the second does in A -> B -> A.
    """
    added_up: Config = reduce(_merge_two, configs, {})
    merged: Config = _through_several(added_up)
    return merged


def _through_several(value: Any) -> Any:
    """Without the note of a class that was the only one replaced: all its arguments reach the last one."""
    if not isinstance(value, dict):
        return value
    once = len(value.get(REPLACED, ())) < 2
    return {key: _through_several(inner) for key, inner in value.items() if not (once and key == REPLACED)}


def _merge_two(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> Config:
    merged = dict(earlier)
    for key, value in later.items():
        old, new = _spell_out(merged.get(key), value), _spell_out(value, merged.get(key))
        if isinstance(old, dict) and isinstance(new, dict):
            merged[key] = _merge_two(old, new)
            before = old.get("class_path")
            if old.get("init_args") and not same_class(new.get("class_path", before), before):
                merged[key][REPLACED] = [*old.get(REPLACED, ()), before]
        elif key.endswith("+") and isinstance(old, list) and isinstance(new, list):
            merged[key] = old + new
        else:
            merged[key] = value
    return merged


def same_class(one: object, other: object) -> bool:
    """Whether both name a class, whose package overlays may leave out."""
    return str(one).rpartition(".")[2] == str(other).rpartition(".")[2]


def _spell_out(value: object, other: object) -> object:
    """The short form of a class (`norm: ExemplarNorm`) as a mapping, where it meets a class written as one."""
    meets_class = isinstance(other, dict) and bool({"class_path", "init_args"} & other.keys())
    return {"class_path": value} if isinstance(value, str) and meets_class else value


@dataclass(frozen=True)
class Overlay:
    """A part of a configuration: the content of `path`, or written inline in the specification (`path` is None)."""

    config: Config
    path: Path | None = None

    def flags(self) -> list[str]:
        """The overlay as arguments of `en-bench fit`."""
        if self.path is not None:
            return ["--config", shown(self.path)]
        return [part for keys, value in settings(self.config) for part in flag(".".join(keys), value)]


def read_overlay(path: Path) -> Overlay:
    return Overlay(read_yaml(path), path)


def settings(config: Config, within: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], object]]:
    """All settings as (keys from the outermost in, value); a class with its arguments is one setting."""
    found: list[tuple[tuple[str, ...], object]] = []
    for key, value in config.items():
        if isinstance(value, dict) and value and "class_path" not in value:
            found += settings(value, (*within, key))
        else:
            found.append(((*within, key), value))
    return found


def flag(key: str, value: object) -> list[str]:
    """One setting as command-line arguments: text as it is, all else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value)
    # argparse would take a value such as -1e-3 for another option.
    return [f"--{key}={text}"] if text.startswith("-") else [f"--{key}", text]


def shown(path: Path) -> str:
    """`path` relative to the current folder where it lies below it, else absolute."""
    text, here = str(path), f"{os.getcwd().rstrip('/')}/"  # of ten thousand cells Path takes seconds
    return "." if f"{text}/" == here else text.removeprefix(here)

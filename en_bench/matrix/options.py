"""Which options a training has, found in the source of its classes: to import these would take seconds, and torch."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

from en_bench.errors import InputError
from en_bench.matrix.closest import did_you_mean
from en_bench.matrix.overlays import Config, Overlay
from en_bench.matrix.spec import Spec

_CLASSES = {  # by section: package, file in it, class
    "trainer": (("en_bench", "trainer.py", "EnBenchTrainer"), ("lightning", "pytorch/trainer/trainer.py", "Trainer")),
    "model": (("en_bench", "tasks/classification.py", "ClassificationTask"),),
    "data": (("en_bench", "data/module.py", "ShardDataModule"),),
    "checkpoint": (("en_bench", "resume/checkpoint.py", "RunCheckpoint"),),
    "dynamics": (("en_bench", "dynamics/recorder.py", "DynamicsRecorder"),),
}
_OTHERS = ("seed_everything", "ckpt_path", "result", "weights_only")


def check_options(spec: Spec) -> None:
    """Raise InputError for a key in an overlay's `trainer`, `model`, `data`, `checkpoint` or `dynamics` that its class
    does not have, for another section that is close to one of these, for a section that is no mapping, and for a length
    of the training that is none.

    Arguments of classes that overlays name are left to the training, and so is all where a source cannot be read.
    """
    axes = chain(spec.norms.values(), spec.train.values(), spec.validate.values())
    seen: set[int] = set()
    for overlay in chain(spec.base, *axes):
        if id(overlay) not in seen:
            seen.add(id(overlay))
            _check(overlay, spec.path)


def _check(overlay: Overlay, spec: Path) -> None:
    where = overlay.path or spec
    for section, content in overlay.config.items():
        if section not in _CLASSES:
            meant = did_you_mean(section, _CLASSES)
            if section not in _OTHERS and meant:
                raise InputError(f"{where}: a training has no section {section!r}{meant}")
        elif isinstance(content, dict):
            _check_section(section, content, where)
        elif content is not None:
            raise InputError(f"{where}: {section}: expected a mapping (option: value), found {content!r}")


def _check_section(section: str, content: Config, where: Path) -> None:
    known = options(section)
    for key in content:
        # Lists under a key with a plus are added up.
        if known is not None and key.removesuffix("+") not in known:
            raise InputError(f"{where}: {section}.{key}: there is no such option{did_you_mean(key, sorted(known))}")
    if section == "trainer":
        _check_length(content, where)


def _check_length(trainer: Config, where: Path) -> None:
    for key in ("max_epochs", "max_steps"):
        value = trainer.get(key)
        if isinstance(value, bool | list | dict) or (isinstance(value, str) and not value.lstrip("-").isdecimal()):
            raise InputError(f"{where}: trainer.{key}: {value!r} is no whole number")
        if value in (0, "0"):
            raise InputError(f"{where}: trainer.{key}: 0: nothing would be trained: give a number above 0")


@cache
def options(section: str) -> frozenset[str] | None:
    """The options of a section; None where the source does not tell them all."""
    found: set[str] = set()
    for place in _CLASSES[section]:
        parameters = _parameters(*place)
        if parameters is None:
            return None
        found |= parameters
    return frozenset(found)


def _parameters(package: str, file: str, name: str) -> set[str] | None:
    """Of a class's `__init__`."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    try:
        module = ast.parse((Path(spec.submodule_search_locations[0]) / file).read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return None
    for node in _initialisers(module, name):
        arguments = node.args
        return {each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)} - {"self"}
    return None


def _initialisers(module: ast.Module, name: str) -> Iterator[ast.FunctionDef]:
    for node in module.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
                    yield inner

"""jsonargparse's many-line explanations of a wrong option, in one line with the cure."""

from __future__ import annotations

import difflib
import importlib
import inspect
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from en_bench.data.transforms import Transform
from en_bench.errors import InputError, message_of
from en_bench.losses import Loss
from en_bench.noise.kinds import Noise
from en_bench.norms import Norm


def explain(message: str, options: Sequence[str]) -> str:
    """One line that says which option is wrong, why, and what was probably meant. `options` are those there are."""
    key = _first(r'Parser key "([\w.]+)"', message)
    flag = f"--{key}" if key else "the configuration"
    if unknown := _first(r"unrecognized arguments: -*([\w.]+)", message) or _first(
        r"not accept option '([\w.]+)'", message
    ):
        return f"there is no option --{unknown}{_meant(unknown, options, '--')}"
    if inner := _first(r"Option '([\w.]+)' is not accepted", message):
        owner = _first(r"class_path[= ]'([\w.]+)'", message) or ""
        return f"{owner.rpartition('.')[2] or flag} has no option {inner}{_meant(inner, _parameters(owner))}"
    needed, of = _first(r"arguments are required: ([\w, ]+)", message), _first(r"class_path '([\w.]+)'", message)
    if needed and of:  # a class that is optional, as losses are: the message goes on with what else could stand there
        return f"{flag}: {of.rpartition('.')[2]} needs {needed}: give it as {flag}.{needed.partition(',')[0]}"
    if missing := _first(r"arguments are required: (.*)", message):
        verb = r"^(fit|validate|recalibrate|estimate)\."
        needed = ", ".join("--" + re.sub(verb, "", name.strip()) for name in missing.split(","))
        return f"{needed} must be given: by an overlay (--config FILE) or as flags"
    if absent := _first(r"File does not exist: '?([^'\n]+)", message):
        return f"there is no overlay {absent}: correct the path after --config"
    if wrong := _first(r"Expected a dot import path string: (\S+)", message):
        names = _class_names(message)
        return f"{flag}: there is no class {wrong}{_meant(wrong, names) or ': use one of ' + ', '.join(names)}"
    if gone := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message):
        names = _class_names(message)
        cure = _meant(gone.group(2), names) or ": use one of " + ", ".join(names)
        return f"{flag}: there is no class {gone.group(1)}.{gone.group(2)}{cure}"
    option = _first(r"NestedArg\(key='(\w+)'", message)
    if option and "Expected an instantiatable class" in message:
        having = [cls.__name__ for cls in _classes(message) if option in inspect.signature(cls).parameters]
        which = (
            f", such as {' or '.join(having[:3])}"
            if having
            else f": none of {', '.join(_class_names(message))} has that option"
        )
        return f"{flag}.{option} is an option of a class: give {flag} too{which}"
    if alien := _first(r"Expected '([\w.]+)' to be a subclass of", message):
        base = _first(r"subclass of <class '([\w.]+)'>", message)
        return f"{flag}: {alien} is not a {base} of en_bench{_meant(alien.rpartition('.')[2], _class_names(message))}"
    inside = _first(r'Parser key "[\w.]+":.*Parser key "([\w.]+)"', message)
    expected = list(
        dict.fromkeys(_plain(e) for e in re.findall(r"Expected an? (.+?)(?:\. Got value|$)", message, re.M))
    )
    given = _first(r"(?:Given value|Got value): (?!Namespace|NestedArg)(.+?)(?:\. Got value.*)?$", message)
    wanted = " or ".join(e for e in expected if e != "NoneType")
    if wanted:
        return f"{flag}{'.' + inside if inside else ''}: expected {wanted}" + (f", got {given}" if given else "")
    return " ".join(message.split())


def refusal_behind(error: BaseException | None) -> InputError | None:
    """What a class said to its arguments, where jsonargparse has wrapped it: it does so for optional ones."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__
    return error


def broken_overlay(argv: Sequence[str]) -> str | None:
    """Names the first `--config FILE` that is no YAML, which jsonargparse's own message does not."""
    for option, value in itertools.pairwise(argv):
        if option in ("-c", "--config") and Path(value).is_file():
            try:
                yaml.safe_load(Path(value).read_text(encoding="utf-8"))
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                return f"{value} is not YAML: {message_of(error)}"
    return None


def _first(pattern: str, message: str) -> str | None:
    found = re.search(pattern, message, re.M | re.S) if ".*" in pattern else re.search(pattern, message, re.M)
    return found.group(1) if found else None


def _plain(expected: str) -> str:
    """`<class 'int'>` and `typing.Literal['a', 'b']` as people write them."""
    if name := re.fullmatch(r"<class '([\w.]+)'>", expected):
        return name.group(1)
    if choices := re.fullmatch(r"typing\.Literal\[(.*)\]", expected):
        return f"one of {choices.group(1)}"
    return expected


def _meant(word: str, known: Iterable[str], prefix: str = "") -> str:
    known = list(known)
    close = _closest(word, known) or [name for name in known if _initials(name) == word.upper()]
    close = close or [name for name in known if difflib.get_close_matches(word.upper(), [_initials(name)], cutoff=0.8)]
    if not close:
        tails = {name.rpartition(".")[2]: name for name in known}
        close = [tails[tail] for tail in _closest(word.rpartition(".")[2], tails)]
    return f": did you mean {' or '.join(prefix + name for name in close)}?" if close else ""


def _initials(name: str) -> str:
    """GCE of GeneralizedCrossEntropy: what papers and overlays call it."""
    return "".join(letter for letter in name if letter.isupper())


def _closest(word: str, known: Iterable[str]) -> list[str]:
    """The closest of the known words, and up to two more that are nearly as close."""
    found = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    ratios = [difflib.SequenceMatcher(None, name, word).ratio() for name in found]
    return [name for name, ratio in zip(found, ratios, strict=True) if ratio > ratios[0] - 0.1]


def _parameters(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    try:
        return list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
    except (ImportError, AttributeError, TypeError, ValueError):
        return []


def _class_names(message: str) -> list[str]:
    return [cls.__name__ for cls in _classes(message)]


def _classes(message: str) -> list[type]:
    """Those that can be named where `message` expects a Norm, a Transform, a Loss or a Noise; else all."""
    bases = (Norm, Transform, Loss, Noise)
    found: list[type] = [base for base in bases if re.search(rf"\.{base.__name__}['\]]", message)]
    found = found or [*bases]
    for cls in found:  # which grows
        below: list[type] = cls.__subclasses__()
        found += [derived for derived in below if derived not in found]
    return [cls for cls in found if cls not in bases and not inspect.isabstract(cls)]

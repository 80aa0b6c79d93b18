"""`en-bench bench norms`: measures section by section, prints tables, keeps a record."""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from en_bench import provenance
from en_bench.benchmark import first_use, layers, memory, steps
from en_bench.benchmark.fallbacks import noted
from en_bench.benchmark.settings import Settings, settings_of
from en_bench.benchmark.summary import summarise
from en_bench.benchmark.tabulate import notes, tables
from en_bench.errors import InputError
from en_bench.files import write_json, write_text
from en_bench.norms.mode import mode

_FORMAT = "en_bench norms benchmark 1"
_MEASURES = {"layers": layers.measure, "steps": steps.measure, "memory": memory.measure, "first_use": first_use.measure}


def bench_norms(args: argparse.Namespace) -> int:
    """Returns the exit code. Raises InputError before anything is measured for what cannot be."""
    for flag, path in (("--json", args.json), ("--markdown", args.markdown)):
        _check_writable(flag, path)
    if args.source is not None:
        record = _read(args.source)
        for section in record["sections"]:
            _print(record, section)
        print("\n".join(notes(record)))
    else:
        record = _measured(settings_of(args), args)
    if args.markdown is not None:
        write_text(args.markdown, markdown(record))
        print(f"wrote {args.markdown}")
    return 0


def markdown(record: Mapping[str, Any]) -> str:
    """The summaries first, then what they were made from."""
    made = tables(record)
    ordered = [found[-1] for found in made.values()] + [table for found in made.values() for table in found[:-1]]
    head = [
        "# What normalisers cost",
        "",
        "Made by `en-bench bench norms`; figures and spread are in the JSON beside it.",
        "",
    ]
    return "\n".join([*head, *(f"- {note}" for note in notes(record)), "", *(table.markdown() for table in ordered)])


def _measured(settings: Settings, args: argparse.Namespace) -> dict[str, Any]:
    if args.threads is not None:
        if args.threads < 1:
            raise InputError(f"--threads {args.threads} is too few: use 1 or more")
        torch.set_num_threads(args.threads)
    record = _record(settings)
    with noted() as record["warnings"]:
        for section in settings.sections:
            record["sections"][section] = _MEASURES[section](settings, _tell)
            record["finished"], record["load_average"]["after"] = provenance.now(), os.getloadavg()[0]
            record["complete"] = section == settings.sections[-1]
            record["summary"] = summarise(record)
            _print(record, section)
            if args.json is not None:
                write_json(args.json, record)
    print("\n".join(notes(record)))
    if args.json is not None:
        print(f"wrote {args.json}")
    return record


def _record(settings: Settings) -> dict[str, Any]:
    device = settings.device
    return {
        "format": _FORMAT,
        "complete": False,
        "quick": settings.quick,
        "kind": device.type,
        "device": provenance.device_name(device),
        "threads": torch.get_num_threads(),
        "peak_gbs": settings.peak_gbs,
        "mode": mode(),
        "load_average": {"before": os.getloadavg()[0], "after": None},
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "started": provenance.now(),
        "finished": None,
        "warnings": [],
        "settings": {
            "norms": settings.norms,
            "shapes": settings.shapes,
            "formats": settings.formats,
            "dtypes": settings.dtypes,
            "repeats": settings.repeats,
        },
        "summary": {},
        "sections": {},
    }


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _print(record: Mapping[str, Any], section: str) -> None:
    for table in tables({**record, "sections": {section: record["sections"][section]}})[section]:
        print(table.text(), flush=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(
            f"--from {path}: {getattr(error, 'strerror', None) or 'not JSON'}: give a file of --json"
        ) from None
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise InputError(f"--from {path}: not what `en-bench bench norms --json` of this version writes: measure anew")
    return record


def _check_writable(flag: str, path: Path | None) -> None:
    """Now, and not when everything has been measured."""
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"{flag} {path} is a folder: give a file")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{flag} {path} cannot be written: {parent} is no folder in which one may write")

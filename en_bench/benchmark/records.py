"""What the verbs of `en-bench bench` share: measuring section by section, the record, its file, its tables."""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from en_bench import provenance
from en_bench.benchmark.table import Table
from en_bench.errors import InputError
from en_bench.files import write_json, write_text

Record = dict[str, Any]
Measure = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Benchmark:
    """A verb. Its parser has --json, --markdown and --from (as `source`).

    Attributes:
        verb, title: for the texts.
        format: name and version of its records.
        summarise: for each section of a record its rows, with goals and verdicts.
        tables: for each section of a record its tables; the last one sums it up.
    """

    verb: str
    title: str
    format: str
    summarise: Callable[[Mapping[str, Any]], dict[str, list[dict[str, Any]]]]
    tables: Callable[[Mapping[str, Any]], dict[str, list[Table]]]

    def begin(self, device: torch.device, **more: Any) -> Record:
        """A record without sections: where and with what they will be measured, and `more`."""
        return {
            "format": self.format,
            "complete": False,
            "device": provenance.device_name(device),
            "threads": torch.get_num_threads(),
            "load_average": {"before": os.getloadavg()[0], "after": None},
            "versions": provenance.versions(),
            "commit": provenance.commit(),
            "started": provenance.now(),
            "finished": None,
            "warnings": [],
            **more,
            "summary": {},
            "sections": {},
        }

    def check_files(self, args: argparse.Namespace) -> None:
        """Raises InputError for what cannot be written: now, and not when everything has been measured."""
        for flag, path in (("--json", args.json), ("--markdown", args.markdown)):
            _check_writable(flag, path)

    def measure(self, record: Record, measures: Mapping[str, Measure], args: argparse.Namespace) -> None:
        """Fills the sections of a record one by one; each is printed, and the whole kept in --json, as it comes."""
        for section, measured in measures.items():
            record["sections"][section] = measured()
            record["finished"], record["load_average"]["after"] = provenance.now(), os.getloadavg()[0]
            record["complete"] = len(record["sections"]) == len(measures)
            record["summary"] = self.summarise(record)
            self._print(record, section)
            if args.json is not None:
                write_json(args.json, record)
        print("\n".join(notes(record)))
        if args.json is not None:
            print(f"wrote {args.json}")

    def show(self, path: Path) -> Record:
        """Prints the tables of the file of an earlier --json, and returns its record. Raises InputError."""
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise InputError(
                f"--from {path}: {getattr(error, 'strerror', None) or 'not JSON'}: give a file of --json"
            ) from None
        if not isinstance(record, dict) or record.get("format") != self.format:
            raise InputError(f"--from {path}: not what `{self.verb} --json` of this version writes: measure anew")
        for section in record["sections"]:
            self._print(record, section)
        print("\n".join(notes(record)))
        return record

    def write_markdown(self, record: Mapping[str, Any], path: Path | None) -> None:
        if path is not None:
            write_text(path, self.markdown(record))
            print(f"wrote {path}")

    def markdown(self, record: Mapping[str, Any]) -> str:
        """The summaries first, then what they were made from."""
        made = self.tables(record)
        ordered = [found[-1] for found in made.values()] + [table for found in made.values() for table in found[:-1]]
        head = [
            f"# {self.title}",
            "",
            f"Made by `{self.verb}`; figures and spread are in the JSON beside it.",
            "",
        ]
        return "\n".join(
            [*head, *(f"- {note}" for note in notes(record)), "", *(table.markdown() for table in ordered)]
        )

    def _print(self, record: Mapping[str, Any], section: str) -> None:
        for table in self.tables({**record, "sections": {section: record["sections"][section]}})[section]:
            print(table.text(), flush=True)


def notes(record: Mapping[str, Any]) -> list[str]:
    """What the figures depend on."""
    commit = record["commit"]
    sha = "unknown" if commit["sha"] is None else commit["sha"][:12] + (" and changes" if commit["dirty"] else "")
    packages = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    load = record["load_average"]
    return [
        *([] if record["complete"] else ["incomplete: the command ended before its last section"]),
        f"device: {record['device']}",
        f"load average over a minute: {load['before']:.2f} before, {load['after']:.2f} after",
        f"versions: {packages}",
        f"commit: {sha}" + (f"; EN_BENCH_NORMS: {record['mode']}" if "mode" in record else ""),
        f"measured: {record['started']} to {record['finished']}",
        *(f"warning: {text}" for text in record["warnings"]),
    ]


def tell(text: str) -> None:
    """What is being measured now, on stderr."""
    print(text, file=sys.stderr, flush=True)


def _check_writable(flag: str, path: Path | None) -> None:
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"{flag} {path} is a folder: give a file")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=parent):  # asking for rights says nothing of a disk that takes no more
            pass
    except OSError as error:
        raise InputError(f"{flag} {path} cannot be written: {parent}: {error.strerror}: choose another place") from None

"""The verbs `en-bench data info|verify|show|index URL`: their arguments, without numpy."""

from __future__ import annotations

import argparse
import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from en_bench.data import index_verb
from en_bench.data.manifest import MANIFEST_NAME, PREPARING, Manifest, load_manifest
from en_bench.data.places import Place, is_remote, names_in, place, shown
from en_bench.errors import InputError

if TYPE_CHECKING:
    from en_bench.matrix.process import Execute
    from en_bench.matrix.verbs import Handler, Subparsers

_DEPTH = 2  # folders between the one that is named and its splits, as in data/digits/handwritten/train


def add_verbs(subparsers: Subparsers) -> None:
    """Add `data` with its verbs; each sets `handler`, as those of the matrix do."""
    data = subparsers.add_parser("data", help="prepared data: what they hold, whether they are whole, how they look")
    verbs = data.add_subparsers(dest="data_verb", metavar="VERB", required=True)
    info = _add(verbs, "info", _info, "classes, counts, label noise and provenance of prepared splits")
    info.add_argument("--classes", action="store_true", help="list all classes, with the samples of each")
    info.add_argument("--json", action="store_true", help="print all of it as a JSON list, one object per split")
    verify = _add(verbs, "verify", _verify, "check every hash, label, image and mask of prepared splits")
    verify.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    verify.add_argument("--fast", action="store_true", help="check sizes and hashes only, decode nothing")
    show = _add(verbs, "show", _show, "draw a sheet of samples with their given and clean labels")
    show.add_argument("--out", default="sheet.png", metavar="PNG", help="default: sheet.png")
    show.add_argument("--count", type=int, default=40, metavar="N", help="samples at most (default: 40)")
    show.add_argument("--columns", type=int, metavar="N", help="samples side by side (default: 8, with masks 4)")
    show.add_argument("--labels", default="", metavar="LIST", help="further label columns, e.g. worst,random1")
    show.add_argument("--class", dest="category", metavar="NAME", help="only samples labelled so, or masks with it")
    show.add_argument(
        "--wrong", action="store_true", help="only samples whose label, given or of --labels, is not the clean one"
    )
    show.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    meaning = "write a manifest for WebDataset tars of other makers, which then train like our own shards"
    tars = "a folder of tars, a tar, or a pattern: 'https://host/x-{000..146}.tar', 's3://bucket/train-*.tar'"
    index_verb.add_options(_add(verbs, "index", _index, meaning, tars))


def _add(
    verbs: Subparsers,
    name: str,
    handler: Handler,
    meaning: str,
    url: str = "a split, or a folder of several: all of them; a folder or a URL",
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=meaning, description=meaning, allow_abbrev=False)
    parser.add_argument("url", metavar="URL", help=url)
    parser.set_defaults(handler=partial(_told_in_one_line, handler))
    return parser


def _told_in_one_line(handler: Handler, args: argparse.Namespace, execute: Execute) -> int:
    try:
        return handler(args, execute)
    except BrokenPipeError:  # no matter of files: whoever reads the output has seen enough
        raise
    except OSError as error:
        where = error.filename or shown(args.url)
        raise InputError(f"{where}: {error.strerror or error}: make it readable, or see to the connection") from error


def split_folders(url: str) -> list[Place]:
    """The split that is named, or all those in the folder that is named, also those that are not finished.

    Raises InputError if there is none, OSError if a folder cannot be read.
    """
    top = place(url)
    found = [top] if _is_split(names_in(top)) else _below(top)
    if not found:
        load_manifest(top)  # says what is missing
    return found


def _below(top: Place) -> list[Place]:
    if not is_remote(top):
        return _local_below(top, _DEPTH)
    remote: Any = top
    # One question per folder, not one per file. A bucket that does not answer is told of by whoever reads first.
    walk = remote.fs.walk(remote.path, maxdepth=_DEPTH + 1)
    paths = [path[len(remote.path) :].strip("/") for path, folders, files in walk if _is_split([*folders, *files])]
    return [top / path for path in sorted(paths) if not any(part.startswith(".") for part in path.split("/"))]


def _local_below(folder: Place, depth: int) -> list[Place]:
    found = []
    for name in names_in(folder):
        inner = folder / name
        if name.startswith(".") or not inner.is_dir():
            continue
        if _is_split(names_in(inner)):
            found.append(inner)
        elif depth > 1:
            found += _local_below(inner, depth - 1)
    return found


def _is_split(names: list[str]) -> bool:
    return MANIFEST_NAME in names or PREPARING in names


def _info(args: argparse.Namespace, execute: Execute) -> int:
    from en_bench.data import info

    facts = [info.describe(load_manifest(folder)) for folder in split_folders(args.url)]
    if args.json:
        print(json.dumps(facts, indent=1, ensure_ascii=False))
    else:
        print("\n".join(info.to_text(split, args.classes) for split in facts), end="")
    return 0


def _verify(args: argparse.Namespace, execute: Execute) -> int:
    workers = _workers(args)
    from en_bench.data.findings import Findings
    from en_bench.data.info import printable
    from en_bench.data.progress import Progress
    from en_bench.data.verify import verify_split

    folders = split_folders(args.url)
    total = Findings()
    for folder in folders:
        findings = Findings()
        try:
            manifest = load_manifest(folder)
        except InputError as error:
            findings.add(str(error))
        else:
            with Progress(manifest.split) as progress:
                findings = verify_split(manifest, workers, args.fast, progress)
        for problem in findings.listed:
            print(f"  {printable(problem)}")
        if findings.count > len(findings.listed):
            print(f"  … and {findings.count - len(findings.listed):,} more")
        print(_closing(folder, findings, args.fast))
        total.merge(findings)
    if len(folders) > 1:
        print(_closing(place(args.url), total, args.fast))
    return 1 if total.count else 0


def _index(args: argparse.Namespace, execute: Execute) -> int:
    return index_verb.run(args, _workers(args))


def _closing(folder: Place, findings: Any, fast: bool) -> str:
    samples, shards = _counted(findings.samples, "sample"), _counted(findings.shards, "shard")
    what = f"size and sha256 of {shards} ({samples})" if fast else f"{samples} in {shards}"
    outcome = _counted(findings.count, "problem") if findings.count else "no problem"
    return f"{shown(folder)}: verified {what}: {outcome}"


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _show(args: argparse.Namespace, execute: Execute) -> int:
    _require_positive("--count", args.count)
    if args.columns is not None:
        _require_positive("--columns", args.columns)
    if not 0 <= args.seed < 2**63:
        raise InputError(f"--seed {args.seed} is not a seed: use 0 to 2**63 - 1")
    if "://" in args.out:
        raise InputError(f"--out {shown(args.out)}: sheets are written to disk: name a file")
    from en_bench.data.sheet import Wish, check_writable, draw_sheet

    folders = split_folders(args.url)
    manifests = [load_manifest(folder) for folder in folders]
    outs = [_sheet_of(Path(args.out), place(args.url), manifest, len(manifests)) for manifest in manifests]
    for out in outs:
        check_writable(out)
    wish = Wish(
        count=args.count,
        per_row=args.columns,
        labels=tuple(name.strip() for name in args.labels.split(",") if name.strip()),
        category=args.category,
        wrong=args.wrong,
        seed=args.seed,
    )
    for manifest, out in zip(manifests, outs, strict=True):
        print(f"wrote {out}: {draw_sheet(manifest, wish, out)}")
    return 0


def _sheet_of(out: Path, top: Place, manifest: Manifest, sheets: int) -> Path:
    """The file of a split's sheet: `out`, with the split's path below `top` in its name if there are several."""
    if sheets == 1:
        return out
    below = str(manifest.folder)[len(str(top)) :].strip("/").replace("/", "-")
    return out.with_name(f"{out.stem}-{below}{out.suffix}")


def _require_positive(option: str, value: int) -> None:
    if value < 1:
        raise InputError(f"{option} {value} is too small: use 1 or more")


def _workers(args: argparse.Namespace) -> int:
    workers = _cores() if args.workers is None else args.workers
    _require_positive("--workers", workers)
    return int(workers)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

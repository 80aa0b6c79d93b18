"""The tables of a record of preparing, in the order of its sections."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from en_bench.benchmark.prepare_summary import CORES, deviations, summarise
from en_bench.benchmark.prepare_workers import writing
from en_bench.benchmark.table import Table

_WAYS = {"kept": "without resizing", "resized": "resized"}
_DECODED = {"whole": "at its size", "reduced": "at 1/2, 1/4 or 1/8"}


def tables(record: Mapping[str, Any]) -> dict[str, list[Table]]:
    made: dict[str, Callable[[Mapping[str, Any]], Iterator[Table]]] = {
        "rates": _rates,
        "copy": _copy,
        "workers": _workers,
        "quality": _quality,
    }
    return {section: list(made[section](record)) for section in record["sections"]}


def _rates(record: Mapping[str, Any]) -> Iterator[Table]:
    section = record["sections"]["rates"]
    about = record["images"]
    yield _timings(section, "One process, one part after the other")
    notes = [
        f"{about['distinct']:,} images of {about['mean_bytes'] / 1e3:.0f} kB on average, repeated to "
        f"{about['copies']:,}, {about['left_out']:,} files of the archive left out; "
        f"resized: shorter side {record['settings']['short_side']}, quality {record['settings']['quality']}",
        "write_split: read from files, tar, sha256, index, manifest, synchronised with the disk; all others in memory",
        "kept: all data of an image are decoded, in grey at an eighth of its size; decoding alone: RGB, at its size",
    ]
    yield _shares(record, "rates", "Writing shards beside what it consists of", notes)


def _copy(record: Mapping[str, Any]) -> Iterator[Table]:
    yield _timings(record["sections"]["copy"], "One process, all images, not decoded")
    notes = [
        "the same files on the same disk, in the page cache; tar and sha256sum as commands one after the other",
        "write_split ends synchronised with the disk, as the one with sync does; the goal is for the one without",
    ]
    yield _shares(record, "copy", "Writing shards with --no-verify beside tar and sha256sum", notes)


def _timings(section: Mapping[str, Any], title: str) -> Table:
    rows = []
    for name, timing in section["timings"].items():
        rates = [f"{section['images'] / timing[key]:,.0f}" for key in ("median", "upper", "lower")]
        rows.append([name, *rates, f"{section['bytes'] / timing['median'] / 1e6:,.0f}", str(timing["n"])])
    header = ["what", "images/s", "lower quartile", "upper quartile", "MB/s read", "n"]
    return Table(f"{title} ({section['images']:,} images at a time)", "lrrrrr", header, rows)


def _shares(record: Mapping[str, Any], section: str, title: str, notes: list[str]) -> Table:
    rows = [
        [row["name"], row["against"], f"{row['share']:.3f}", row["goal"], row["verdict"]]
        for row in summarise(record)[section]
    ]
    header = ["rate of", "of the rate of", "share", "the project's goal", "verdict"]
    return Table(title, "llrll", header, rows, [*notes, *_verdicts(record, section)])


def _workers(record: Mapping[str, Any]) -> Iterator[Table]:
    made = summarise(record)
    section, rows = record["sections"]["workers"], []
    counts = {case["work"]: case["timings"] for case in section["cases"]}
    for row in made["workers"]:
        figures = [f"{row['rate']:,.0f}", f"{row['rate'] / row['workers']:,.0f}", f"{row['efficiency']:.3f}"]
        repeats = str(counts[row["work"]][writing(row["workers"])]["n"])
        figures += [f"{row['alone']:.3f}", repeats]
        rows.append([_WAYS[row["work"]], str(row["workers"]), *figures, row["goal"], row["verdict"]])
    header = ["images", "workers", "images/s", "per worker", "of W x one", "encoders alone", "n", "goal", "verdict"]
    told = [
        f"all images in {section['shards']:,} shards; start of processes left out; W processes on W of "
        f"{record['cores']} cores",
        "encoders alone: the same of processes that write nothing and start together, which is what the machine gives",
    ]
    yield Table("Several workers", "lrrrrrrll", header, rows, [*told, *_verdicts(record, "workers")])
    yield _projection(made["projection"])


def _projection(found: list[dict[str, Any]]) -> Table:
    rows = [[row["dataset"], _WAYS[row["work"]], f"{row['rate']:,.0f}", f"{row['hours']:.2f}"] for row in found]
    header = ["data set", "images", "images/s per worker", "hours"]
    told = [
        f"not measured: {CORES} cores and workers, each at the rate of one by the efficiency of "
        f"{found[0]['workers_measured']}, disks that follow, and images of the sizes of this archive",
    ]
    return Table(f"Projected to {CORES} cores", "llrr", header, rows, told)


def _quality(record: Mapping[str, Any]) -> Iterator[Table]:
    section, rows = record["sections"]["quality"], []
    for case in section["cases"]:
        for name, found in case["psnr"].items():
            figures = [f"{found[key]:.2f}" for key in ("mean", "p5", "worst")]
            rows.append([str(case["short_side"]), _DECODED[case["decoded"]], str(case["images"]), name, *figures])
    told = [
        "of images that are larger than the shorter side, against a full decode and the bicubic filter with "
        f"antialiasing in float64, clamped to 0 to 255; JPEG quality {section['quality']}",
    ]
    header = ["shorter side", "decoded", "images", "what", "mean", "5th percentile", "worst"]
    yield Table("Quality of resized images: PSNR in dB", "rlrlrrr", header, rows, told)


def _verdicts(record: Mapping[str, Any], section: str) -> list[str]:
    found = deviations(record, section)
    return [f"no verdicts, as the goals are for other conditions: {'; '.join(found)}"] if found else []

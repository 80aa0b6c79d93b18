"""The tables of a record of streams, in the order of its sections."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from en_bench.benchmark.data_summary import deviations, summarise
from en_bench.benchmark.data_turns import NOT_INSTALLED
from en_bench.benchmark.table import Table

_STAGES = {"train": "training", "eval": "evaluation"}


def tables(record: Mapping[str, Any]) -> dict[str, list[Table]]:
    made: dict[str, Callable[[Mapping[str, Any]], Iterator[Table]]] = {
        "rates": _rates,
        "quality": _quality,
        "shuffle": _mixing,
        "memory": _memory,
        "scale": _scale,
        "peers": _peers,
        "training": _training,
    }
    return {section: list(made[section](record)) for section in record["sections"]}


def _rates(record: Mapping[str, Any]) -> Iterator[Table]:
    section, settings = record["sections"]["rates"], record["settings"]
    yield _timings(section["timings"], "Images per second of one reading process, or of its workers")
    about = [
        f"{kind}: {settings['samples']:,} images of {found['mean_bytes'] / 1e3:.1f} kB, {found['distinct']:,} of them "
        "distinct"
        for kind, found in section["images"].items()
    ]
    notes = [
        *about,
        f"{settings['recipe']}; batches of {settings['batch']}; one thread in each process; files in the page cache",
        "standard recipe: WebDataset, Pillow, torchvision's transforms on Pillow images, ToTensor, Normalize; stream: "
        "uint8 batches, to be normalised on the device",
        "compared is the standard recipe with 0 or 1 workers, whichever is faster",
        "decode and crop alone: our decoder and crop from memory, in one process, without batches",
    ]
    yield _summary(record, "rates", "Our stream beside the standard recipe", notes)


def _peers(record: Mapping[str, Any]) -> Iterator[Table]:
    section = record["sections"]["peers"]
    yield _timings(section["timings"], "Streams of several makers, one process each")
    versions = ", ".join(f"{name} {version}" for name, version in section["versions"].items())
    notes = [
        f"the same image files, shuffled, in the page cache, without workers; {versions}",
        "decoded: in batches of uint8; peers and the row that says so by torchvision's decode_image and v2 transforms, "
        "en_bench by its own",
    ]
    yield _summary(record, "peers", "Our stream beside those of other makers", notes)


def _quality(record: Mapping[str, Any]) -> Iterator[Table]:
    rows = []
    for case in record["sections"]["quality"]["cases"]:
        for name, found in case["psnr"].items():
            figures = [f"{found[key]:.2f}" for key in ("mean", "p5", "worst")]
            equal = f"{case['equal']} of {case['count']}" if name == "ours" else ""
            rows.append([case["images"], _STAGES[case["stage"]], str(case["count"]), name, *figures, equal])
    notes = [
        "against the whole image decoded by Pillow and the same region resized in float64 (bilinear, antialiasing)",
        "as whole: crops that are equal, in every bit, to those of the whole image decoded",
    ]
    header = ["images", "crops", "count", "made by", "mean", "5th percentile", "worst", "as whole"]
    yield Table("Quality of crops: PSNR in dB", "llrlrrrr", header, rows, notes)


def _mixing(record: Mapping[str, Any]) -> Iterator[Table]:
    rows = []
    for case in record["sections"]["shuffle"]["cases"]:
        figures = [
            f"{case[order][key]:.{digits}f}"
            for key, digits in (("run", 3), ("classes", 1), ("neighbours", 3))
            for order in ("ours", "perfect")
        ]
        about = [f"{case[key]:,}" for key in ("samples", "classes", "shards", "span")]
        rows.append([case["split"], case["written"], *about, *figures])
    header = ["split", "order in it", "samples", "classes", "shards", "span"]
    header += ["class run", "perfect", "classes in a batch", "perfect", "from one shard", "perfect"]
    case = record["sections"]["shuffle"]["cases"][0]
    notes = [
        f"batches of {case['batch']}; blocks of {case['block']}, windows of {case['window']} blocks; span: shards that "
        "are shuffled together",
        "class run: mean length of runs of one class in a batch; from one shard: share of neighbours in a batch; "
        "perfect: a permutation of all samples",
    ]
    yield Table("How well an epoch is mixed", "llrrrrrrrrrr", header, rows, notes)


def _memory(record: Mapping[str, Any]) -> Iterator[Table]:
    section, rows = record["sections"]["memory"], []
    for case in section["cases"]:
        marks = sorted({0, section["settled"], len(case["own"]) - 1} & set(range(len(case["own"]))))
        for mark in marks:
            figures = [f"{case[key][mark] / 1e6:,.1f}" for key in ("own", "rss")]
            rows.append([str(case["workers"]), str(mark + 1), *figures, str(case["files"][mark])])
    header = ["workers", "after epoch", "own, MB", "RSS, MB", "open files"]
    yield Table("Memory of a loading process and its workers", "rrrrr", header, rows)
    case = section["cases"][0]
    notes = [
        f"{section['epochs']} epochs of {case['samples']:,} images in {case['shards']} shards; growth: least squares "
        f"line through what follows the first {section['settled']} epochs",
        "own: PSS without mapped files, of which others that run the same libraries bear a changing part; RSS: counts "
        "what processes share once for each of them; open files: of the process that has most",
    ]
    yield _summary(record, "memory", "What grows with epochs", notes)


def _scale(record: Mapping[str, Any]) -> Iterator[Table]:
    section = record["sections"]["scale"]
    notes = [f"synthetic; an index of {section['index_bytes'] / 1e6:,.0f} MB; each time in a new process"]
    yield _summary(record, "scale", "Large sets before the first sample", notes)


def _training(record: Mapping[str, Any]) -> Iterator[Table]:
    section, rows = record["sections"]["training"], []
    for case in section["cases"]:
        timings = {name: found["median"] for name, found in case["timings"].items()}
        rates = [f"{section['batch'] / timings[name]:,.0f}" for name in ("loader", "resident")]
        blocked = f"{timings['blocked'] / timings['loader']:.2f}"
        rows.append([str(case["workers"]), case["device"], *rates, blocked, str(case["timings"]["loader"]["n"])])
    header = ["workers", "device", "images/s", "with data on the device", "share asking for a batch", "n"]
    yield Table(f"Training {section['model']}, {section['norm']}", "rlrrrr", header, rows)
    notes = [
        f"batches of {section['batch']}, bfloat16 autocast, channels_last, SGD; waiting: what a step takes longer than "
        "with one batch that is on the device already",
        "share asking for a batch: of the process that trains, whose GPU may have had work meanwhile",
    ]
    yield _summary(record, "training", "Waiting for data", notes)


def _timings(timings: Mapping[str, Any], title: str) -> Table:
    rows = []
    for name, found in timings.items():
        if found == NOT_INSTALLED:
            rows.append([name, NOT_INSTALLED, "", "", ""])
        else:
            rates = [f"{1 / found[key]:,.0f}" for key in ("median", "upper", "lower")]
            rows.append([name, *rates, str(found["n"])])
    return Table(title, "lrrrr", ["what", "images/s", "lower quartile", "upper quartile", "n"], rows)


def _summary(record: Mapping[str, Any], section: str, title: str, notes: Sequence[str]) -> Table:
    found = deviations(record, section)
    verdicts = [f"no verdicts, as the goals are for other conditions: {'; '.join(found)}"] if found else []
    rows = [
        [row["what"], row["against"], f"{row['value']:,.{row['digits']}f}{row['unit']}", row["goal"], row["verdict"]]
        for row in summarise(record)[section]
    ]
    header = ["what", "in units of", "figure", "the project's goal", "verdict"]
    return Table(title, "llrll", header, rows, [*notes, *verdicts])

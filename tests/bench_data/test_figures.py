"""What `en-bench bench data` makes of what it measured: figures, verdicts and tables of records made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from en_bench.benchmark import data_peers
from en_bench.benchmark.data_compared import OURS, SAME_DECODER, timing
from en_bench.benchmark.data_goals import Bound
from en_bench.benchmark.data_rates import BYTES, PEER_BYTES, alone, control, standard, stream
from en_bench.benchmark.data_summary import deviations, summarise
from en_bench.benchmark.data_tables import tables
from en_bench.benchmark.data_turns import NOT_INSTALLED, first_epoch


def rate(images: float) -> dict[str, float]:
    """The timing of so many images a second."""
    return {"median": 1 / images, "lower": 0.9 / images, "upper": 1.1 / images, "n": 5}


def record(padded: bool = False, **rates: float) -> dict[str, Any]:
    """A stream of 1,200 images/s from shards, 700 from originals, beside a standard recipe of 400; alone 1,250, 750."""
    figures: dict[str, float] = {}
    for stage in ("train", "eval"):
        for images, ours, decoding, theirs in (("shards", 1200, 1250, 500), ("original", 700, 750, 400)):
            for workers in (0, 1, 2):
                name = stream(stage, images, workers)  # type: ignore[arg-type]
                figures |= {first_epoch(name): ours, name: ours}
                figures[standard(stage, images, workers)] = theirs  # type: ignore[arg-type]
            figures[alone(stage, images)] = decoding  # type: ignore[arg-type]
    figures |= {control("train", "shards"): 1240, BYTES: 90_000, PEER_BYTES: 8_000, **rates}
    about = {"mean_bytes": 1e5, "distinct": 250}
    images = {"shards": about} if padded else {"shards": about, "original": about}
    settings = {"recipe": "r", "padded": padded, "size": 32 if padded else 224, "samples": 50_000, "batch": 128}
    settings |= {"workers": [0, 1, 2], "repeats": 5, "seconds": 1.0, "epochs": 20, "model": None, "norm": "bn"}
    timings = {name: rate(images) for name, images in figures.items() if not padded or "original" not in name}
    return {
        "quick": False,
        "settings": settings,
        "sections": {"rates": {"images": images, "workers": [0, 1, 2], "timings": timings}},
    }


def verdicts(made: dict[str, Any], section: str = "rates") -> dict[tuple[str, str], tuple[float, str]]:
    return {
        (row["what"], row["against"]): (row["value"], row["verdict"])
        for row in summarise(made)[section]
        if row["verdict"]
    }


def test_the_standard_recipe_is_taken_as_it_is_faster() -> None:
    faster = standard("train", "original", 0)
    found = verdicts(record(**{faster: 500}))
    assert found[stream("train", "shards", 1), faster] == (pytest.approx(2.4), "missed by 11.1%")
    assert (stream("train", "shards", 1), standard("train", "original", 1)) not in found


@pytest.mark.parametrize("stage", ["train", "eval"])
def test_rates_are_judged_against_original_files_and_decoding_alone(stage: Any) -> None:
    found = verdicts(record())
    ours, standard_recipe = stream(stage, "shards", 1), standard(stage, "original", 1)
    assert found[ours, standard_recipe] == (pytest.approx(3.0), "met")
    assert found[ours, alone(stage, "shards")] == (pytest.approx(0.96), "met")
    assert found[stream(stage, "original", 1), standard_recipe] == (pytest.approx(1.75), "met")
    assert found[stream(stage, "original", 1), alone(stage, "original")] == (pytest.approx(700 / 750), "met")
    assert len(found) == 8
    better = verdicts(record(**{stream(stage, "shards", 1): 1500}))
    assert better[ours, standard_recipe][1] == "met, and the stretch"
    slower = verdicts(record(**{stream(stage, "shards", 1): 972}))
    assert slower[ours, standard_recipe][1] == "missed by 10.0%"


def test_small_images_are_judged_by_images_per_second() -> None:
    ours = stream("train", "shards", 1)
    found = verdicts(record(padded=True, **{first_epoch(ours): 11_000, ours: 19_000}))
    assert found[first_epoch(ours), ""] == (pytest.approx(11_000), "met")
    assert found[ours, ""] == (pytest.approx(19_000), "missed by 5.0%")
    assert set(found) == {(name, "") for s in ("train", "eval") for name in _both(stream(s, "shards", 1))}  # type: ignore[arg-type]


def _both(name: str) -> tuple[str, str]:
    return name, first_epoch(name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"quick": True}, "--quick"),
        ({"repeats": 4}, "median of 4, not of 5 or more"),
        ({"samples": 2_999}, "2,999 images, not 3,000"),
        ({"size": 160}, "crops of 160 px, not 224"),
        ({"control": 1100}, "ran at 0.88 of itself: the machine was not quiet"),
    ],
)
def test_other_conditions_give_no_verdict(change: dict[str, Any], words: str) -> None:
    made = record(**({control("train", "shards"): change["control"]} if "control" in change else {}))
    made["quick"] = change.pop("quick", False)
    made["settings"] |= {key: value for key, value in change.items() if key != "control"}
    assert words in "; ".join(deviations(made, "rates"))
    assert {verdict for _, verdict in verdicts(made).values()} == {"none"}
    text = "\n".join(table.text() for table in tables(made)["rates"])
    assert "no verdicts" in text and words in text


def with_peers(**changes: dict[str, float] | str) -> dict[str, Any]:
    """The others read 40,000 images/s and decode 700; ours 90,000 and 800."""
    timings: dict[str, Any] = {timing(OURS, "bytes"): rate(90_000), timing(OURS, "decoded"): rate(800)}
    timings |= {first_epoch(timing(OURS, "decoded")): rate(790), timing(SAME_DECODER, "decoded"): rate(690)}
    for name in data_peers.PEERS:
        timings |= {timing(name, "bytes"): rate(40_000), timing(name, "decoded"): rate(700)}
    made = record()
    made["sections"]["peers"] = {"peers": list(data_peers.PEERS), "versions": {}, "timings": timings | changes}
    return made


def test_ours_is_judged_by_the_best_of_the_others() -> None:
    made = with_peers(**{timing(data_peers.LITDATA, "bytes"): rate(50_000)})
    found = verdicts(made, "peers")
    assert found[timing(OURS, "bytes"), timing(data_peers.LITDATA, "bytes")] == (pytest.approx(1.8), "missed by 10.0%")
    best = timing(data_peers.WEBDATASET, "decoded")
    assert found[timing(OURS, "decoded"), best][1] == found[first_epoch(timing(OURS, "decoded")), best][1] == "met"
    assert len(found) == 3  # with the others' decoder there is no goal
    assert any(row["what"] == timing(SAME_DECODER, "decoded") for row in summarise(made)["peers"])


def test_who_is_not_installed_is_told_and_leaves_no_verdict() -> None:
    gone = {timing(data_peers.MOSAIC, way): NOT_INSTALLED for way in ("bytes", "decoded")}
    made = with_peers(**gone)
    assert verdicts(made, "peers") == {}
    assert f"{timing(data_peers.MOSAIC, 'bytes')}" in tables(made)["peers"][0].text()
    assert "not installed" in tables(made)["peers"][0].text()
    everybody = {timing(name, way): NOT_INSTALLED for name in data_peers.PEERS for way in ("bytes", "decoded")}
    assert summarise(with_peers(**everybody))["peers"] == []


def test_memory_and_start_are_judged() -> None:
    made = record()
    flat, growing = [9e8] * 20, [9e8 + 1e6 * epoch for epoch in range(20)]
    case = {"samples": 100, "shards": 96, "processes": 1}
    made["sections"] = {
        "memory": {
            "epochs": 20,
            "settled": 3,
            "cases": [
                {**case, "workers": 0, "own": flat, "rss": flat, "files": [70] * 20},
                {**case, "workers": 2, "own": growing, "rss": flat, "files": [*[70] * 10, *[71] * 10]},
            ],
        },
        "scale": {
            "loaded": 2_400_000,
            "started": 1_300_000,
            "index_bytes": 1e8,
            "grown": 130e6,
            "peak": 310e6,
            "timings": {"load": rate(2), "order": rate(2), "dataset": rate(2)},
        },
    }
    memory = {what: verdict for (what, _), (_, verdict) in verdicts(made, "memory").items()}
    assert memory == {
        "growth of own memory, 0 workers": "met",
        "growth of RSS, 0 workers": "met",
        "new open files, 0 workers": "met",
        "growth of own memory, 2 workers": "missed by 100.0%",
        "growth of RSS, 2 workers": "met",
        "new open files, 2 workers": "missed",
    }
    scale = [verdict for _, verdict in verdicts(made, "scale").values()]
    assert scale == ["missed by 66.7%", "met", "missed by 3.3%", "met"]
    for section, words in (("memory", "900.0"), ("scale", "2,400,000")):
        assert any(words in table.text() for table in tables(made)[section])


def test_waiting_is_what_steps_take_longer_than_without_a_loader() -> None:
    made = record()
    timings = {"loader": rate(4), "resident": rate(5), "blocked": rate(40)}
    case = {"workers": 8, "device": "cuda", "timings": timings}
    made["sections"] = {"training": {"model": "resnet50", "norm": "en", "batch": 128, "cases": [case]}}
    (row,) = summarise(made)["training"]
    assert row["value"] == pytest.approx(1 - 4 / 5) and row["verdict"] == ""
    assert "512" in tables(made)["training"][0].text() and "0.10" in tables(made)["training"][0].text()


def test_bounds() -> None:
    assert str(Bound(2.7, stretch=3.5)) == ">= 2.70 (stretch 3.50)"
    assert str(Bound(10_000, digits=0, unit=" /s")) == ">= 10,000 /s"
    assert str(Bound(0.3, "at most", unit=" s")) == "<= 0.30 s"
    assert [Bound(2.0, stretch=3.0).verdict(value) for value in (1.0, 2.0, 3.0)] == [
        "missed by 50.0%",
        "met",
        "met, and the stretch",
    ]
    assert [Bound(2.0, "at most").verdict(value) for value in (2.0, 3.0)] == ["met", "missed by 50.0%"]

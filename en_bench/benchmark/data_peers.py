"""Streams of other makers: writing their formats, and reading them shuffled, as their documentation has it.

They are no dependency of this package: what is not installed is left out and told. Their modules are imported only by
what uses them, by name, as none of them has types to check.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from en_bench.benchmark.data_recipe import Recipe, Stage

WEBDATASET, MOSAIC, LITDATA = "webdataset", "MosaicML Streaming", "LitData"
PEERS = {WEBDATASET: "webdataset", MOSAIC: "streaming", LITDATA: "litdata"}  # name: its module
_PACKAGES = {WEBDATASET: "webdataset", MOSAIC: "mosaicml-streaming", LITDATA: "litdata"}
_SHUFFLED = 1000  # samples in webdataset's buffer, as in its documentation
_CHUNK_BYTES = 2**26  # of a file of MosaicML Streaming (its default) and of LitData (its documentation's)

Sample = tuple[bytes, int]  # image file and class


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(PEERS[name]) is not None


def versions() -> dict[str, str]:
    """Versions of those that are installed."""
    return {_PACKAGES[name]: version(_PACKAGES[name]) for name in PEERS if is_installed(name)}


def _write_webdataset(folder: Path, samples: Iterable[Sample], shard_samples: int) -> None:
    wds: Any = importlib.import_module("webdataset")
    folder.mkdir(parents=True)
    with wds.ShardWriter(str(folder / "%06d.tar"), maxcount=shard_samples, verbose=0) as writer:
        for number, (payload, label) in enumerate(samples):
            extension = "png" if payload.startswith(b"\x89PNG") else "jpg"
            writer.write({"__key__": f"{number:07d}", extension: payload, "cls": label})


def _write_mosaic(folder: Path, samples: Iterable[Sample], shard_samples: int) -> None:
    streaming: Any = importlib.import_module("streaming")
    columns = {"image": "bytes", "label": "int"}
    with streaming.MDSWriter(out=str(folder), columns=columns, size_limit=_CHUNK_BYTES) as writer:
        for payload, label in samples:
            writer.write({"image": payload, "label": label})


def _write_litdata(folder: Path, samples: Iterable[Sample], shard_samples: int) -> None:
    made: Any = importlib.import_module("litdata.streaming.writer")
    writer = made.BinaryWriter(str(folder), chunk_bytes=_CHUNK_BYTES)
    for number, (payload, label) in enumerate(samples):
        writer[number] = {"image": payload, "label": label}
    writer.done()
    writer.merge()


WRITERS: dict[str, Callable[[Path, Iterable[Sample], int], None]] = {
    WEBDATASET: _write_webdataset,
    MOSAIC: _write_mosaic,
    LITDATA: _write_litdata,
}


def _webdataset(folder: Path, **options: Any) -> Any:
    wds: Any = importlib.import_module("webdataset")
    return wds.WebDataset([str(path) for path in sorted(folder.glob("*.tar"))], **options)


def _read_webdataset(folder: Path, batch: int, seed: int) -> Callable[[int], Iterator[Sample]]:
    def read(epoch: int) -> Iterator[Sample]:
        for sample in _webdataset(folder, shardshuffle=100, seed=seed + epoch).shuffle(_SHUFFLED):
            yield sample["jpg"] if "jpg" in sample else sample["png"], int(sample["cls"])

    return read


def _read_columns(dataset: Any) -> Callable[[int], Iterator[Sample]]:
    """Of a data set that counts its epochs by itself."""

    def read(epoch: int) -> Iterator[Sample]:
        for sample in dataset:
            yield sample["image"], sample["label"]

    return read


def _read_mosaic(folder: Path, batch: int, seed: int) -> Callable[[int], Iterator[Sample]]:
    streaming: Any = importlib.import_module("streaming")
    return _read_columns(
        streaming.StreamingDataset(local=str(folder), shuffle=True, shuffle_seed=seed, batch_size=batch)
    )


def _read_litdata(folder: Path, batch: int, seed: int) -> Callable[[int], Iterator[Sample]]:
    litdata: Any = importlib.import_module("litdata")
    return _read_columns(litdata.StreamingDataset(str(folder), shuffle=True, seed=seed, drop_last=False))


READERS: dict[str, Callable[[Path, int, int], Callable[[int], Iterator[Sample]]]] = {
    WEBDATASET: _read_webdataset,
    MOSAIC: _read_mosaic,
    LITDATA: _read_litdata,
}


def standard_loader(
    folder: Path, recipe: Recipe, stage: Stage, batch: int, workers: int, seed: int
) -> Callable[[int], Iterator[int]]:
    """Batches of the standard recipe, told by their sizes: WebDataset, Pillow, torchvision's v1 transforms, float32."""
    wds: Any = importlib.import_module("webdataset")
    change: Callable[[Any], Tensor] = recipe.pillow(stage)

    def read(epoch: int) -> Iterator[int]:
        shuffled = stage == "train"
        found = _webdataset(folder, shardshuffle=100 if shuffled else False, seed=seed + epoch, empty_check=False)
        found = found.shuffle(_SHUFFLED) if shuffled else found
        found = found.decode("pil").to_tuple("jpg;png", "cls").map_tuple(change, _unchanged).batched(batch)
        loader: DataLoader[Any] = wds.WebLoader(found, batch_size=None, num_workers=workers)
        for images, _ in loader:
            yield len(images)

    return read


def _unchanged(label: int) -> int:
    return label

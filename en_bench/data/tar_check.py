"""The samples of one shard, found by `tarfile` from its first byte on and decoded by Pillow, against the index."""

from __future__ import annotations

import io
import json
import tarfile
import warnings
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image

from en_bench.data.findings import LISTED, Findings
from en_bench.data.index import Index
from en_bench.data.manifest import GIVEN, Manifest
from en_bench.data.shard_task import Report
from en_bench.data.tar_members import tar_members
from en_bench.errors import message_of

_FORMATS = {"jpg": "JPEG", "png": "PNG"}
_COLUMNS = {"jpg": 0, "png": 0, "mask.png": 1}  # of offset and size in the index
_PNG_BIT_DEPTH = 24  # offset in a PNG file; Pillow cuts 16 bits to 8 without a word, other decoders do not


class TarCheck:
    """Goes through the tar of one shard and compares it with the rows of the index."""

    def __init__(
        self, manifest: Manifest, rows: Index, name: str, file: IO[bytes], size: int, findings: Findings
    ) -> None:
        self.manifest, self.rows, self.name, self.file, self.size = manifest, rows, name, file, size
        self.findings = findings
        label_file = "mask.png" if "mask" in manifest.members else "cls"
        self.known_files = {*_FORMATS, label_file, "json"}

    def run(self, report: Report) -> None:
        findings, strange = self.findings, Findings()
        position = {bytes(key): row for row, key in enumerate(self.rows.keys)}
        seen = np.zeros(len(self.rows), dtype=bool)
        first = None
        try:
            for key, members in self._samples():
                first = first or key
                row = position.get(key.encode("utf-8", "surrogateescape"))
                if row is None:
                    self._unlisted(key, strange)
                elif seen[row]:
                    strange.add(f"{self.name}: {key!r} lies there in two places")
                else:
                    seen[row] = True
                    for problem in self._problems(key, members, row):
                        findings.add(f"{self.name}, sample {key!r}: {problem}")
                    report(1, 0)
        except tarfile.TarError as error:
            findings.add(f"{self.name}: not a whole tar: {error}")
        findings.samples += int(seen.sum())
        if not seen.any():
            instead = f"; the first that lies there is {first!r}" if first else ""
            findings.add(f"{self.name}: holds none of its {len(seen):,} samples{instead}")
            return
        findings.merge(strange)
        missing = np.flatnonzero(~seen).tolist()
        if len(missing) > LISTED:  # as after a damaged header: one problem
            first = self.rows.key(missing[0])
            findings.add(
                f"{self.name}: {len(missing):,} of its {len(seen):,} samples are missing, the first is {first!r}"
            )
            return
        for row in missing:
            findings.add(f"{self.name}, sample {self.rows.key(row)!r}: missing")

    def _unlisted(self, key: str, strange: Findings) -> None:
        strange.add(f"{self.name}: {key!r} is not in the index")

    def _samples(self) -> Iterator[tuple[str, list[tarfile.TarInfo]]]:
        """(key, members) of neighbours in the tar. Raises TarError after those that could be found."""
        key, neighbours, broken = "", list[tarfile.TarInfo](), None
        try:
            for _, member in tar_members(self.file):
                own = self._key_of(member)
                if own is None:
                    continue
                if neighbours and own != key:
                    yield key, neighbours
                    neighbours = []
                key = own
                neighbours.append(member)
        except tarfile.TarError as error:
            broken = error
        if neighbours:
            yield key, neighbours
        if broken is not None:
            raise broken

    def _key_of(self, member: tarfile.TarInfo) -> str | None:
        """Key of the sample that a file belongs to, None if it is passed over."""
        folder, slash, name = member.name.rpartition("/")
        return folder + slash + name.partition(".")[0]

    def _problems(self, key: str, members: list[tarfile.TarInfo], row: int) -> Iterator[str]:
        files: dict[str, bytes | None] = {}  # None: what is wrong with it is told already
        for member in members:
            suffix = member.name[len(key) + 1 :]
            if suffix not in self.known_files:
                yield f"{member.name!r} is no file of a sample"
            elif suffix in files:
                yield f".{suffix} lies there twice"
            elif member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                yield f".{suffix} is not a plain file"
            elif member.offset_data + member.size > self.size:
                yield f".{suffix} is cut off"
                return  # nothing can follow it
            else:
                if suffix in _COLUMNS:
                    yield from self._misplaced(suffix, member, row, _COLUMNS[suffix])
                self.file.seek(member.offset_data)
                files[suffix] = self.file.read(member.size)
                continue
            files.setdefault(suffix, None)
        yield from self._content_problems(files, row)

    def _misplaced(self, suffix: str, member: tarfile.TarInfo, row: int, column: int) -> Iterator[str]:
        found = (member.offset_data, member.size)
        told = (int(self.rows.offset[row, column]), int(self.rows.size[row, column]))
        if found != told:
            yield f".{suffix} lies at byte {found[0]:,} with {found[1]:,}, the index says {told[0]:,} with {told[1]:,}"

    def _content_problems(self, files: dict[str, bytes | None], row: int) -> Iterator[str]:
        masks = "mask" in self.manifest.members
        images = [suffix for suffix in _FORMATS if suffix in files]
        if len(images) != 1:
            yield f"has {len(images) or 'no'} image{'s' * (len(images) > 1)}"
        for suffix in sorted(self.known_files - _FORMATS.keys() - files.keys()):
            yield f"has no .{suffix}"
        size = None
        for suffix in images:
            if (payload := files[suffix]) is not None:
                size, problem = _image_problem(payload, _FORMATS[suffix], ("RGB", "L"))
                if problem:
                    yield f".{suffix} {problem}"
        if (payload := files.get("mask.png")) is not None:
            yield from self._mask_problems(payload, size)
        labels = {column: int(values[row]) for column, values in self.rows.labels.items()}
        if (payload := files.get("cls")) is not None and payload != str(labels[GIVEN]).encode():
            yield f".cls says {_short(payload.decode(errors='replace'))!r}, the index {labels[GIVEN]}"
        if (payload := files.get("json")) is not None:
            yield from _json_problems(payload, None if masks else labels)

    def _mask_problems(self, payload: bytes, image_size: tuple[int, int] | None) -> Iterator[str]:
        size, problem = _image_problem(payload, "PNG", ("L",))
        if problem:
            yield f".mask.png {problem}"
            return
        if image_size is not None and size != image_size:
            yield f".mask.png is of {size} pixels, the image of {image_size}"
        with Image.open(io.BytesIO(payload), formats=("PNG",)) as mask:
            values = np.asarray(mask)
        bad = values[(values >= len(self.manifest.classes)) & (values != self.manifest.ignore_index)]
        if bad.size:
            yield f".mask.png holds {int(bad.min())}, which is neither a class nor the ignore index"


def _json_problems(content: bytes, labels: dict[str, int] | None) -> Iterator[str]:
    try:
        about: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        yield f".json is not JSON: {_short(str(error))}"
        return
    if not isinstance(about, dict) or not isinstance(about.get("source"), str):
        yield ".json names no source"
    elif about.get("labels") != labels:
        yield f".json says {_short(about.get('labels'))}, the index {labels}"


def _image_problem(payload: bytes, form: str, modes: tuple[str, ...]) -> tuple[tuple[int, int] | None, str | None]:
    """(size, None) of a good image, else what is wrong with it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for kind in (UserWarning, Image.DecompressionBombWarning):  # what readers would say in every epoch
                warnings.simplefilter("error", kind)
            with Image.open(io.BytesIO(payload), formats=(form,)) as image:
                image.load()
                orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
                if orientation not in (0, 1):
                    return None, f"is not upright (EXIF orientation {_short(orientation)})"
                if image.mode not in modes:
                    return None, f"is {image.mode}, not {' or '.join(modes)}"
                if form == "PNG" and payload[_PNG_BIT_DEPTH] > 8:
                    return None, f"has {payload[_PNG_BIT_DEPTH]} bits per value, not 8"
                return image.size, None
    except Exception as error:  # Pillow's decoders raise nearly any type on a damaged file
        return None, f"cannot be decoded: {_short(message_of(error))}"


def _short(value: object) -> str:
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= 120 else f"{text[:119]}…"

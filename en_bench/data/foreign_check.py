"""The samples of a shard of other makers against its index: places, labels, and whether images can be decoded."""

from __future__ import annotations

import functools
import tarfile
from collections.abc import Iterator

from en_bench.data.findings import Findings
from en_bench.data.foreign_images import fault_of_image
from en_bench.data.label_classes import ClassNames
from en_bench.data.label_rules import LARGEST_LABEL_FILE, LabelRule, NoLabel
from en_bench.data.tar_check import TarCheck
from en_bench.data.tar_names import key_and_suffix


class ForeignTarCheck(TarCheck):
    """Goes through the tar of one shard as TarCheck does, and asks no more of it than training needs.

    Further files of a sample, samples that could not be used, colours and orientation are their maker's matter.
    Labels that a class map renamed are not checked: the manifest has the map's hash only.
    """

    @functools.cached_property
    def _names(self) -> ClassNames:
        return ClassNames(self.manifest.classes)

    @functools.cached_property
    def _rules(self) -> dict[str, LabelRule]:
        source = self.manifest.source
        told = {} if "class_map" in source else source.get("labels", {})
        return {column: LabelRule.parse(text) for column, text in told.items() if column in self.rows.labels}

    def _key_of(self, member: tarfile.TarInfo) -> str | None:
        split = None if member.isdir() else key_and_suffix(member.name)
        return None if split is None else split[0]

    def _unlisted(self, key: str, strange: Findings) -> None:
        pass  # it is in skipped.csv

    def _problems(self, key: str, members: list[tarfile.TarInfo], row: int) -> Iterator[str]:
        place = (int(self.rows.offset[row, 0]), int(self.rows.size[row, 0]))
        if not any((member.offset_data, member.size) == place for member in members):
            yield f"no file of it lies at byte {place[0]:,} with {place[1]:,}, as the index says"
        elif sum(place) > self.size:
            yield "is cut off"
            return
        else:
            fault = fault_of_image(self._content(*place))
            if fault:
                yield fault
        yield from self._label_problems(key, members, row)

    def _label_problems(self, key: str, members: list[tarfile.TarInfo], row: int) -> Iterator[str]:
        by_suffix = {member.name[len(key) + 1 :].lower(): member for member in members if member.isreg()}
        for column, rule in self._rules.items():
            files = {
                suffix: self._content(by_suffix[suffix].offset_data, by_suffix[suffix].size)
                for suffix in rule.extensions
                if suffix in by_suffix and by_suffix[suffix].size <= LARGEST_LABEL_FILE
            }
            try:
                label = rule.label(key, files)
                found = self._names.number(label)
            except NoLabel as reason:
                label, found = str(reason), -1
            told = int(self.rows.labels[column][row])
            if found != told:
                yield f"label {column!r} is {told} in the index, and {found} by {rule} ({label})"

    def _content(self, offset: int, size: int) -> bytes:
        self.file.seek(offset)
        return self.file.read(size)

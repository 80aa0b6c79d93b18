"""What the project wants of its streams."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Bound(NamedTuple):
    """A lower or upper bound of a figure, what would be better still, and how the figure is written."""

    value: float
    kind: Literal["at least", "at most"] = "at least"
    stretch: float | None = None
    digits: int = 2
    unit: str = ""

    def __str__(self) -> str:
        sign = ">=" if self.kind == "at least" else "<="
        better = f" (stretch {self.stretch:,.{self.digits}f})" if self.stretch is not None else ""
        return f"{sign} {self.value:,.{self.digits}f}{self.unit}{better}"

    def reached(self, found: float, bound: float) -> bool:
        return found >= bound if self.kind == "at least" else found <= bound

    def verdict(self, found: float) -> str:
        if not self.reached(found, self.value):
            return f"missed by {abs(found / self.value - 1):.1%}" if self.value else "missed"
        return "met, and the stretch" if self.stretch is not None and self.reached(found, self.stretch) else "met"


# Of our rate, in units of another's.
OF_STANDARD = Bound(2.7, stretch=3.5)  # from shards of 352 px, of the standard recipe on original files
OF_STANDARD_ORIGINAL = Bound(1.7)  # both on original files
OF_ALONE = Bound(0.92)  # of decoding and cropping alone
OF_PEERS = {"bytes": Bound(2.0), "decoded": Bound(1.0)}  # of the best of them
# Images of 32 and 64 px, images/s of one loading process.
SMALL_FIRST, SMALL_LATER = Bound(10_000, digits=0, unit=" /s"), Bound(20_000, digits=0, unit=" /s")
# Memory that grows by less is flat: 100 epochs of it are 50 MB.
SLOPE_MB = Bound(0.5, "at most", unit=" MB/epoch")
NEW_FILES = Bound(0, "at most", digits=0)  # open files that come to those after the first epochs
ORDER_S = Bound(0.3, "at most", unit=" s")
LOAD_S = Bound(1.0, "at most", unit=" s")
LOAD_MB = Bound(300, "at most", digits=0, unit=" MB")

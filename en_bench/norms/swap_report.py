"""What a swap of normalisers kept and what it lost, layer by layer and as a table."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

Preserved = Literal["yes", "in evaluation", "no"]


@dataclass(frozen=True)
class Swap:
    """One module that was replaced."""

    name: str  # qualified, the first one where the module is shared
    old: str
    new: str
    affine: bool  # weight and bias were taken over
    running: bool  # running moments were copied
    preserved: Preserved  # whether the layer computes what it did before
    reason: str  # why not, or not in training, where that is known
    lowered: tuple[int, int] | None  # the groups asked for and the fewer that divide the channels
    note: str

    def outcome(self) -> str:
        """Whether the function is preserved, why not, and what else there is to say."""
        because = f", because {self.reason}" if self.reason else ""
        return f"function preserved: {self.preserved}{because}" + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True)
class SwapReport:
    """What `swap_norms` did. `left` holds (name, class, reason) of normalisers that stayed."""

    swaps: tuple[Swap, ...]
    left: tuple[tuple[str, str, str], ...]

    @property
    def swapped(self) -> int:
        return len(self.swaps)

    @property
    def preserved(self) -> Preserved:
        """Whether the network computes what it did before: the least that holds for all its layers."""
        order: tuple[Preserved, ...] = ("yes", "in evaluation", "no")
        return max((swap.preserved for swap in self.swaps), key=order.index, default="yes")

    def __str__(self) -> str:
        """A line per kind of swap, and per kind of normaliser that was left."""
        lines = [f"{self.swapped} normalisers swapped, function preserved: {self.preserved}"]
        kinds: dict[tuple[str, str, str], list[Swap]] = {}
        for swap in self.swaps:
            kinds.setdefault((swap.old, swap.new, swap.outcome()), []).append(swap)
        for (old, new, outcome), swaps in kinds.items():
            affine, running = sum(swap.affine for swap in swaps), sum(swap.running for swap in swaps)
            lines.append(
                f"{len(swaps):5} {old} -> {new}: affine kept {affine}, running moments kept {running}, {outcome}"
            )
        lowered = Counter(swap.lowered for swap in self.swaps if swap.lowered is not None)
        if lowered:
            counts = ", ".join(f"{asked} -> {got} in {n}" for (asked, got), n in sorted(lowered.items()))
            lines.append(f"      groups lowered to divide the channels: {counts}")
        left: dict[tuple[str, str], list[str]] = {}
        for name, cls, reason in self.left:
            left.setdefault((cls, reason), []).append(name)
        lines += [
            f"{len(names):5} {cls} left, {reason}: {', '.join(names[:2])}{', ...' if len(names) > 2 else ''}"
            for (cls, reason), names in left.items()
        ]
        return "\n".join(lines)

"""The pictures of a matrix, as SVG whose letters are outlines: the same on every machine, no font needed."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from html import escape
from typing import TYPE_CHECKING, Any, ParamSpec

from en_bench.report.curves import NOISE, Curves, OverSeeds, over_seeds
from en_bench.report.entries import DIVERGED, MIXED, PART, Metric
from en_bench.report.tables import Key, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart; with the markers also in black and white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
_PAGE_WIDTH = 11.0
_MOST_NUMBERS = 1500  # fields that are written into; of more nobody reads them in a picture
MOST_DOTS = 600
"""Rows of the picture of all means: with more it is many pages long, and takes most of the report's time."""
_SCALE_FROM, _SCALE_TO = (0.95, 0.97, 0.99), (0.03, 0.32, 0.53)

P = ParamSpec("P")


Shade = tuple[tuple[float, float, float], bool]
"""A background as red, green, blue in 0..1, and whether the text on it must be light."""


def shades(table: Table) -> dict[Key, Shade]:
    """The background of each entry: darker for better, white where there is no mean."""
    means = {key: e.summary.mean for key, e in table.entries.items() if e.summary is not None}
    means = {key: mean for key, mean in means.items() if mean == mean}
    low, high = min(means.values(), default=0.0), max(means.values(), default=0.0)
    found: dict[Key, Shade] = dict.fromkeys(table.entries, ((1.0, 1.0, 1.0), False))
    for key, mean in means.items():
        share = (mean - low) / (high - low) if high > low else 0.5
        share = share if table.metric.higher_is_better else 1 - share
        red, green, blue = (a + (b - a) * share for a, b in zip(_SCALE_FROM, _SCALE_TO, strict=True))
        found[key] = (red, green, blue), share > 0.55
    return found


def _styled(draw: Callable[P, str]) -> Callable[P, str]:
    """`draw` under the project's style, whatever the user's own matplotlibrc says."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> str:
        from matplotlib import style

        fonts = {"font.size": 9, "axes.titlesize": 9.5, "axes.titleweight": "bold"}
        # Letters as outlines, a fixed salt for ids: equal records make equal bytes, on every machine.
        fixed = {"svg.fonttype": "path", "svg.hashsalt": "en_bench"}
        with style.context(["default", fonts, fixed]):
            return draw(*args, **kwargs)

    return styled


@_styled
def matrix_svg(table: Table) -> str:
    """One heat map (training x validation set) per normaliser, each field with mean, interval and seeds.

    Where there are very many fields only those say something that a seed failed, is missing or the like in.
    """
    columns, rows = len(table.columns), len(table.trains)
    of_entries = shades(table)
    label = 0.3 + 0.075 * max(map(len, table.trains))
    figure, panels = _panels(len(table.norms), 1.25 * columns + 0.25, 0.62 * rows + 0.7, margin=label)
    for axes, norm in zip(panels, table.norms, strict=True):
        axes.set(xlim=(0, columns), ylim=(rows, 0), title=norm)
        axes.set_xticks([i + 0.5 for i in range(columns)], list(table.columns), rotation=30 if columns > 3 else 0)
        axes.set_yticks([i + 0.5 for i in range(rows)], table.trains)
        axes.tick_params(length=0)
        _fields(axes, table, norm, of_entries)
        for spine in axes.spines.values():
            spine.set_visible(False)
    figure.supylabel("trained on", fontsize=8)
    figure.supxlabel(f"validated on\n{table.headline}: mean ± 95 % interval (seeds)", fontsize=8)
    return _svg(figure, "matrix", f"{table.title}: {table.metric.title}")


def _fields(axes: "Axes", table: Table, norm: str, of_entries: Mapping[Key, Shade]) -> None:
    from matplotlib.collections import PolyCollection

    places = [(x, y, (train, norm, c)) for y, train in enumerate(table.trains) for x, c in enumerate(table.columns)]
    squares = [
        [(x + a, y + b) for a, b in ((0.02, 0.02), (0.98, 0.02), (0.98, 0.98), (0.02, 0.98))] for x, y, _ in places
    ]
    colours = [of_entries[key][0] for *_, key in places]
    axes.add_collection(PolyCollection(squares, facecolors=colours, edgecolors="#c8d0d8", linewidths=0.5))
    for x, y, key in places:
        entry, ink = table.entries[key], "white" if of_entries[key][1] else "#1c2733"
        if len(table.entries) <= _MOST_NUMBERS:
            lines = entry.show(table.metric).replace(" ± ", "\n± ")
            for mark in entry.marks():
                lines = lines.replace(f" {mark}", f"\n{mark}")
        else:
            lines = "\n".join(entry.marks())
        if lines:
            axes.text(x + 0.5, y + 0.5, lines, ha="center", va="center", fontsize=7.5, color=ink)


@_styled
def dots_svg(table: Table) -> str:
    """Mean, 95 % interval and (faint) the single seeds, for each pair of training and validation set.

    Beside a marker stands what holds of its seeds (FAILED, STALE, MISSING, PART, MIXED, DIVERGED), and at the left
    where there is no mean: – where nothing has run. A marker is hollow where seeds were validated on a part of the set
    only, or diverged, or where rivals rest on different data.
    """
    pairs = [(train, column) for train in table.trains for column in table.columns]
    step = 1.0 / (len(table.norms) + 1)
    figure = _figure(7.6, 0.5 + 0.22 * (len(table.norms) + 1) * len(pairs) + 0.5)
    axes = figure.subplots()
    for index, norm in enumerate(table.norms):
        style = _style(index)
        for row, (train, column) in enumerate(pairs):
            entry, y = table.entries[train, norm, column], row + (index + 1) * step
            axes.plot(
                [v * table.metric.scale for v in entry.values.values()],
                [y] * len(entry.values),
                "|",
                color=style["color"],
                alpha=0.45,
                markersize=7,
            )
            told = " ".join(entry.marks())
            if entry.summary is None:
                place = {"textcoords": "offset points", "va": "center", "fontsize": 6, "color": style["color"]}
                axes.annotate(told, (0, y), (3, 0), xycoords=axes.get_yaxis_transform(), **place)
            else:
                half = None if entry.summary.half_width is None else entry.summary.half_width * table.metric.scale
                mean = entry.summary.mean * table.metric.scale
                hollow = {"markerfacecolor": "white"} if {PART, MIXED, DIVERGED} & set(entry.holding()) else {}
                axes.errorbar(mean, y, xerr=half, capsize=2.5, **(style | hollow))
                if told:
                    axes.annotate(told, (mean, y), (0, 4), textcoords="offset points", ha="center", fontsize=6)
        axes.plot([], [], label=norm, linestyle="none", **style)
    for row in range(1, len(pairs)):
        axes.axhline(row, color="#dde3e8", linewidth=0.8)
    axes.set_yticks([row + 0.5 for row in range(len(pairs))], [f"{train} → {column}" for train, column in pairs])
    axes.set(ylim=(len(pairs), 0), xlabel=table.headline)
    axes.tick_params(axis="y", length=0)
    _finish(axes, "x")
    figure.legend(loc="outside upper center", ncols=min(4, len(table.norms)), frameon=False)
    return _svg(figure, "dots", f"{table.metric.title} for each pair of training and validation set")


@_styled
def curves_svg(table: Table, metric: Metric, curves: Curves) -> str:
    """Validation during training, by epoch: a panel per training set, a line per normaliser and seed."""
    trains = [train for train in table.trains if any(curves.get((train, norm)) for norm in table.norms)]
    figure, panels = _panels(len(trains), 3.5, 2.6, margin=0.5)
    for axes, train in zip(panels, trains, strict=True):
        for index, norm in enumerate(table.norms):
            for curve in curves.get((train, norm), ()):
                epochs, values = [epoch for epoch, _ in curve], [value * metric.scale for _, value in curve]
                axes.plot(epochs, values, linewidth=1.2, alpha=0.8, **(_style(index) | {"markersize": 3}))
        axes.set(title=f"trained on {train}", xlabel="epoch")
        _count_epochs(axes)
        _finish(axes, "y")
    for index, norm in enumerate(table.norms):
        panels[0].plot([], [], label=norm, **_style(index))
    figure.supylabel(metric.title, fontsize=9)
    figure.legend(loc="outside upper center", ncols=min(4, len(table.norms)), frameon=False)
    return _svg(figure, "curves", f"{metric.title} by epoch")


@_styled
def noise_svg(table: Table, train: str, curves: Mapping[str, Curves], name: str) -> str:
    """What the trainings on one set made of its labels, by epoch: a panel per metric of NOISE that there is.

    A line per normaliser is the mean over its seeds, the band reaches from the lowest to the highest of them. From the
    epoch on that a seed does not have, as it diverged or failed, the line is dashed, and tells how many seeds are left.
    The legend tells where fewer seeds were measured than there are.
    """
    shown = [metric for metric in NOISE if any((train, norm) in curves.get(metric, {}) for norm in table.norms)]
    figure, panels = _panels(len(shown), 3.5, 2.4, margin=0.5, sharey=False)
    for axes, metric in zip(panels, shown, strict=True):
        for index, norm in enumerate(table.norms):
            of_seeds = curves[metric].get((train, norm), ())
            if points := over_seeds(of_seeds):
                _mean_line(axes, points, len(of_seeds), index)
        axes.set_title(NOISE[metric], fontsize=8.5)
        axes.set(xlabel="epoch")
        _count_epochs(axes)
        _finish(axes, "y")
    for index, norm in enumerate(table.norms):
        seeds = max(len(curves[metric].get((train, norm), ())) for metric in shown)
        few = f" ({seeds} of {len(table.spec.seeds)} seeds)" if 0 < seeds < len(table.spec.seeds) else ""
        panels[0].plot([], [], label=f"{norm}{few}", **_style(index))
    figure.supylabel("share of the samples, %", fontsize=9)
    figure.legend(loc="outside upper center", ncols=min(4, len(table.norms)), frameon=False)
    return _svg(figure, name, f"trained on {train}: accuracies and memorisation by epoch")


def _mean_line(axes: "Axes", points: Sequence[OverSeeds], seeds: int, index: int) -> None:
    epochs, mean = [point.epoch for point in points], [100 * point.mean for point in points]
    style = _style(index) | {"markersize": 3, "markevery": max(1, len(points) // 12), "linewidth": 1.2}
    end = next((position for position, point in enumerate(points) if point.seeds < seeds), len(points))
    axes.plot(epochs[:end], mean[:end], **style)
    if end < len(points):
        begin = max(end - 1, 0)
        axes.plot(epochs[begin:], mean[begin:], **(style | {"linestyle": "--"}))
        place = {"textcoords": "offset points", "ha": "right", "fontsize": 6, "color": style["color"]}
        axes.annotate(f"{points[-1].seeds} of {seeds} seeds", (epochs[-1], mean[-1]), (0, 4), **place)
    low, high = [100 * point.lowest for point in points], [100 * point.highest for point in points]
    axes.fill_between(epochs, low, high, color=style["color"], alpha=0.18, linewidth=0)


def _count_epochs(axes: "Axes") -> None:
    """Whole epochs on the axis, with room beside a single one."""
    from matplotlib.ticker import MaxNLocator

    low, high = axes.dataLim.intervalx
    if low == high:
        axes.set_xlim(low - 1, high + 1)
        axes.set_xticks([low])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _style(index: int) -> dict[str, Any]:
    """Of up to 64 normalisers no two have both the same colour and the same marker."""
    marker = _MARKERS[(index + index // len(_COLOURS)) % len(_MARKERS)]
    return {"color": _COLOURS[index % len(_COLOURS)], "marker": marker, "markersize": 5}


def _finish(axes: "Axes", grid: Any) -> None:
    axes.grid(axis=grid, color="#e6eaee", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left" if grid == "x" else "right"):
        axes.spines[side].set_visible(False)


def _panels(
    count: int, width: float, height: float, margin: float, sharey: bool = True
) -> tuple["Figure", list["Axes"]]:
    """A figure of `count` equal panels (sizes in inches), side by side as far as a page is wide."""
    across = min(count, max(1, int(_PAGE_WIDTH // width)))
    down = -(-count // across)
    figure = _figure(max(width * across + margin, 4.5), height * down + 0.65)
    grid: Any = figure.subplots(down, across, squeeze=False, sharey=sharey)
    for unused in grid.flat[count:]:
        unused.set_axis_off()
    return figure, list(grid.flat[:count])


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _svg(figure: "Figure", name: str, description: str) -> str:
    """The drawing as one element that can stand in a page beside others: its ids begin with `name`."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    text = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", text[text.index("<svg") :])
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1)

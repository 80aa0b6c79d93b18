"""The figures of ratios, as PNG: effects of all layers, and a panel per layer."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from en_bench.audit.ratios import SHOWN, Effect, RatioReport, Spread, Within

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of Okabe and Ito's palette, which colour-blind readers can tell apart.
_WRONG, _RIGHT = "#D55E00", "#0072B2"
_COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DPI = 130
_ACROSS = 5  # panels side by side
_LOOKS: dict[Within, dict[str, Any]] = {
    "clean": {"color": "#000000", "marker": "o", "markersize": 4.5, "label": "within classes (clean label)"},
    "given": {"color": "#009E73", "marker": "^", "markersize": 4, "label": "within classes (given label)"},
    "all": {"color": "#999999", "marker": "s", "markersize": 3.5, "label": "over all samples"},
}

P = ParamSpec("P")


def _styled(draw: Callable[P, bytes]) -> Callable[P, bytes]:
    """`draw` under the project's style, whatever the user's own matplotlibrc says."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> bytes:
        from matplotlib import style

        with style.context(["default", {"font.size": 8, "axes.titlesize": 8.5, "axes.titleweight": "bold"}]):
            return draw(*args, **kwargs)

    return styled


@_styled
def effects_png(report: RatioReport, title: str) -> bytes:
    """Cliff's delta of each layer (rows) and normaliser (columns), with its interval, over all and within classes."""
    from matplotlib.ticker import MaxNLocator

    layers, normalisers = _names(report)
    figure = _figure(2.0 + 2.6 * len(normalisers), 1.5 + 0.3 * len(layers))
    panels: Any = figure.subplots(1, len(normalisers), sharex=True, sharey=True, squeeze=False)[0]
    for axes, normaliser in zip(panels, normalisers, strict=True):
        for offset, within in zip((0.0, -0.22, 0.22), _LOOKS, strict=True):
            found = [e for e in report.effects if (e.normaliser, e.within, e.epoch) == (normaliser, within, None)]
            places = [layers.index(effect.layer) + offset for effect in found]
            deltas = np.array([effect.delta for effect in found])
            bars = np.array([[e.delta - e.low, e.high - e.delta] for e in found]).reshape(-1, 2).T
            # One that is NaN has no bar.
            axes.errorbar(
                deltas, places, xerr=bars.clip(min=0), linestyle="none", elinewidth=1, capsize=1.5, **_LOOKS[within]
            )
        axes.axvline(0, color="#444444", linewidth=0.8)
        axes.set(title=normaliser, ylim=(len(layers) - 0.5, -0.5))
        axes.set_yticks(range(len(layers)), layers)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.grid(color="#e6eaee", linewidth=0.8)
        axes.set_axisbelow(True)
        _open(axes)
    panels[len(panels) // 2].set_xlabel(
        "Cliff's delta; right of 0: wrongly labelled samples have more\n95 % intervals, not corrected for their number"
    )
    handles, names = panels[0].get_legend_handles_labels()
    _head(figure, report, title, handles, names)
    return _png(figure)


@_styled
def layers_png(report: RatioReport, title: str) -> bytes:
    """A panel per layer: how its ratios are spread among wrongly and among rightly labelled samples."""
    layers, normalisers = _names(report)
    figure, panels = _panels(len(layers), 1.9)
    spreads = {(spread.layer, spread.normaliser): spread for spread in report.spreads}
    effects = {(e.layer, e.normaliser): e for e in report.effects if e.within == SHOWN and e.epoch is None}
    for axes, layer in zip(panels, layers, strict=True):
        here = [name for name in normalisers if (layer, name) in spreads]
        for place, name in enumerate(here):
            _boxes(axes, place, spreads[layer, name])
        axes.set_xticks(range(len(here)), [_with_effect(name, effects[layer, name]) for name in here])
        axes.set(title=layer, ylim=(0, 1), xlim=(-0.6, len(here) - 0.4))
        axes.grid(axis="y", color="#e6eaee", linewidth=0.8)
        axes.set_axisbelow(True)
        _open(axes)
    from matplotlib.patches import Patch

    handles = [Patch(color=_WRONG, alpha=0.6), Patch(color=_RIGHT, alpha=0.6)]
    figure.supylabel("ratio: median, box 25 to 75 %, line 5 to 95 %", fontsize=8)
    _head(
        figure,
        report,
        f"{title}; below each normaliser Cliff's delta within classes (clean label)",
        handles,
        ["wrongly labelled", "rightly labelled"],
    )
    return _png(figure)


@_styled
def epochs_png(report: RatioReport, title: str) -> bytes:
    """A panel per layer: Cliff's delta within classes by epoch, a line per normaliser."""
    from matplotlib.ticker import MaxNLocator

    layers, normalisers = _names(report)
    figure, panels = _panels(len(layers), 1.7)
    for axes, layer in zip(panels, layers, strict=True):
        for index, name in enumerate(normalisers):
            curve = [
                (e.epoch, e.delta)
                for e in report.effects
                if (e.layer, e.normaliser) == (layer, name) and e.epoch is not None
            ]
            colour = _COLOURS[index % len(_COLOURS)]
            axes.plot(
                [epoch for epoch, _ in curve], [delta for _, delta in curve], marker="o", markersize=3, color=colour
            )
        axes.axhline(0, color="#444444", linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
        axes.set(title=layer)
        axes.grid(axis="y", color="#e6eaee", linewidth=0.8)
        _open(axes)
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], marker="o", color=_COLOURS[i % len(_COLOURS)]) for i in range(len(normalisers))]
    for axes in panels[-_ACROSS:]:  # the lowest of each column
        axes.set_xlabel("epoch, from 1")
    figure.supylabel("Cliff's delta within classes (clean label)", fontsize=8)
    _head(figure, report, title, handles, list(normalisers), "in training, epoch by epoch, without intervals")
    return _png(figure)


def _boxes(axes: Axes, place: int, spread: Spread) -> None:
    for offset, colour, (least, low, middle, high, most) in (
        (-0.18, _WRONG, spread.wrong),
        (0.18, _RIGHT, spread.right),
    ):
        x = place + offset
        axes.plot([x, x], [least, most], color=colour, linewidth=1)
        axes.bar(x, max(high - low, 0.004), bottom=low, width=0.28, color=colour, alpha=0.6)
        axes.plot([x - 0.14, x + 0.14], [middle, middle], color="#000000", linewidth=1.2)


def _with_effect(name: str, effect: Effect) -> str:
    return f"{name}\n{effect.delta:+.2f}"


def _names(report: RatioReport) -> tuple[list[str], list[str]]:
    """Layers and normalisers, in their order in the network."""
    layers = list(dict.fromkeys(effect.layer for effect in report.effects))
    return layers, list(dict.fromkeys(effect.normaliser for effect in report.effects))


def _head(
    figure: Figure, report: RatioReport, title: str, handles: list[Any], names: list[str], source: str | None = None
) -> None:
    about = f"{source or report.source}; {report.wrong:,} wrong, {report.right:,} right samples"
    figure.suptitle(f"{title}\n{about}", fontsize=9)
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)


def _open(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    across = min(count, _ACROSS)
    down = -(-count // across)
    figure = _figure(max(4.5, 0.6 + 2.1 * across), height * down + 1.2)
    grid: Any = figure.subplots(down, across, squeeze=False, sharey=True)
    for unused in grid.flat[count:]:
        unused.set_axis_off()
    return figure, list(grid.flat[:count])


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI, metadata={"Software": None})
    return content.getvalue()

"""Vega-Lite specifications of the charts, built with altair.

Each chart is a template without data, which `fill` completes. The page contains every template once and fills it with
the selected board (`fill` in `assets/chart.js`, which does the same); figures are filled here. Charts on the page and
figures in papers therefore have the same specification.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from pruneboard.report.styles import Style

Spec = dict[str, Any]

X_AXES = {
    "sparsity": ("kept", "sparsity (spaced by compression)"),
    "linear": ("sparsity", "sparsity"),
    "compression": ("compression", "compression ratio"),
    "macs": ("macs", "remaining multiply-adds, % of dense"),
}
"""x axis -> (field, title). On all of them, more is pruned towards the right.

By default, sparsity is drawn over the logarithm of the kept fraction: half of all operating points are above 0.9, where
a linear axis would not separate them.
"""

Y_AXES = {"top1": "test top-1, %", "drop": "drop against dense, points"}
"""y axis -> title. On both, higher in the chart is better."""

FONT = "Liberation Sans, Arial, Helvetica, sans-serif"

_SPANS = {"top1": ("low", "high"), "drop": ("drop_low", "drop_high")}
_OFF_TARGET = "M0,-1L0,1M-.87,-.5L.87,.5M-.87,.5L.87,-.5"
_FAILED = "M-.7,-.7L.7,.7M-.7,.7L.7,-.7"
_INK = {"light": "#1f2328", "dark": "#e4e6ea"}
_PAPER = {"light": "#ffffff", "dark": "#16181d"}
_FAINT = {"light": "#e3e5e8", "dark": "#2b2f36"}
_MUTED = {"light": "#5b626b", "dark": "#a0a6b0"}
_GREY = "#8c9096"
_RED = "#c62828"

_ABOUT_ROW = {
    "method": "method",
    "point": "sparsity",
    "top1_text": "top-1, %",
    "span": "95 % interval",
    "seeds": "seeds",
    "drop_text": "drop, points",
    "rank": "rank",
    "failed": "failed",
}
_ABOUT_LITERATURE = {
    "method": "published",
    "model": "model",
    "point": "sparsity",
    "top1_text": "top-1, %",
    "dense_text": "dense network, %",
    "source": "source",
    "place": "location",
    "note": "note",
}
_ABOUT_LEVEL = {"name": "level", "top1_text": "top-1, %"}
_ABOUT_FAILURE = {"method": "method", "point": "sparsity", "failed": "failed"}


def trade_off(x: str = "sparsity", y: str = "top1") -> Spec:
    """Return the template of the trade-off chart: one of `Y_AXES` over one of `X_AXES`."""
    return copy.deepcopy(_trade_off(x, y))


def heat_map() -> Spec:
    """Return the template of the layer map: kept weights by layer and method at one operating point."""
    return copy.deepcopy(_heat_map())


def fill(
    spec: Spec,
    data: Mapping[str, Sequence[Spec]],
    styles: Sequence[Style] = (),
    ticks: Mapping[str, Sequence[float]] | None = None,
    theme: str = "light",
) -> Spec:
    """Complete a template.

    Args:
        spec: a template of this module.
        data: name -> points of its data sets.
        styles: colour, dash and shape of every method, in the order of the legend.
        ticks: field of an x axis -> its ticks. Vega chooses the ticks of the other axes.
        theme: `light` or `dark`.
    """
    ranges = {
        "color": [getattr(style, theme) for style in styles],
        "strokeDash": [list(style.dash) for style in styles],
        "shape": [style.shape for style in styles],
    }
    for layer in spec["layer"]:
        for channel, values in ranges.items():
            encoding = layer["encoding"].get(channel, {})
            if encoding.get("field") == "method":
                encoding["scale"] = {"domain": [style.name for style in styles], "range": values}
        across = layer["encoding"].get("x", {})
        if ticks and across.get("field") in ticks:
            across["axis"]["values"] = list(ticks[across["field"]])
    return spec | {"datasets": dict(data), "config": config(theme)}


def config(theme: str, font: str = FONT) -> Spec:
    """Return Vega's configuration for a `light` or `dark` page."""
    ink, muted = _INK[theme], _MUTED[theme]
    text = {"labelColor": muted, "titleColor": ink, "labelFontSize": 11, "titleFontSize": 12}
    axis = {"gridColor": _FAINT[theme], "domainColor": muted, "tickColor": muted, "titlePadding": 10, "labelPadding": 5}
    title = {"color": ink, "subtitleColor": muted, "fontSize": 13, "fontWeight": 600, "anchor": "start"}
    return {
        "background": _PAPER[theme],
        "font": font,
        "view": {"stroke": None},
        "axis": text | axis | {"titleFontWeight": "normal"},
        "legend": text | {"titleFontWeight": "normal", "labelLimit": 220, "symbolSize": 90},
        "title": title,
        "style": {"hollow": {"fill": _PAPER[theme]}, "cell": {"stroke": None}},
    }


@cache
def _trade_off(x: str, y: str) -> Spec:
    import altair as alt

    layers = [
        *_dense(y),
        *_chance(y),
        _literature(x, y),
        *_intervals(x, y),
        *_curves(x, y),
        *_marks(x, y),
        _failures(x),
    ]
    return _without_theme(alt.layer(*layers).resolve_scale(shape="shared"))


# Only fills and strokes are translucent, never whole marks, because a renderer needs a separate layer for such a mark.


def _dense(y: str) -> list[Any]:
    import altair as alt

    low, high = _SPANS[y]
    there = _points("dense", y)
    band = _points("dense", low).mark_rect(opacity=1, fillOpacity=0.09, fill=_GREY, aria=False)
    label = there.mark_text(align="right", dy=-7, dx=-2, text="dense", color=_GREY, aria=False)
    return [
        band.encode(y=alt.Y(f"{low}:Q"), y2=f"{high}:Q"),
        there.mark_rule(color=_GREY, strokeWidth=1.5).encode(y=_y(y), tooltip=_tooltip(_ABOUT_ROW)),
        label.encode(x=alt.value("width"), y=_y(y)),
    ]


def _chance(y: str) -> list[Any]:
    """Return the lines of chance and of the majority class. The second is never lower, so its label is above."""
    import altair as alt

    there = _points("levels", y)
    line = there.mark_rule(color=_GREY, strokeWidth=1.2, strokeDash=[2, 3])
    text: Spec = {"align": "left", "dx": 2, "color": _GREY, "aria": False}
    labels = [
        there.transform_filter(f"datum.name == '{name}'").mark_text(dy=dy, text=name, **text)
        for name, dy in (("chance", 9), ("majority class", -7))
    ]
    far = alt.Chart(alt.NamedData("below")).mark_text(dy=-7, **text)
    return [
        line.encode(y=_y(y), tooltip=_tooltip(_ABOUT_LEVEL)),
        *(label.encode(x=alt.value(0), y=_y(y)) for label in labels),
        far.encode(x=alt.value(0), y=alt.value("height"), text="text:N"),
    ]


def _literature(x: str, y: str) -> Any:
    dots = _points("literature", X_AXES[x][0], y)
    dots = dots.mark_point(size=26, color=_GREY, filled=True, opacity=1, fillOpacity=0.65, shape="circle")
    return dots.encode(x=_x(x), y=_y(y), tooltip=_tooltip(_ABOUT_LITERATURE))


def _intervals(x: str, y: str) -> list[Any]:
    import altair as alt

    low, high = _SPANS[y]
    spans = _points("cells", X_AXES[x][0], low).encode(
        x=_x(x), y=alt.Y(f"{low}:Q"), y2=f"{high}:Q", color=_method("Color")
    )
    bands = spans.transform_filter("!datum.off").mark_area(opacity=1, fillOpacity=0.13, line=False, aria=False)
    return [bands.encode(detail="method:N"), spans.mark_rule(opacity=1, strokeOpacity=0.55, aria=False)]


def _curves(x: str, y: str) -> list[Any]:
    import altair as alt

    lines = _means(x, y).transform_filter("!datum.off").mark_line(strokeWidth=1.8, aria=False)
    dots = alt.Chart(alt.NamedData("seeds")).transform_flatten(["tops", "drops"], ["top1", "drop"])
    dots = dots.transform_filter(_all_valid(X_AXES[x][0], y)).mark_circle(
        size=11, opacity=1, fillOpacity=0.5, aria=False
    )
    dots = dots.encode(x=_x(x), y=_y(y), color=_method("Color"))
    return [lines.encode(strokeDash=_method("StrokeDash"), detail="method:N"), dots]


def _marks(x: str, y: str) -> list[Any]:
    means = _means(x, y).encode(tooltip=_tooltip(_ABOUT_ROW))
    on, off = means.transform_filter("!datum.off").encode(shape=_method("Shape")), means.transform_filter("datum.off")
    return [
        on.transform_filter("datum.n > 1").mark_point(size=62, filled=True, opacity=1),
        on.transform_filter("datum.n == 1").mark_point(size=62, strokeWidth=1.6, style="hollow", opacity=1),
        off.mark_point(size=60, strokeWidth=1.6, shape=_OFF_TARGET, opacity=1),
    ]


def _failures(x: str) -> Any:
    import altair as alt

    crosses = _points("failures", X_AXES[x][0])
    crosses = crosses.mark_point(size=46, strokeWidth=2, shape=_FAILED, color=_RED, opacity=1)
    return crosses.encode(x=_x(x), y=alt.value("height"), tooltip=_tooltip(_ABOUT_FAILURE))


def _means(x: str, y: str) -> Any:
    return _points("cells", X_AXES[x][0], y).encode(x=_x(x), y=_y(y), color=_method("Color"))


def _points(data: str, *fields: str) -> Any:
    """Return a chart of the points of a data set that have valid values in these fields."""
    import altair as alt

    return alt.Chart(alt.NamedData(data)).transform_filter(_all_valid(*fields))


def _all_valid(*fields: str) -> str:
    return " && ".join(f"isValid(datum.{field})" for field in fields)


def _x(name: str) -> Any:
    import altair as alt

    field, title = X_AXES[name]
    scale: Spec = {"type": "log", "base": 10 if name == "macs" else 2}
    if name == "linear":
        scale = {"type": "linear", "zero": False}
    label: Spec = {"labelExpr": "format(1 - datum.value, '.6~f')"} if name == "sparsity" else {"format": "~g"}
    axis = alt.Axis(grid=False, labelOverlap="greedy", labelSeparation=6, title=title, **label)
    scale |= {"nice": False, "padding": 14, "reverse": name in ("sparsity", "macs")}
    return alt.X(f"{field}:Q", scale=alt.Scale(**scale), axis=axis)


def _y(name: str) -> Any:
    import altair as alt

    scale = alt.Scale(zero=False, nice=True, padding=6, reverse=name == "drop")
    return alt.Y(f"{name}:Q", scale=scale, axis=alt.Axis(title=Y_AXES[name], tickCount=6, domain=False, ticks=False))


def _method(channel: str) -> Any:
    import altair as alt

    # A legend of the dash would draw it around the symbol.
    legend = None if channel == "StrokeDash" else alt.Legend(title=None, symbolOpacity=1, symbolStrokeWidth=0)
    return getattr(alt, channel)("method:N", scale=alt.Scale(domain=[], range=[]), legend=legend)


def _tooltip(fields: Mapping[str, str]) -> list[Any]:
    import altair as alt

    return [alt.Tooltip(f"{field}:N", title=title) for field, title in fields.items()]


@cache
def _heat_map() -> Spec:
    import altair as alt

    axis = alt.Axis(title="layer, from input to output", labelLimit=90, labelAngle=-60, ticks=False)
    scale = alt.Scale(type="log", domain=[0.001, 1], clamp=True, scheme="viridis")
    legend = alt.Legend(
        title="weights kept", format="~%", values=[0.001, 0.01, 0.1, 1], orient="top", gradientLength=220
    )
    numbers = [alt.Tooltip("weights:Q", format=","), alt.Tooltip("kept:Q", format=".3~%")]
    shaded = alt.Chart(alt.NamedData("layers")).transform_calculate(shade="max(datum.kept, 1e-6)")
    base = shaded.encode(
        x=alt.X("layer:N", sort=None, axis=axis),
        y=alt.Y("method:N", sort=None, axis=alt.Axis(title=None, labelLimit=150, ticks=False, domain=False)),
        tooltip=[*_tooltip({"method": "method", "layer": "layer"}), *numbers],
    )
    tiles = base.mark_rect(stroke="transparent").encode(color=alt.Color("shade:Q", scale=scale, legend=legend))
    collapsed = base.transform_filter("datum.kept == 0").mark_text(text="\u00d7", color="#ffffff", fontSize=13)
    return _without_theme(alt.layer(tiles, collapsed))


def _without_theme(chart: Any) -> Spec:
    """Return the specification without altair's default theme and the URL of the schema.

    It is not validated here, because this takes longer than everything else and gives the same result for every page. A
    test validates all templates.
    """
    spec = chart.to_dict(validate=False)
    return {key: value for key, value in spec.items() if key not in ("$schema", "config")}

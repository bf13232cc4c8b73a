"""Charts as specifications of Vega-Lite, without a library for them: importing one takes a second."""

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

Rows = Sequence[Mapping[str, Any]]

_MOST_NUMBERED = 12  # classes of a confusion matrix with numbers in its cells
_RIGHT, _OTHER = "#3b6fe0", "#e07a3b"


def draw(spec: dict[str, Any], alt: str) -> None:
    """Draw a chart as wide as its place; `alt` describes it to those who do not see it."""
    st.vega_lite_chart(None, spec, width="stretch", alt=alt)


def lines(rows: Rows, x: str, y: str, series: str, titles: tuple[str, str], unit: str = "") -> dict[str, Any]:
    """Return curves: rows with the fields `x`, `y` and `series`; `titles` of both axes."""
    axis = {"title": titles[1], **({"format": unit} if unit else {})}
    return {
        "data": {"values": list(rows)},
        "mark": {"type": "line", "point": {"size": 30}, "strokeWidth": 2},
        "encoding": {
            "x": {"field": x, "type": "quantitative", "title": titles[0], "axis": {"tickMinStep": 1}},
            "y": {"field": y, "type": "quantitative", "scale": {"zero": False}, "axis": axis, "title": titles[1]},
            "color": {"field": series, "type": "nominal", "legend": {"orient": "top", "title": None}},
            "tooltip": [{"field": series}, {"field": x, "title": titles[0]}, {"field": y, "title": titles[1]}],
        },
        "height": 320,
    }


def matrix(rows: Rows, order: Sequence[str], titles: tuple[str, str], number: str) -> dict[str, Any]:
    """Return a confusion matrix: rows with true, predicted, share and number; `titles` of its rows and columns."""
    places = {
        "y": {"field": "true", "type": "nominal", "sort": list(order), "title": titles[0]},
        "x": {
            "field": "predicted",
            "type": "nominal",
            "sort": list(order),
            "title": titles[1],
            "axis": {"orient": "top", "labelAngle": -60},
        },
        "tooltip": [
            {"field": "true", "title": titles[0]},
            {"field": "predicted", "title": titles[1]},
            {"field": "number", "title": number},
            {"field": "share", "format": ".1%"},
        ],
    }
    scale = {"type": "sqrt", "domain": [0, 1], "range": [0, 1]}
    opacity = {"field": "share", "type": "quantitative", "legend": None, "scale": scale}
    layers: list[dict[str, Any]] = [{"mark": {"type": "rect", "color": _RIGHT}, "encoding": {"opacity": opacity}}]
    if len(order) <= _MOST_NUMBERED:
        colour = {"condition": {"test": "datum.share > 0.25", "value": "white"}, "value": "gray"}
        text = {"field": "number", "type": "quantitative"}
        written = {"filter": "datum.number > 0"}
        layers.append({"transform": [written], "mark": "text", "encoding": {"text": text, "color": colour}})
    side = min(38 * len(order) + 100, 720)
    return {"data": {"values": list(rows)}, "encoding": places, "layer": layers, "height": side}


def reliability(rows: Rows, titles: tuple[str, str], number: str) -> dict[str, Any]:
    """Return calibration: rows with confidence, accuracy and number; `titles` of both axes."""
    ends = [{"confidence": end, "accuracy": end} for end in (0, 1)]
    axes = {
        axis: {
            "field": field,
            "type": "quantitative",
            "title": title,
            "scale": {"domain": [0, 1]},
            "axis": {"format": ".0%"},
        }
        for axis, field, title in (("x", "confidence", titles[0]), ("y", "accuracy", titles[1]))
    }
    line = {"type": "line", "strokeDash": [5, 4], "color": "gray"}
    return {
        "height": 320,
        "layer": [
            {"data": {"values": ends}, "mark": line, "encoding": axes},
            {
                "data": {"values": list(rows)},
                "mark": {"type": "circle", "color": _RIGHT, "opacity": 0.85},
                "encoding": {
                    **axes,
                    "size": {"field": "number", "type": "quantitative", "legend": None, "scale": {"range": [30, 500]}},
                    "tooltip": [
                        {"field": "confidence", "title": titles[0], "format": ".1%"},
                        {"field": "accuracy", "title": titles[1], "format": ".1%"},
                        {"field": "number", "title": number},
                    ],
                },
            },
        ],
    }


def histograms(rows: Rows, titles: tuple[str, str], names: tuple[str, str], is_nominal: bool = False) -> dict[str, Any]:
    """Return two histograms on each other: rows with value, share and series; `names` of the series."""
    place: dict[str, Any] = {"field": "value", "title": titles[0], "type": "nominal" if is_nominal else "quantitative"}
    if is_nominal:
        place |= {"sort": None, "axis": {"labelAngle": -45}}
    mark = {"type": "bar", "opacity": 0.9} if is_nominal else {"type": "area", "interpolate": "step", "opacity": 0.45}
    encoding: dict[str, Any] = {
        "x": place,
        "y": {"field": "share", "type": "quantitative", "title": titles[1], "axis": {"format": ".0%"}, "stack": None},
        "color": {
            "field": "series",
            "type": "nominal",
            "scale": {"domain": list(names), "range": [_RIGHT, _OTHER]},
            "legend": {"orient": "top", "title": None},
        },
        "tooltip": [{"field": "series"}, {"field": "value", "title": titles[0]}, {"field": "share", "format": ".1%"}],
    }
    if is_nominal:
        encoding["xOffset"] = {"field": "series"}
    return {"data": {"values": list(rows)}, "mark": mark, "encoding": encoding, "height": 240}

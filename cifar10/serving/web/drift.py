"""The page *Drift*: incoming pictures beside what the network was trained on."""

import time
from typing import Any

import streamlit as st

from cifar10.config.advice import command_line
from cifar10.errors import UserError
from cifar10.serving.drift import DEFAULT_PATH
from cifar10.serving.drift_report import FEWEST, Comparison, Drift, read_drift
from cifar10.serving.web import charts
from cifar10.serving.web.language import Language
from cifar10.serving.web.models import PageModel
from cifar10.serving.web.parts import draw_tiles
from cifar10.serving.web.site import loaded_model
from cifar10.serving.web.visit import Visit

_DAY = 86_400
_PERIODS = {"day": _DAY, "week": 7 * _DAY, "month": 30 * _DAY, "all": None}
"""Name -> seconds; None: from the beginning."""
_MOST_CLASSES = 30


def show(visit: Visit) -> None:
    """Draw the page."""
    words = visit.language
    loaded = loaded_model(visit)
    if loaded is None:
        return
    st.markdown(words("drift.lead"))
    if loaded.predictor.reference is None:
        st.info(words("drift.no_reference"))
        st.code(command_line("export", checkpoint_name=loaded.model.name), language="sh")
        return
    period = st.segmented_control(
        words("drift.since"),
        list(_PERIODS),
        default="week",
        required=True,
        format_func=lambda name: words(f"drift.{name}"),
        key="drift_period",
    )
    found = _read(loaded, _PERIODS[period or "week"], words)
    if found is not None:
        _draw(found, words)


def _read(loaded: PageModel, seconds: float | None, words: Language) -> Drift | None:
    """Return what has come in, or say why there is nothing to show."""
    if loaded.drift is not None:
        loaded.drift.flush()
    predictor = loaded.predictor
    assert predictor.reference is not None
    if not DEFAULT_PATH.exists():
        st.info(words("drift.none"))
        return None
    since = 0.0 if seconds is None else time.time() - seconds
    try:
        found = read_drift(DEFAULT_PATH, predictor.reference, loaded.weights_digest, predictor.class_names, since)
    except UserError as error:
        st.warning(words("drift.failed", reason=error))
        return None
    if not found.num_images:
        st.info(words("drift.none"))
        return None
    return found


def _draw(found: Drift, words: Language) -> None:
    number = words.number(found.num_images)
    if found.num_images < FEWEST:
        verdict = words("drift.verdict_few", number=number)
    elif found.drifted:
        verdict = words("drift.verdict_drift", list=", ".join(words(f"drift.{name}") for name in found.drifted))
    else:
        verdict = words("drift.verdict_ok")
    (st.warning if found.drifted else st.info)(verdict)
    tiles = [(words("drift.number"), number, "")]
    tiles += [_index(each, words) for each in found.comparisons if found.num_images >= FEWEST]
    draw_tiles(tiles)
    columns = st.columns(2)
    for position, each in enumerate(found.comparisons):
        with columns[position % 2]:
            title = words(f"drift.{each.measure}")
            st.markdown(f"**{title}**")
            names = words("drift.training"), words("drift.incoming")
            titles = title, words("drift.share")
            is_nominal = each.edges is None
            charts.draw(charts.histograms(_rows(each, names, words), titles, names, is_nominal), f"{title}: {verdict}")


def _index(each: Comparison, words: Language) -> tuple[str, str, str]:
    value = words.number(each.index, 3)
    note = words("drift.differs") if each.has_drifted else words("drift.agrees")
    return words(f"drift.{each.measure}"), value, note


def _rows(each: Comparison, names: tuple[str, str], words: Language) -> list[dict[str, Any]]:
    """Return a row for each bin and series."""
    shares = each.incoming / max(each.incoming.sum(), 1)
    labels: list[Any]
    if each.edges is None:
        labels = [_label(label, words) for label in each.labels]
    else:
        labels = [float(edge) for edge in each.edges[:-1]]
    places = list(range(len(labels)))
    if len(labels) > _MOST_CLASSES and each.edges is None:
        by_difference = sorted(places, key=lambda place: -abs(float(shares[place] - each.expected[place])))
        places = sorted(by_difference[:_MOST_CLASSES])
    return [
        {"value": labels[place], "share": float(values[place]), "series": name}
        for name, values in zip(names, (each.expected, shares), strict=True)
        for place in places
    ]


def _label(label: str, words: Language) -> str:
    return words(f"drift.{label}") if label in ("like", "unlike") else words.class_name(label)

"""What `evaluate` has measured of a network, drawn from its report.json."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import streamlit as st

from cifar10.errors import UserError
from cifar10.serving.web import charts
from cifar10.serving.web.classified import enlarged
from cifar10.serving.web.dataset import split_pictures
from cifar10.serving.web.language import Language
from cifar10.serving.web.models import Model
from cifar10.serving.web.parts import draw_tiles

REPORT = "report.json"
_DAMAGED = (KeyError, TypeError, ValueError, IndexError, AttributeError)
_MOST_IN_MATRIX = 25
_MOST_CONFUSIONS = 15
_NUM_ERRORS = 12
_LARGEST_REPORT = 50 * 2**20


def draw_evaluation(report: Mapping[str, Any], page: Path, model: Model, words: Language) -> None:
    """Draw the numbers and pictures of a report, and offer the whole page; a damaged report is shown as far as it
    goes."""
    try:
        _numbers(report, words)
    except _DAMAGED:
        st.caption(words("model.damaged", file=REPORT))
    parts: tuple[tuple[str, Callable[[], None]], ...] = (
        ("model.confusion", lambda: _confusion(report, words)),
        ("model.calibration", lambda: _calibration(report, words)),
        ("model.worst", lambda: _errors(report, model, words)),
        ("model.per_class", lambda: _classes(report, words)),
    )
    tabs = st.tabs([words(key) for key, _ in parts], on_change="rerun", key="evaluation_tabs")
    for tab, (_, draw) in zip(tabs, parts, strict=True):
        with tab:
            if not tab.open:  # its images may need the data set, which takes seconds to read
                continue
            try:
                draw()
            except _DAMAGED:
                st.caption(words("model.damaged", file=REPORT))
    if page.is_file() and page.stat().st_size <= _LARGEST_REPORT:
        st.download_button(
            words("model.report"),
            page.read_bytes(),
            "report.html",
            "text/html",
            on_click="ignore",
            icon=":material/download:",
        )


def _numbers(report: Mapping[str, Any], words: Language) -> None:
    accuracy, calibration = report["accuracy"], report["calibration"]
    entries = [("accuracy_tta", accuracy["tta"]), ("accuracy", accuracy["plain"])]
    if report.get("tta") == "none":
        entries = entries[1:]
    tiles = []
    for key, value in entries:
        low, high = (words.percent(end, 2) for end in value["interval"])
        tiles.append(
            (words(f"model.{key}"), words.percent(value["value"], 2), words("model.interval", low=low, high=high))
        )
    error = words.percent(calibration["calibration_error"], 2)
    tiles.append((words("model.calibration_error"), error, words("model.one_view")))
    tiles.append((words("model.loss"), words.number(report["loss"]["tta"], 4), words("model.lower")))
    draw_tiles(tiles)
    st.caption(words("model.images", number=words.number(report["num_images"])))


def _confusion(report: Mapping[str, Any], words: Language) -> None:
    names = [words.class_name(score["name"]) for score in report["classes"]]
    confusion = report.get("confusion")
    if confusion is None:
        st.caption("confusion.csv")
        return
    rows = [
        {"true": names[i], "predicted": names[j], "number": number, "share": number / max(sum(row), 1)}
        for i, row in enumerate(confusion)
        for j, number in enumerate(row)
    ]
    titles = words("model.true_class"), words("model.predicted")
    if len(names) <= _MOST_IN_MATRIX:
        st.caption(words("model.confusion_help"))
        spec = charts.matrix(rows, names, titles, words("model.number"))
        charts.draw(spec, words("model.confusion_help"))
    mistakes = [row for row in rows if row["true"] != row["predicted"] and row["number"]]
    mistakes.sort(key=lambda row: -row["number"])
    st.dataframe(
        [
            {
                titles[0]: row["true"],
                titles[1]: row["predicted"],
                words("model.number"): row["number"],
                words("model.share"): row["share"],
            }
            for row in mistakes[:_MOST_CONFUSIONS]
        ],
        hide_index=True,
        column_config={words("model.share"): st.column_config.NumberColumn(format="percent")},
    )


def _calibration(report: Mapping[str, Any], words: Language) -> None:
    st.caption(words("model.calibration_help"))
    rows = [each for each in report["calibration"]["bins"] if each["number"]]
    titles = words("model.confidence"), words("model.share")
    charts.draw(charts.reliability(rows, titles, words("model.number")), words("model.calibration_help"))


def _errors(report: Mapping[str, Any], model: Model, words: Language) -> None:
    st.caption(words("model.worst_help"))
    errors = report["errors"][:_NUM_ERRORS]
    try:
        pictures = split_pictures(model, report.get("split", "test"), [int(each["position"]) for each in errors])
    except UserError:  # no PyTorch, or the data are elsewhere
        st.dataframe(
            [
                {
                    words("model.true_class"): words.class_name(each["class"]),
                    words("model.predicted"): words.class_name(each["predicted"]),
                    words("model.confidence"): each["confidence"],
                }
                for each in errors
            ],
            hide_index=True,
            column_config={words("model.confidence"): st.column_config.NumberColumn(format="percent")},
        )
        return
    with st.container(horizontal=True):
        for each, pixels in zip(errors, pictures, strict=True):
            percent = words.percent(each["confidence"], 0)
            name, predicted = words.class_markdown(each["class"]), words.class_markdown(each["predicted"])
            caption = words("model.errors_shown", name=name, predicted=predicted, probability=percent)
            name, predicted = words.class_name(each["class"]), words.class_name(each["predicted"])
            alt = words("model.errors_shown", name=name, predicted=predicted, probability=percent)
            st.image(enlarged(pixels, 160), width=160, caption=caption, alt=alt)


def _classes(report: Mapping[str, Any], words: Language) -> None:
    names = ("precision", "recall", "f1", "support")
    st.dataframe(
        [
            {
                words("model.true_class"): words.class_name(each["name"]),
                **{words(f"model.{name}"): each[name] for name in names},
            }
            for each in report["classes"]
        ],
        hide_index=True,
        column_config={
            words(f"model.{name}"): st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1)
            for name in names[:3]
        },
    )

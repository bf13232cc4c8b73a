"""The page *Runs*: trainings compared in a table, and the curves of those that are chosen."""

from datetime import UTC, datetime
from typing import Any

import streamlit as st

from cifar10.config.advice import command_line
from cifar10.serving.web import charts
from cifar10.serving.web.language import Language
from cifar10.serving.web.run_list import ListedRun, all_runs, history_of
from cifar10.serving.web.visit import Visit

_MOST_CURVES = 10
_ACCURACY = "val/accuracy"
_NO_CURVE = ("epoch", "step")


def show(visit: Visit) -> None:
    """Draw the page."""
    words = visit.language
    st.markdown(words("runs.lead"))
    with st.spinner(words("runs.mlflow_reading")):
        runs, problem = all_runs(visit.models_dir)
    if problem:
        st.warning(words("runs.away", folder=visit.models_dir, reason=problem))
    if not runs:
        st.info(words("runs.none"))
        st.code(command_line("train", run_name="first"), language="sh")
        return
    shown = _filtered(runs, words)
    st.caption(words("runs.shown", number=words.number(len(shown)), total=words.number(len(runs))))
    chosen = _table(shown, words)
    _curves(chosen, words)


def _filtered(runs: list[ListedRun], words: Language) -> list[ListedRun]:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        text = st.text_input(words("runs.filter"), placeholder=words("runs.filter_help"), key="runs_filter")
        sets = sorted({run.data for run in runs if run.data})
        networks = sorted({run.network for run in runs if run.network})
        data = st.multiselect(words("runs.data"), sets, key="runs_data")
        network = st.multiselect(words("runs.network"), networks, key="runs_network")
    part = text.strip().casefold()
    return [
        run
        for run in runs
        if part in f"{run.name} {run.data} {run.network} {run.optimizer}".casefold()
        and (not data or run.data in data)
        and (not network or run.network in network)
    ]


def _table(runs: list[ListedRun], words: Language) -> list[ListedRun]:
    """Draw the table, and return the runs whose rows are selected; the first three if none are."""
    percent = st.column_config.NumberColumn(format="percent")
    columns = {name: words(f"runs.{name}") for name in ("accuracy_tta", "accuracy", "validation")}
    started = words("runs.started")
    rows = [_row(run, words) for run in runs]
    empty = {name for name in (rows[0] if rows else ()) if all(row[name] in (None, "") for row in rows)}
    event: Any = st.dataframe(
        [{name: value for name, value in row.items() if name not in empty} for row in rows],
        hide_index=True,
        on_select="rerun",
        selection_mode="multi-row",
        key="runs_table",
        column_config={
            **dict.fromkeys(columns.values(), percent),
            started: st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm"),
            words("runs.minutes"): st.column_config.NumberColumn(format="%.1f"),
        },
        alt=words("runs.lead"),
    )
    selected = [row for row in event.selection.rows if row < len(runs)]
    return [runs[row] for row in selected[:_MOST_CURVES]] if selected else runs[:3]


def _row(run: ListedRun, words: Language) -> dict[str, Any]:
    scores = run.scores
    place = "runs.both" if run.folder and run.is_tracked else "runs.folder"
    return {
        words("runs.name"): run.name,
        words("runs.data_column"): run.data,
        words("runs.network_column"): run.network,
        words("runs.optimizer"): run.optimizer,
        words("runs.epochs"): _number(run.settings.get("training.epochs")),
        words("runs.accuracy_tta"): scores.get("test/accuracy_tta"),
        words("runs.accuracy"): scores.get("test/accuracy"),
        words("runs.validation"): scores.get(_ACCURACY),
        words("runs.minutes"): scores["wall_seconds"] / 60 if "wall_seconds" in scores else None,
        words("runs.started"): None if run.started is None else datetime.fromtimestamp(run.started, UTC),
        words("runs.place"): words(place) if run.folder else "MLflow",
    }


def _curves(runs: list[ListedRun], words: Language) -> None:
    st.subheader(words("runs.curves"))
    st.caption(words("runs.choose"))
    histories = {f"{run.name}": history_of(run) for run in runs}
    measures = sorted({key for history in histories.values() for row in history for key in row} - set(_NO_CURVE))
    if not measures:
        st.info(words("runs.no_curves"))
        return
    preferred = next((name for name in (_ACCURACY, "train/accuracy", "train/loss") if name in measures), measures[0])
    measure = st.selectbox(words("runs.measure"), measures, measures.index(preferred), key="runs_measure", width=280)
    rows = [
        {"run": name, "epoch": row["epoch"] + 1, "value": row[measure]}
        for name, history in histories.items()
        for row in history
        if measure in row and "epoch" in row
    ]
    unit = ".0%" if "accuracy" in measure else ""
    spec = charts.lines(rows, "epoch", "value", "run", (words("runs.epoch"), measure), unit)
    charts.draw(spec, f"{words('runs.curves')}: {measure}, {', '.join(histories)}")


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None

"""The page *Data*: the images that the chosen network was trained and tested on, and its wrong answers among them."""

from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from cifar10.errors import UserError
from cifar10.serving.web.classified import enlarged
from cifar10.serving.web.dataset import SplitAnswers, answers_of, split_pictures, trained_data
from cifar10.serving.web.language import Language
from cifar10.serving.web.models import Model, load
from cifar10.serving.web.site import say_no_model
from cifar10.serving.web.visit import Visit

if TYPE_CHECKING:
    from cifar10.data.image_dataset import ImageDataset

_PER_PAGE = 32
_PICTURE_WIDTH = 112
_ALL = -1  # in place of a class id


def show(visit: Visit) -> None:
    """Draw the page."""
    words = visit.language
    if visit.model is None:
        say_no_model(visit)
        return
    st.markdown(words("data.lead", name=visit.model.name))
    try:
        with st.spinner(words("data.loading")):
            data = trained_data(visit.model)
        split, class_id, kind = _filters(data, words)
        answers = None if kind == "any" else _answers(visit.model, data, split, words)
    except UserError as error:
        st.error(words("data.unavailable", reason=error))
        return
    positions = _matching(data, split, class_id, kind, answers)
    st.caption(words("data.found", number=words.number(len(positions))))
    if not len(positions):
        st.info(words("data.none"))
        return
    chosen = _page_of(positions, f"{visit.model.name}/{split}/{class_id}/{kind}", words)
    _gallery(visit.model, data, split, chosen, answers, words)


def _filters(data: "ImageDataset", words: Language) -> tuple[str, int | None, str]:
    """Draw the filters, and return a split, a class id or None for all, and which answers."""
    splits = [name for name, split in data.splits.items() if len(split)]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        split = st.segmented_control(
            words("data.split"),
            splits,
            default=splits[-1],
            required=True,
            format_func=lambda name: f"{words(f'data.{name}')} ({words.number(len(data.splits[name]))})",
            key="data_split",
        )
        kind = st.segmented_control(
            words("data.answers"),
            ("any", "wrong", "right"),
            default="any",
            required=True,
            format_func=lambda name: words(f"data.{name}"),
            key="data_kind",
        )
        ids = [_ALL, *range(data.num_classes)]
        class_id = st.selectbox(
            words("data.class"),
            ids,
            format_func=lambda each: words("data.all") if each == _ALL else words.class_name(data.class_names[each]),
            key="data_class",
            width=240,
        )
    return split or splits[-1], None if class_id == _ALL else class_id, kind or "any"


def _answers(model: Model, data: "ImageDataset", split: str, words: Language) -> SplitAnswers:
    number = words.number(len(data.splits[split]))
    with st.spinner(words("data.computing", number=number), show_time=True):
        return answers_of(load(model), data, split)


def _matching(
    data: "ImageDataset", split: str, class_id: int | None, kind: str, answers: SplitAnswers | None
) -> NDArray[np.int64]:
    """Return the positions of the images in the split, wrong answers of high confidence first."""
    labels: NDArray[np.int64] = data.splits[split].labels.numpy()
    matches = np.ones(len(labels), bool) if class_id is None else labels == class_id
    if answers is None:
        return np.flatnonzero(matches)
    is_wrong = answers.predicted != labels
    positions = np.flatnonzero(matches & (is_wrong if kind == "wrong" else ~is_wrong))
    return positions[np.argsort(-answers.confidence[positions], kind="stable")] if kind == "wrong" else positions


def _page_of(positions: NDArray[np.int64], chosen: str, words: Language) -> list[int]:
    """Draw the buttons that turn pages, and return the positions on the present one."""
    pages = -(-len(positions) // _PER_PAGE)
    state: Any = st.session_state
    if state.get("data_filter") != chosen:
        state["data_filter"], state["data_page"] = chosen, 1
    page = min(state["data_page"], pages)

    def turn(by: int) -> None:
        state["data_page"] = min(max(page + by, 1), pages)

    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            words("data.previous"), on_click=turn, args=(-1,), disabled=page == 1, shortcut="Left", key="data_previous"
        )
        st.button(
            words("data.next"), on_click=turn, args=(1,), disabled=page == pages, shortcut="Right", key="data_next"
        )
        st.caption(words("data.page", page=words.number(page), pages=words.number(pages)))
    start = (page - 1) * _PER_PAGE
    return [int(position) for position in positions[start : start + _PER_PAGE]]


def _gallery(
    model: Model,
    data: "ImageDataset",
    split: str,
    positions: list[int],
    answers: SplitAnswers | None,
    words: Language,
) -> None:
    labels = data.splits[split].labels
    with st.container(horizontal=True, key="data_gallery"):
        for position, pixels in zip(positions, split_pictures(model, split, positions), strict=True):
            label = data.class_names[int(labels[position])]
            name = caption = words.class_markdown(label)
            if answers is not None and answers.predicted[position] != labels[position]:
                predicted = words.class_markdown(data.class_names[int(answers.predicted[position])])
                caption = words("data.caption_wrong", name=name, predicted=predicted)
                caption += f" {words.percent(float(answers.confidence[position]), 0)}"
            alt = words("data.image", position=position, split=words(f"data.{split}"), name=words.class_name(label))
            st.image(enlarged(pixels, 128), width=_PICTURE_WIDTH, caption=caption, alt=alt)

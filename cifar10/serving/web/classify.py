"""The page *Classify*: pictures in, answers with their probabilities out."""

from dataclasses import replace

import streamlit as st

from cifar10.inference.receipts import shared_columns
from cifar10.inference.results import csv_text
from cifar10.serving.web.classified import Classified, classify
from cifar10.serving.web.inputs import Input, chosen_pictures
from cifar10.serving.web.language import Language
from cifar10.serving.web.models import PageModel
from cifar10.serving.web.result_card import draw_card
from cifar10.serving.web.site import loaded_model
from cifar10.serving.web.visit import Visit

_NAMED_CLASSES = 12
_PER_PAGE = 10


def show(visit: Visit) -> None:
    """Draw the page."""
    words = visit.language
    loaded = loaded_model(visit)
    if loaded is None:
        return
    names = loaded.predictor.class_names
    st.markdown(words("classify.lead", number=len(names), classes=_classes(names, words)))
    pictures = chosen_pictures(visit, loaded)
    if not pictures:
        st.caption(words("classify.empty"))
        return
    results = _classify_all(pictures, loaded, words)
    top_k = _summary(results, loaded, words)
    shown = _page_of(len(results))
    for position, (given, found) in list(enumerate(zip(pictures, results, strict=True)))[shown]:
        draw_card(found, given.data, position, top_k, loaded, words)


def _classes(names: tuple[str, ...], words: Language) -> str:
    listed = ", ".join(words.class_markdown(name) for name in names[:_NAMED_CLASSES])
    more = len(names) - _NAMED_CLASSES
    return words("classify.more_classes", names=listed, number=more) if more > 0 else listed


def _classify_all(pictures: list[Input], loaded: PageModel, words: Language) -> list[Classified]:
    results: list[Classified] = []
    bar = st.progress(0.0) if len(pictures) > 1 else None
    for position, given in enumerate(pictures, 1):
        if bar is not None:
            text = words("classify.working", position=position, total=len(pictures))
            bar.progress(position / len(pictures), text)
        results.append(classify(loaded, given.name, given.data, given.is_sample))
    if bar is not None:
        bar.empty()
    return results


def _summary(results: list[Classified], loaded: PageModel, words: Language) -> int:
    """Draw the line above the results, and return how many classes to show."""
    predictor = loaded.predictor
    with st.container(horizontal=True, vertical_alignment="bottom"):
        most = min(10, predictor.num_classes)
        top_k = st.number_input(words("classify.top_k"), 1, most, min(5, most), key="top_k", width=180)
        receipts = st.toggle(words("classify.receipts"), key="receipts", help=words("result.receipt_help"))
        rows = [replace(found.result, top=found.result.top[:top_k]) for found in results]
        receipt = shared_columns(predictor.provenance, None) if receipts else None
        text = csv_text(rows, top_k, receipt)
        st.download_button(
            words("classify.download"),
            text,
            words("classify.file_name"),
            "text/csv",
            on_click="ignore",
            icon=":material/download:",
        )
    failures = sum(found.result.error is not None for found in results)
    counts = [words("classify.results", number=words.number(len(results)))]
    counts += [words("classify.failures", number=words.number(failures))] if failures else []
    st.caption(" · ".join([*counts, words("site.engine", engine=predictor.provenance["engine"])]))
    return top_k


def _page_of(number: int) -> slice:
    """Draw the choice of a page if there are several, and return which results are on it."""
    pages = -(-number // _PER_PAGE)
    page = st.pagination(pages, key="results_page") if pages > 1 else 1
    return slice((page - 1) * _PER_PAGE, page * _PER_PAGE)

"""The page *Cats and dogs*: a pretrained network sorts pictures into groups of its classes."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import streamlit as st

from cifar10.errors import UserError
from cifar10.images.decode import ImageError
from cifar10.images.sources import folder
from cifar10.inference.grouping import ClassGroups
from cifar10.inference.results import csv_text
from cifar10.serving.web.classified import Classified, classify
from cifar10.serving.web.inputs import Input, uploaded
from cifar10.serving.web.language import Language
from cifar10.serving.web.models import PageModel, has_torch
from cifar10.serving.web.parts import draw_tiles
from cifar10.serving.web.pretrained import PretrainedChoice, load_pretrained
from cifar10.serving.web.reasons import reason_in_words
from cifar10.serving.web.visit import Visit

_MOST_OF_FOLDER = 200
"""Pictures of a folder; `infer` has no such limit."""
_PICTURE_WIDTH = 150


def show(visit: Visit) -> None:
    """Draw the page."""
    words = visit.language
    choice = _choice(visit)
    st.markdown(words("cats.lead", network=choice.name))
    pictures = _pictures(visit)
    if pictures is None:
        st.caption(words("cats.empty"))
        return
    if not (has_torch() or choice.is_exported):
        st.error(words("site.no_torch"))
        return
    try:
        with st.spinner(words("cats.loading", network=choice.name)):
            loaded = load_pretrained(choice)
    except UserError as error:
        st.error(words("cats.no_weights", reason=error))
        return
    results = _classify_all(pictures, loaded, words)
    if results:
        _show_results(results, loaded, words)


def _choice(visit: Visit) -> PretrainedChoice:
    """Return the network: at this computer the visitor may choose it, elsewhere it is that of the command line."""
    words, configured = visit.language, PretrainedChoice.configured()
    if not visit.is_local:
        return configured
    with st.sidebar, st.expander(words("cats.network"), icon=":material/tune:"):
        names = PretrainedChoice.names()
        name = st.selectbox(words("cats.network"), names, key="cats_network", persist_state="session")
        file = st.text_input(
            words("cats.weights"), configured.weights or "", help=words("cats.weights_help"), key="cats_weights"
        )
    return replace(configured, name=name, weights=file.strip() or None)


def _pictures(visit: Visit) -> Iterator[Input] | None:
    """Draw the sources, and return the pictures as they are read; None if there are none yet."""
    words = visit.language
    sources = ("upload", "folder") if visit.is_local else ("upload",)
    source = "upload"
    if len(sources) > 1:
        source = st.segmented_control(
            words("cats.source"),
            sources,
            default="upload",
            required=True,
            format_func=lambda name: words(f"cats.{name}"),
            key="cats_source",
            label_visibility="collapsed",
        )
    if source == "folder" and visit.is_local:
        return _of_folder(words)
    files = uploaded(words, "cats.upload_label", key="cats_uploads")
    return iter(files) if files else None


def _of_folder(words: Language) -> Iterator[Input] | None:
    with st.form("folder", border=False):
        given = st.text_input(
            words("cats.folder_label"), placeholder=words("cats.folder_hint"), key="cats_folder", max_chars=4000
        )
        if st.form_submit_button(words("cats.look"), type="primary"):
            st.session_state["cats_folder_chosen"] = given.strip()
    chosen = st.session_state.get("cats_folder_chosen")
    if not chosen:
        return None
    try:
        found = list(islice(folder.search(chosen), _MOST_OF_FOLDER + 1))
    except (UserError, ValueError, OSError):
        st.error(words("cats.no_folder", folder=chosen))
        return None
    if not found:
        st.error(words("cats.no_images", folder=chosen))
        return None
    if len(found) > _MOST_OF_FOLDER:
        st.warning(words("cats.first_images", number=_MOST_OF_FOLDER))

    def read() -> Iterator[Input]:
        for image in found[:_MOST_OF_FOLDER]:
            try:
                yield Input(image.name, image.read(lambda num_bytes: None))
            except ImageError as error:
                yield Input(image.name, b"", str(error))

    return read()


def _classify_all(pictures: Iterator[Input], loaded: PageModel, words: Language) -> list[Classified]:
    """Classify pictures one after the other; encoded images are not kept."""
    results: list[Classified] = []
    with st.empty():
        for given in pictures:
            st.caption(words("classify.results", number=words.number(len(results) + 1)))
            found = classify(loaded, given.name, given.data)
            if given.error is not None:
                found = replace(found, result=replace(found.result, error=given.error))
            results.append(found)
        st.caption("")
    return results


def _show_results(results: list[Classified], loaded: PageModel, words: Language) -> None:
    groups = loaded.predictor.groups
    assert groups is not None
    counts = Counter(found.result.group.name for found in results if found.result.group is not None)
    draw_tiles([(words.class_name(name), words.number(counts[name]), "") for name in groups.outcomes])
    failures = [found for found in results if found.result.error is not None]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        shown = _filter(groups, counts, words)
        text = csv_text([replace(found.result, top=found.result.top[:1]) for found in results], 1, None, groups.names)
        st.download_button(
            words("cats.download"),
            text,
            words("cats.file_name"),
            "text/csv",
            on_click="ignore",
            icon=":material/download:",
        )
    _gallery([found for found in results if found.result.group and shown in ("", found.result.group.name)], words)
    if failures:
        st.caption(words("cats.unreadable", number=words.number(len(failures))))
        for found in failures:
            st.error(f"{found.result.path}: {reason_in_words(found.result.error or '', words)}")


def _filter(groups: ClassGroups, counts: Counter[str], words: Language) -> str:
    """Return the group to show; empty for all."""
    names = ["", *(name for name in groups.outcomes if counts[name])]
    if st.session_state.get("cats_group") not in names:
        st.session_state["cats_group"] = ""
    chosen: str | None = st.segmented_control(
        words("cats.group"),
        names,
        required=True,
        format_func=lambda name: words.class_name(name) if name else words("cats.all"),
        key="cats_group",
    )
    return chosen or ""


def _gallery(results: list[Classified], words: Language) -> None:
    with st.container(horizontal=True, key="gallery"):
        for found in results:
            group = found.result.group
            assert group is not None
            best = max(group.probabilities.values())
            caption = words("result.answer", name=words.class_markdown(group.name), probability=words.percent(best, 0))
            alt = words("result.picture_of", name=found.result.path)
            st.image(found.shown, width=_PICTURE_WIDTH, caption=caption, alt=alt)

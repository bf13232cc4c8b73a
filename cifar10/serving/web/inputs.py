"""Where the pictures of *Classify* come from: upload, camera, address, samples. Only the chosen source is drawn."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import streamlit as st

from cifar10.images.decode import ImageError
from cifar10.images.sources.addresses import fetch
from cifar10.serving.web.language import Language
from cifar10.serving.web.models import PageModel
from cifar10.serving.web.reasons import reason_in_words
from cifar10.serving.web.samples import sample_pictures
from cifar10.serving.web.visit import Visit

MOST_PICTURES = 100
"""At once, from one visitor."""
_SOURCES = ("upload", "camera", "address", "samples")
_FETCH_SECONDS = 20.0
_MOST_FETCHED = 5
"""Pictures from addresses that a visitor's session keeps."""
_SAMPLES = 8


@dataclass(frozen=True)
class Input:
    """A picture to classify."""

    name: str
    data: bytes
    """As it was encoded by the visitor."""
    error: str | None = None
    """Why it could not be read."""
    is_sample: bool = False
    """Whether it is one of the samples, not a visitor's."""


def chosen_pictures(visit: Visit, loaded: PageModel) -> list[Input]:
    """Draw the sources, and return the pictures that the visitor has given."""
    words = visit.language
    source = st.segmented_control(
        words("classify.source"),
        _SOURCES,
        default="upload",
        required=True,
        format_func=lambda name: words(f"classify.{name}"),
        key="source",
        label_visibility="collapsed",
    )
    if source == "camera":
        return _from_camera(words)
    if source == "address":
        return _from_addresses(words, visit.is_local)
    return _from_samples(words, visit, loaded) if source == "samples" else uploaded(words, "classify.upload_label")


def uploaded(words: Language, label: str, key: str = "uploads") -> list[Input]:
    """Draw the place for files, and return the first `MOST_PICTURES` of them."""
    megabytes = most_megabytes()
    text = words(label, number=MOST_PICTURES, megabytes=megabytes)
    files: list[Any] = st.file_uploader(text, accept_multiple_files=True, key=key) or []
    if len(files) > MOST_PICTURES:
        st.warning(words("classify.too_many", number=MOST_PICTURES))
    return [Input(file.name, file.getvalue()) for file in files[:MOST_PICTURES]]


def most_megabytes() -> int:
    """Return the size of the largest file that can be uploaded."""
    return int(st.get_option("server.maxUploadSize"))


def _from_camera(words: Language) -> list[Input]:
    photo = st.camera_input(words("classify.camera_label"), width=480)
    return [] if photo is None else [Input("camera.jpg", photo.getvalue())]


def _from_addresses(words: Language, is_local: bool) -> list[Input]:
    kept: list[Input] = st.session_state.setdefault("fetched", [])
    with st.form("address", border=False):
        label, hint = words("classify.address_label"), words("classify.address_hint")
        address = st.text_input(label, placeholder=hint, key="typed_address", max_chars=2000)
        sent = st.form_submit_button(words("classify.fetch"), type="primary")
    if sent and address.strip():
        try:
            with st.spinner(words("classify.fetching")):
                most = most_megabytes() * 2**20
                data = fetch(address.strip(), public_only=not is_local, most_bytes=most, most_seconds=_FETCH_SECONDS)
        except ImageError as error:
            st.error(reason_in_words(str(error), words))
        else:
            name = unquote(urlsplit(address).path).rpartition("/")[2] or urlsplit(address).netloc
            kept.insert(0, Input(name[:100], data))
            del kept[_MOST_FETCHED:]
    return kept


def _from_samples(words: Language, visit: Visit, loaded: PageModel) -> list[Input]:
    turn: int = st.session_state.setdefault("samples_turn", 0)
    samples = sample_pictures(loaded, _SAMPLES, turn)
    title = words("classify.samples_label", data=samples.data) if samples.data else words("classify.samples_drawn")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(title)
        if st.button(words("classify.other_samples"), icon=":material/refresh:", type="tertiary"):
            st.session_state["samples_turn"] = turn + 1
            st.rerun()
    return [Input(name, data, is_sample=True) for name, data in samples.pictures]

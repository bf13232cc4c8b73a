"""The answer for one picture: the picture, bars, where the network sees it, a receipt, and a correction."""

import json
from typing import Any

import streamlit as st

from cifar10.inference.receipts import complete, shared_columns
from cifar10.serving.web.classified import Classified, enlarged
from cifar10.serving.web.correcting import draw_correction
from cifar10.serving.web.heat import heat_picture
from cifar10.serving.web.language import Language
from cifar10.serving.web.models import PageModel
from cifar10.serving.web.parts import draw_answer, draw_bars, draw_note
from cifar10.serving.web.reasons import reason_in_words

SURE = 0.5
"""Least probability of an answer that is not called unsure: it is then more probable than all others together."""
_PICTURE_WIDTH = 200


def draw_card(found: Classified, data: bytes, position: int, top_k: int, loaded: PageModel, words: Language) -> None:
    """Draw the answer for the encoded image `data`."""
    result = found.result
    with st.container(border=True, key=f"card_{position}"):
        if result.error is not None:
            draw_note(result.path)
            st.error(f"{words('result.unreadable')}. {reason_in_words(result.error, words)}", icon=":material/error:")
            return
        picture, answer = st.columns([1, 3], gap="medium")
        picture.image(found.shown, width=_PICTURE_WIDTH, alt=words("result.picture_of", name=result.path))
        with answer:
            labels = [words("result.not_sure")] if result.probability < SURE else []
            labels += [words("result.unlike")] if found.result.unlike else []
            draw_answer(result.class_name, result.probability, words, *labels)
            draw_note(f"{result.path} · {words('result.seconds', number=words.number(1000 * found.seconds, 0))}")
            draw_bars([(one.class_name, one.probability) for one in result.top[:top_k]], words)
            _explain_labels(found, words)
        with st.expander(words("result.details"), key=f"details_{position}", on_change="rerun") as details:
            if details.open:
                _draw_details(found, loaded, words)
        draw_correction(found, data, position, loaded, words)


def _explain_labels(found: Classified, words: Language) -> None:
    result = found.result
    if result.probability < SURE:
        name, probability = words.class_name(result.class_name), words.percent(result.probability)
        draw_note(words("result.not_sure_help", bound=words.percent(SURE, 0), name=name, probability=probability))
    if found.result.unlike:
        draw_note(words("result.unlike_help"))


def _draw_details(found: Classified, loaded: PageModel, words: Language) -> None:
    result = found.result
    assert found.seen is not None and result.sha256 is not None
    seen, heat = st.columns(2)
    with seen:
        st.image(enlarged(found.seen), width=_PICTURE_WIDTH, caption=words("result.seen"), alt=words("result.seen"))
    if loaded.may_have_network:
        with heat:
            picture = heat_picture(loaded, found.seen, result.class_id, result.sha256)
            caption = words("result.heat_help", name=words.class_markdown(result.class_name))
            if picture is None:
                draw_note(words("result.no_heat"))
            else:
                st.image(picture, width=_PICTURE_WIDTH, caption=caption, alt=words("result.heat"))
    st.markdown(f"**{words('result.receipt')}**")
    draw_note(words("result.receipt_help"))
    receipt: dict[str, Any] = {**complete(shared_columns(result.provenance, None), result)}
    st.json({**receipt, "settings": json.loads(receipt["settings"])})

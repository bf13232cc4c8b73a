"""A visitor corrects a label: the picture goes to the store of corrections."""

import streamlit as st

from cifar10.errors import UserError
from cifar10.serving.corrections import CorrectionStore
from cifar10.serving.web.classified import Classified
from cifar10.serving.web.language import Language
from cifar10.serving.web.models import PageModel


def draw_correction(found: Classified, data: bytes, position: int, loaded: PageModel, words: Language) -> None:
    """Draw the form that corrects the label of the encoded image `data`."""
    key = f"correct_{position}_{found.result.sha256}"
    with (
        st.popover(words("correct.title"), icon=":material/edit:", type="tertiary", key=key),
        st.form(key, border=False),
    ):
        names = loaded.predictor.class_names
        chosen = st.selectbox(
            words("correct.label"), names, index=None, format_func=words.class_name, key=f"{key}_class"
        )
        if not st.form_submit_button(words("correct.save"), type="primary") or chosen is None:
            return
        try:
            CorrectionStore().add(
                data,
                predicted_class=found.result.class_name,
                probability=found.result.probability,
                corrected_class=chosen,
                class_names=names,
                weights_digest=loaded.weights_digest,
                source="web",
            )
        except UserError as error:
            st.error(words("correct.failed", reason=error))
        else:
            st.success(words("correct.saved", name=words.class_markdown(chosen)))

"""The whole page: sidebar with language and model, and the navigation between the pages."""

import importlib
from collections.abc import Callable
from pathlib import Path

import streamlit as st

from cifar10.config.advice import command_line
from cifar10.errors import UserError
from cifar10.images.decode import silence_pillow
from cifar10.serving.web.language import LANGUAGES, Language, language, preferred
from cifar10.serving.web.models import Model, PageModel, find_model, find_models, load
from cifar10.serving.web.registered import registered_models
from cifar10.serving.web.settings import PAGES, WebSettings, read_settings
from cifar10.serving.web.visit import Visit, is_local

_ICONS = {
    "classify": ":material/image_search:",
    "cats_and_dogs": ":material/pets:",
    "model": ":material/description:",
    "runs": ":material/show_chart:",
    "data": ":material/grid_view:",
    "drift": ":material/monitoring:",
}
_STYLE, _ICON = (Path(__file__).with_name(name) for name in ("style.css", "icon.svg"))


def run() -> None:
    """Draw the page that the visitor has opened."""
    settings = read_settings()
    _prepare()
    words = _language()
    st.set_page_config(page_title=words("site.title"), page_icon=str(_ICON), layout="wide")
    st.html(f"<style>{_STYLE.read_text(encoding='utf-8')}</style>")
    pages = {name: _page(name, settings, words) for name in PAGES}
    chosen = st.navigation(list(pages.values()))
    chosen.run()


@st.cache_resource(show_spinner=False)
def _prepare() -> None:
    silence_pillow()


def _language() -> Language:
    if st.session_state.get("lang") not in LANGUAGES:
        asked = st.query_params.get("lang")
        st.session_state["lang"] = asked if asked in LANGUAGES else preferred(st.context.locale)
    return language(st.session_state["lang"])


def _page(name: str, settings: WebSettings, words: Language) -> "st.Page":
    def show() -> None:
        module = importlib.import_module(f"cifar10.serving.web.{name}")
        st.title(words(f"pages.{name}"))
        draw: Callable[[Visit], None] = module.show
        draw(_visit(name, settings, words))

    title, icon = words(f"pages.{name}"), _ICONS[name]
    return st.Page(show, title=title, icon=icon, url_path=name, default=name == settings.page)


def _visit(page: str, settings: WebSettings, words: Language) -> Visit:
    with st.sidebar:
        model = None if page in ("cats_and_dogs", "runs") else _chosen_model(settings, words)
        st.selectbox(
            words("site.language"),
            list(LANGUAGES),
            format_func=LANGUAGES.__getitem__,
            key="lang",
            persist_state="session",
        )
    return Visit(words, settings.models_dir, model, is_local())


def _chosen_model(settings: WebSettings, words: Language) -> Model | None:
    """Return the model of the picker in the sidebar."""
    names = [model.name for model in find_models(settings.models_dir)]
    names += [name for name in registered_models().refresh() if name not in names]
    first = settings.checkpoint_name
    if first in ("best", "last"):
        first = names[0] if names else None
    if first is not None:
        names = [first, *(name for name in names if name != first)]
    if not names:
        return None
    if st.session_state.get("chosen_model") not in names:
        st.session_state["chosen_model"] = names[0]
    folder = str(settings.models_dir)
    name = st.selectbox(
        words("site.model"),
        names,
        key="chosen_model",
        persist_state="session",
        help=words("site.model_help", folder=folder),
    )
    try:
        return find_model(name, settings.models_dir)
    except UserError as error:
        reason = error if is_local() else words("site.not_there", name=name)
        st.error(words("site.failed", reason=reason))
        return None


def loaded_model(visit: Visit) -> PageModel | None:
    """Return the chosen network; or say why there is none, and return None."""
    words = visit.language
    if visit.model is None:
        say_no_model(visit)
        return None
    try:
        with st.spinner(words("site.loading")):
            return load(visit.model)
    except UserError as error:
        st.error(words("site.failed", reason=error))
        return None


def say_no_model(visit: Visit) -> None:
    """Say how to train a network, or to choose another one if there are some."""
    words = visit.language
    if find_models(visit.models_dir):
        st.info(words("site.choose_another"))
        return
    st.info(words("site.no_model", folder=visit.models_dir))
    st.code(command_line("train", run_name="first"), language="sh")

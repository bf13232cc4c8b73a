"""A trained network for the page, and the page itself without a browser."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from cifar10.config.compose import load_config
from cifar10.evaluate import evaluate
from cifar10.export import export
from cifar10.serving.web.settings import WebSettings
from cifar10.train import train
from tests.conftest import ROOT
from tests.tiny_run import TINY

Page = Callable[..., AppTest]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a trained, exported and evaluated run in `models/run`."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = [word for word in TINY if word != "tracking=none"]
        train(load_config([*words, "model.width=8", "run_name=run", "training.precision=fp32"]))
        export("run", ["onnx"])
        evaluate("run")
    return folder


@pytest.fixture
def page(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """Return a function that opens a page in a fresh session, as a visitor at this computer or at another one."""
    monkeypatch.chdir(site)

    def opened(
        name: str = "classify", *, local: bool = True, settings: WebSettings | None = None, lang: str = "en"
    ) -> AppTest:
        for key, value in (settings or WebSettings(page=name)).environment().items():
            monkeypatch.setenv(key, value)
        st.config.set_option("server.address", "127.0.0.1" if local else "0.0.0.0")
        at = AppTest.from_file(ROOT / "streamlit_app.py", default_timeout=60)
        at.query_params["lang"] = lang
        return at.run()

    yield opened
    st.config.set_option("server.address", None)


def html_of(at: AppTest) -> str:
    """Return all HTML of a page."""
    return "\n".join(str(element.proto.body) for element in at.get("html"))

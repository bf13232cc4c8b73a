"""Registered models, looked up in the background: MLflow takes seconds to import, and a registry may be away."""

import threading
import time
from dataclasses import dataclass, field

import streamlit as st

from cifar10.config.mlflow_uri import database_path, default_uri

_FRESH_SECONDS = 60.0
_MOST_MODELS = 200
_DELAY_SECONDS = 3.0
"""Before the first look-up, so that the page that is being drawn has the processor for itself."""


@dataclass(eq=False)
class RegisteredModels:
    """The aliases of registered models, as far as they are known."""

    names: tuple[str, ...] = ()
    """models:/NAME@ALIAS, sorted."""
    _is_known: bool = False
    _looked_up: float = -_FRESH_SECONDS
    _thread: threading.Thread | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def refresh(self, wait_seconds: float = 0.0) -> tuple[str, ...]:
        """Return the names; look them up in a thread if they are older than a minute.

        Args:
            wait_seconds: How long to wait for the look-up.
        """
        with self._lock:
            is_idle = self._thread is None or not self._thread.is_alive()
            if is_idle and time.monotonic() - self._looked_up >= _FRESH_SECONDS:
                self._looked_up = time.monotonic()
                self._thread = threading.Thread(target=self._look_up, name="registry", daemon=True)
                self._thread.start()
            thread = self._thread
        if thread is not None and wait_seconds:
            thread.join(wait_seconds)
        return self.names

    def _look_up(self) -> None:
        if not self._is_known:
            time.sleep(_DELAY_SECONDS)
        try:
            self.names = tuple(sorted(_aliases()))
        except Exception:  # MLflow raises its own, requests', SQLAlchemy's and OSError; without a registry, none
            self.names = ()
        self._is_known = True


@st.cache_resource(show_spinner=False)
def registered_models() -> RegisteredModels:
    """Return those of this process."""
    return RegisteredModels()


def _aliases() -> list[str]:
    uri = default_uri()
    path = database_path(uri)
    if path is not None and not path.is_file():
        return []
    from cifar10.runs.mlflow_store import connect, connect_for_reading

    connect_for_reading(uri)
    found = connect(uri).search_registered_models(max_results=_MOST_MODELS)
    return [f"models:/{each.name}@{alias}" for each in found for alias in (each.aliases or {})]

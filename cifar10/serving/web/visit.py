"""What a page needs to know: language, chosen model, and whether the visitor sits at this computer."""

from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from cifar10.serving.web.language import Language
from cifar10.serving.web.models import Model
from cifar10.system.listening import LOOPBACK

_FORWARDED = ("X-Forwarded-For", "X-Real-Ip", "Forwarded", "Via")


@dataclass(frozen=True)
class Visit:
    """One run of the page."""

    language: Language
    models_dir: Path
    model: Model | None
    """None: there is none yet."""
    is_local: bool
    """Whether the page listens on loopback only, and no proxy has passed on the request: then the visitor may name
    folders and private addresses, which he can read anyway."""


def is_local() -> bool:
    """Return whether the visitor sits at this computer, as far as can be told; False in doubt."""
    if st.get_option("server.address") not in LOOPBACK:
        return False
    headers = st.context.headers
    if any(name in headers for name in _FORWARDED):
        return False
    return _host_of(headers.get("Host") or "localhost") in LOOPBACK  # another name: a proxy, or DNS rebinding


def _host_of(header: str) -> str:
    return header[1:].partition("]")[0] if header.startswith("[") else header.rpartition(":")[0] or header

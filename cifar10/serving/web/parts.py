"""Parts of pages that are drawn as HTML: bars of probabilities and labels. All text in them is escaped."""

from collections.abc import Sequence
from html import escape

import streamlit as st

from cifar10.serving.web.language import Language


def draw_bars(bars: Sequence[tuple[str, float]], words: Language) -> None:
    """Draw names with their probabilities, the most probable first."""
    rows, spoken = [], []
    for name, probability in bars:
        shown, percent = words.class_name(name), words.percent(probability)
        spoken.append(words("result.answer", name=shown, probability=percent))
        rows.append(
            f'<span class="bar-name">{escape(shown)}</span>'
            f'<span class="bar-track"><span style="width:{100 * probability:.2f}%"></span></span>'
            f'<span class="bar-value">{escape(percent)}</span>'
        )
    label = escape(words("result.bars", list="; ".join(spoken)), quote=True)
    st.html(f'<div class="bars" role="img" aria-label="{label}">{"".join(rows)}</div>')


def draw_answer(name: str, probability: float, words: Language, *labels: str) -> None:
    """Draw an answer in large letters, with labels beside it."""
    marks = "".join(f'<span class="mark">{escape(label)}</span>' for label in labels)
    value = escape(words.percent(probability))
    shown = escape(words.class_name(name))
    st.html(f'<div class="answer"><strong>{shown}</strong><span class="value">{value}</span>{marks}</div>')


def draw_note(text: str) -> None:
    """Draw a line of small, dim text."""
    st.html(f'<div class="note">{escape(text)}</div>')


def draw_tiles(tiles: Sequence[tuple[str, str, str]]) -> None:
    """Draw numbers side by side: name, value and a note, which may be empty."""
    cells = [
        f'<div class="tile"><span class="note">{escape(name)}</span><strong>{escape(value)}</strong>'
        f'<span class="note">{escape(note)}</span></div>'
        for name, value, note in tiles
    ]
    st.html(f'<div class="tiles">{"".join(cells)}</div>')


def draw_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Draw names and values, one below the other; those without a value are left out."""
    rows = [f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts if value]
    st.html(f'<dl class="facts">{"".join(rows)}</dl>')

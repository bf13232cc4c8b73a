"""The page *Model*: what the chosen network is, and what was measured of it. Every number comes from a file."""

from pathlib import Path
from typing import Any

import streamlit as st

from cifar10.config.advice import command_line
from cifar10.serving.web.evaluated import draw_evaluation
from cifar10.serving.web.language import Language
from cifar10.serving.web.models import PageModel
from cifar10.serving.web.parts import draw_facts, draw_tiles
from cifar10.serving.web.run_list import ListedRun, read_folder, read_json
from cifar10.serving.web.site import loaded_model
from cifar10.serving.web.visit import Visit

_CARD = "MODEL_CARD.md"
_MOST_CARD = 2**20  # bytes
_NAMED_CLASSES = 30


def show(visit: Visit) -> None:
    """Draw the page."""
    words = visit.language
    loaded = loaded_model(visit)
    if loaded is None:
        return
    st.markdown(words("model.lead"))
    folder = loaded.model.folder
    run = None if folder is None else read_folder(folder)
    _draw_facts(loaded, run, words)
    report = {} if folder is None else read_json(folder / "evaluation" / "report.json")
    line = command_line("evaluate", checkpoint_name=loaded.model.name)
    st.subheader(words("model.evaluation"))
    if not report:
        _draw_scores({} if run is None else run.scores, words)
        st.info(words("model.no_evaluation"))
        st.code(line, language="sh")
    elif report.get("weights_digest") != loaded.weights_digest:
        st.warning(words("model.other_weights", digest=str(report.get("weights_digest"))[:12]))
        st.code(line, language="sh")
    else:
        assert folder is not None
        draw_evaluation(report, folder / "evaluation" / "report.html", loaded.model, words)
    _draw_card(folder, words)
    with st.expander(words("model.provenance"), icon=":material/fingerprint:"):
        st.caption(words("model.provenance_help"))
        st.json(loaded.predictor.provenance)
    if run is not None and run.settings:
        with st.expander(words("model.settings"), icon=":material/tune:"):
            st.json({key: value for key, value in run.settings.items() if not _is_place(key)})


def _draw_facts(loaded: PageModel, run: ListedRun | None, words: Language) -> None:
    predictor, size = loaded.predictor, loaded.predictor.image_size
    names = predictor.class_names
    listed = ", ".join(words.class_name(name) for name in names[:_NAMED_CLASSES])
    if len(names) > _NAMED_CLASSES:
        listed = words("classify.more_classes", names=listed, number=len(names) - _NAMED_CLASSES)
    facts = [
        ("data", "" if run is None else run.data),
        ("classes", f"{len(names)}: {listed}"),
        ("network", "" if run is None else run.network),
        ("image_size", words("model.pixels", size=size)),
        ("trained", _training(run, words)),
        ("weights", loaded.weights_digest[:12]),
    ]
    draw_facts([(words(f"model.{key}"), value) for key, value in facts])


def _draw_scores(scores: dict[str, float], words: Language) -> None:
    """Draw what the test at the end of the training has measured."""
    names = (("test_accuracy_tta", "test/accuracy_tta"), ("test_accuracy", "test/accuracy"))
    tiles = [(words(f"model.{key}"), words.percent(scores[name], 2), "") for key, name in names if name in scores]
    if tiles:
        draw_tiles(tiles)
    else:
        st.caption(words("model.no_scores"))


def _training(run: ListedRun | None, words: Language) -> str:
    if run is None:
        return ""
    facts: dict[str, Any] = {**run.settings, **run.scores, **run.tags}
    parts = []
    if "epochs" in facts or "training.epochs" in facts:
        parts.append(words("model.epochs", number=int(facts.get("epochs") or facts["training.epochs"])))
    if "wall_seconds" in facts:
        parts.append(words("model.minutes", number=words.number(facts["wall_seconds"] / 60, 1)))
    parts += [str(facts[key]) for key in ("machine.gpu", "machine.cpu") if facts.get(key)][:1]
    return ", ".join(parts)


def _draw_card(folder: Path | None, words: Language) -> None:
    file = None if folder is None else folder / _CARD
    if file is None or not file.is_file() or file.stat().st_size > _MOST_CARD:
        return
    with st.expander(words("model.card"), icon=":material/article:"):
        st.markdown(_without_front_matter(file.read_text(encoding="utf-8", errors="replace")))


def _without_front_matter(text: str) -> str:
    """Return a Markdown file without the YAML at its start."""
    start, _, rest = text.partition("\n---\n") if text.startswith("---\n") else ("", "", text)
    return rest if start or not text.startswith("---\n") else text


def _is_place(key: str) -> bool:
    """Return whether a setting may be a path or address of the machine of the training."""
    return key.startswith("tracking.") or key.rpartition(".")[2] in ("root", "sources", "cache", "models_dir")

"""The trained networks that a visitor can choose, and loading them once for all visitors."""

import atexit
import importlib.util
import threading
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import streamlit as st

from cifar10.errors import UserError
from cifar10.files import file_sha256
from cifar10.inference.predictor import Predictor
from cifar10.runs.checkpoint_names import BEST, find_locally, resolve_checkpoint
from cifar10.serving.drift import DriftLog

_MOST_LOADED = 2
"""Networks in memory at a time; the one that was used longest ago makes room."""
_REGISTERED = "models:/"
LOADING = threading.Lock()
"""Held while a network is loaded: several at once could need more memory than there is."""


@dataclass(frozen=True)
class Model:
    """A network that can be chosen."""

    name: str
    """As for `--checkpoint_name`."""
    file: Path
    """A checkpoint; an ONNX file where there is no checkpoint."""

    @property
    def exported(self) -> Path | None:
        """Its ONNX file, if there is one."""
        if self.file.suffix == ".onnx":
            return self.file
        file = self.file.parent / "export" / "model.onnx"
        return file if file.is_file() else None

    @property
    def checkpoint(self) -> Path | None:
        """Its checkpoint, if there is one."""
        return None if self.file.suffix == ".onnx" else self.file

    @property
    def folder(self) -> Path | None:
        """The run's folder, if it is known."""
        if self.file.name == BEST:
            return self.file.parent
        return self.file.parent.parent if self.file.parent.name == "export" else None


@dataclass(eq=False)
class PageModel:
    """A network in memory; several visitors use it at once."""

    model: Model
    predictor: Predictor
    drift: DriftLog | None = None
    """Counts what visitors bring; None where there is no reference to compare it with."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while `network` is used: hooks are part of it."""

    @property
    def may_have_network(self) -> bool:
        """Whether PyTorch and a checkpoint are there."""
        return self.model.checkpoint is not None and has_torch()

    @cached_property
    def network(self) -> Any:
        """The network in PyTorch, in float32; None where PyTorch or a checkpoint is missing, or the checkpoint is of
        other weights."""
        if not self.may_have_network or self.model.checkpoint is None:
            return None
        from cifar10.runs.checkpoints import load_checkpoint

        checkpoint = load_checkpoint(self.model.checkpoint)
        return checkpoint.network() if checkpoint.weights_digest == self.weights_digest else None

    def close(self) -> None:
        """Write the counts of pictures."""
        if self.drift is not None:
            self.drift.close()

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the weights."""
        return self.predictor.origin["weights_digest"]


def has_torch() -> bool:
    """Return whether PyTorch can be imported."""
    try:
        return importlib.util.find_spec("torch") is not None
    except (ImportError, ValueError):
        return False


def find_models(models_dir: Path) -> list[Model]:
    """Return the networks in `models_dir`, the newest run first; without PyTorch, those that were exported."""
    found: dict[str, tuple[int, Model]] = {}
    for pattern in (f"*/{BEST}", "*/export/model.onnx", "*.ckpt", "*.onnx"):
        for file in _files(models_dir, pattern):
            model = _model_of(file, models_dir)
            if model.name not in found and (has_torch() or model.exported is not None):
                found[model.name] = (_changed(file), model)
    return [model for _, model in sorted(found.values(), key=lambda item: (-item[0], item[1].name))]


def find_model(name: str, models_dir: Path) -> Model:
    """Return the network that `name` refers to, as for `--checkpoint_name`; registered ones are downloaded.

    Raises:
        UserError: There is none.
    """
    known = {model.name: model for model in find_models(models_dir)}
    if name in known:
        return known[name]
    file = None if name.startswith(_REGISTERED) else find_locally(name, str(models_dir))
    return Model(name, file or _downloaded(name))


def load(model: Model) -> PageModel:
    """Return the network, computed by ONNX Runtime if it was exported, else by PyTorch.

    Raises:
        UserError: It cannot be used; the message says why.
    """
    files = [file for file in (model.checkpoint, model.exported) if file is not None]
    try:
        digests = tuple(_digest(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}") from None
    return _loaded(model.name, str(model.file), digests, model)


@st.cache_resource(max_entries=_MOST_LOADED, show_spinner=False, on_release=PageModel.close)
def _loaded(name: str, file: str, digests: tuple[str, ...], _model: Model) -> PageModel:
    with LOADING:
        predictor = _predictor(_model)
    drift = None if predictor.reference is None else DriftLog(predictor.origin["weights_digest"])
    loaded = PageModel(_model, predictor, drift)
    atexit.register(loaded.close)
    return loaded


def _predictor(model: Model) -> Predictor:
    if model.exported is None:
        return Predictor.from_checkpoint(model.file)
    try:
        return Predictor.from_checkpoint(model.file, engine="onnx")
    except UserError:
        if model.checkpoint is None or not has_torch():
            raise
        return Predictor.from_checkpoint(model.file)  # such as an export of an earlier checkpoint


@st.cache_resource(max_entries=4, show_spinner=False, ttl=600)
def _downloaded(name: str) -> Path:
    with LOADING:
        return resolve_checkpoint(name)


@lru_cache(maxsize=64)
def _digest(file: str, changed: int, size: int) -> str:  # the file is read again once it has changed
    return file_sha256(Path(file))


def _model_of(file: Path, models_dir: Path) -> Model:
    if file.name == BEST and file.parent.parent == models_dir:
        return Model(file.parent.name, file)
    if file.parent.name == "export" and file.parent.parent.parent == models_dir:
        return Model(file.parent.parent.name, file)
    return Model(file.name if file.parent == models_dir else str(file), file)


def _files(folder: Path, pattern: str) -> list[Path]:
    try:
        return [file for file in folder.glob(pattern) if file.is_file()]
    except OSError:
        return []


def _changed(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:  # deleted meanwhile
        return 0

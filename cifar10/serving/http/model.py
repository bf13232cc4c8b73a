"""The model that the HTTP service answers with: loaded, warmed, and exchanged when its alias in the registry moves."""

import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cifar10.errors import UserError
from cifar10.inference.predictor import Predictor
from cifar10.runs.checkpoint_names import download_checkpoint, resolve_checkpoint
from cifar10.runs.registered_version import RegisteredVersion, registered_version
from cifar10.serving.drift import DriftLog
from cifar10.serving.model_request import ModelRequest
from cifar10.system.priority import give_way

_LOG = logging.getLogger("cifar10.serving")
_LONGEST_WAIT = 600.0
"""Seconds between two attempts to load a version."""


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A model in memory that has computed an image."""

    name: str
    """Of the run's folder, of the file, or in the registry."""
    version: str
    """In the registry; for a file, the first twelve digits of the digest of its weights."""
    predictor: Predictor
    drift: DriftLog | None = None
    """Counts the images that the model gets."""

    @property
    def weights_digest(self) -> str:
        return self.predictor.origin.get("weights_digest", "")


class ModelHolder:
    """Loads a model, and holds the one that new requests are answered with.

    Requests in progress keep the model that they began with, so none is dropped by an exchange.

    Args:
        request: Which model.
        seconds: Between two looks at its alias.
        drift: File that incoming images are counted in; None: they are not.
        on_change: Called after a model has been loaded, or with None after one could not be.
    """

    def __init__(
        self,
        request: ModelRequest,
        seconds: float,
        drift: str | None = None,
        on_change: Callable[[ServedModel | None], None] = lambda model: None,
    ) -> None:
        self.current: ServedModel | None = None
        self._request = request
        self._seconds = seconds
        self._drift = None if drift is None else Path(drift)
        self._on_change = on_change
        self._ended = threading.Event()
        self._problem: str | None = None
        self._refused: RegisteredVersion | None = None
        self._num_refusals = 0
        self._retry_at = 0.0

    def start(self) -> None:
        """Load the model in a thread, which then watches the alias if there is one."""
        threading.Thread(target=self._run, name="model", daemon=True).start()

    def close(self) -> None:
        """End the thread, and write what was counted; a look at the registry in progress is not waited for."""
        self._ended.set()
        _end_counting(self.current)

    def _run(self) -> None:
        give_way()  # the threads that ONNX Runtime starts for the model do so too
        while not self._ended.is_set():
            self._look()
            if self.current is not None and not self._request.is_watched:
                return
            self._ended.wait(self._seconds)

    def _look(self) -> None:
        """Load the model if there is none yet, or if its alias has moved; a model in use stays until then."""
        version: RegisteredVersion | None = None
        try:
            if self._request.is_registered:
                version = registered_version(self._request.checkpoint)
                if version == self._refused and time.monotonic() < self._retry_at:
                    return
                held = self.current
                if held is not None and (held.name, held.version) == (version.name, version.number):
                    self._report(None)
                    return
            before, self.current = self.current, self._loaded(version)
            _end_counting(before)
        except Exception as error:  # the service goes on with what it has
            self._refuse(version)
            self._report(str(error) if isinstance(error, UserError) else repr(error))
            self._on_change(None)
            return
        self._refused = None
        self._report(None)
        _LOG.info("%s", describe(self.current))
        self._on_change(self.current)

    def _refuse(self, version: RegisteredVersion | None) -> None:
        """Note a version that could not be loaded: it is tried again, each time after twice as long."""
        self._num_refusals = self._num_refusals + 1 if version is not None and version == self._refused else 1
        self._refused = version
        self._retry_at = time.monotonic() + min(self._seconds * 2**self._num_refusals, _LONGEST_WAIT)

    def _loaded(self, version: RegisteredVersion | None) -> ServedModel:
        model = load_served(self._request, version)
        return model if self._drift is None else replace(model, drift=DriftLog(model.weights_digest, self._drift))

    def _report(self, problem: str | None) -> None:
        """Log a problem once, and its end."""
        if problem is not None and problem != self._problem:
            kept = f"; {describe(self.current)} stays" if self.current else "; no model is served yet"
            _LOG.warning("%s%s", problem, kept)
        elif problem is None and self._problem is not None and self.current is not None:
            _LOG.info("the registry answers again")
        self._problem = problem


def _end_counting(model: ServedModel | None) -> None:
    if model is not None and model.drift is not None:
        model.drift.close()


def describe(model: ServedModel | None) -> str:
    """Return one line for people."""
    if model is None:
        return "no model"
    known = model.predictor.engine.describe()
    details = [f"{len(model.predictor.class_names)} classes", f"weights {model.weights_digest[:12]}", known["engine"]]
    return f"{model.name} version {model.version}: {', '.join(details)}"


def load_served(request: ModelRequest, version: RegisteredVersion | None = None) -> ServedModel:
    """Return the model, after it has computed an image.

    Args:
        request: Which one.
        version: The registered version that `request` refers to; None: `request` is a file.

    Raises:
        UserError: It cannot be loaded here.
    """
    if version is None:
        file = resolve_checkpoint(request.checkpoint)
        return _warmed(_name_of(file), None, file, request)
    with tempfile.TemporaryDirectory(prefix="cifar10-") as folder:
        file = download_checkpoint(version.uri, Path(folder))
        model = _warmed(version.name, version.number, file, request)
    origin = {**model.predictor.origin, "checkpoint": version.uri}  # the file is gone
    return replace(model, predictor=replace(model.predictor, origin=origin))


def _name_of(file: Path) -> str:
    """Return the name of the run that a file is of."""
    folder = file.parent.parent if file.parent.name == "export" else file.parent
    return folder.name or os.path.basename(os.path.abspath(folder)) or file.stem


def _warmed(name: str, version: str | None, file: Path, request: ModelRequest) -> ServedModel:
    engine = None if file.suffix == ".onnx" and request.engine == "onnx" else request.engine
    predictor = Predictor.from_checkpoint(file, request.device, tta=request.tta, engine=engine)
    size = predictor.image_size
    predictor.probabilities(np.zeros((1, size, size, 3), np.uint8))
    return ServedModel(name, version or predictor.origin["weights_digest"][:12], predictor)

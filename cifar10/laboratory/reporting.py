"""A Lightning callback that hands over the scores of finished epochs."""

import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl

from cifar10.model import Classifier
from cifar10.types import Metrics


class SendEpochs(pl.Callback):
    """Hands over the scores of the epochs since the last time, and those before a resume.

    Args:
        send: Is called with them.
        every_seconds: Between two calls, of which the last comes at the end of training.
    """

    def __init__(self, send: Callable[[list[Metrics]], None], every_seconds: float) -> None:
        self._send = send
        self._every_seconds = every_seconds
        self._num_sent = 0
        self._sent_at = time.monotonic()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hand over the epoch before this one, whose scores are complete now."""
        if time.monotonic() - self._sent_at >= self._every_seconds:
            self._send_new(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._send_new(pl_module)

    def _send_new(self, classifier: Any) -> None:
        assert isinstance(classifier, Classifier)
        if new := classifier.history[self._num_sent :]:
            self._send(new)
        self._num_sent = len(classifier.history)
        self._sent_at = time.monotonic()

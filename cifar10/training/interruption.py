"""Stop training on a signal: finish the step, save the state, and exit with the code of the signal."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from cifar10.system.signals import Stopped, listening, taken_by
from cifar10.training.checkpointing import SaveCheckpoints, is_between_steps


class Interrupted(Stopped):
    """Training stopped on a signal, its state saved at `saved_at`."""

    def __init__(self, number: int, saved_at: Path) -> None:
        super().__init__(number)
        self.saved_at = saved_at


class StopOnSignal(pl.Callback):
    """On a signal that ends the program: finish the step, save, stop. A second one of its kind stops at once."""

    def __init__(self, saver: SaveCheckpoints) -> None:
        self.saver = saver
        self.received: int | None = None
        self.is_training = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals within this block, if it runs in the main thread."""
        with listening(), taken_by(self._take):
            yield

    def _take(self, number: int, count: int) -> None:
        if count > 1 or not self.is_training:
            raise Stopped(number)
        self.received = number
        self.saver.urgent = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.is_training = True

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if is_between_steps(trainer) and self._is_received(trainer):
            self.saver.save(trainer)
            self._stop()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch_is_saved = self.saver.saved_step == trainer.global_step  # else the signal came after its end
        if self.received is not None and trainer.world_size == 1 and epoch_is_saved:
            self._stop()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop before the test; the end of training has been saved."""
        self.is_training = False
        if self._is_received(trainer):
            self._stop()

    def _is_received(self, trainer: pl.Trainer) -> bool:
        """Return whether any process has received a signal, the same in all of them."""
        received = self.received is not None
        return trainer.strategy.reduce_boolean_decision(received, all=False) if trainer.world_size > 1 else received

    def _stop(self) -> None:
        raise Interrupted(self.received or signal.SIGTERM, self.saver.last)

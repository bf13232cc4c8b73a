"""How a signal stops training: the step is finished, its state saved, and the exit code says which signal it was."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl

from cifar10.saving import SaveCheckpoints, is_between_steps

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(SystemExit):
    """Training stopped on a signal, its state saved. The exit code is 128 + signal number."""

    def __init__(self, signal_number: int, saved_at: Path) -> None:
        super().__init__(128 + signal_number)
        self.saved_at = saved_at


class StopOnSignal(pl.Callback):
    """On Ctrl-C or SIGTERM: finish the step, save, stop. A second Ctrl-C stops at once."""

    def __init__(self, saver: SaveCheckpoints) -> None:
        self.saver = saver
        self.received: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals within this block; put back what was there after it."""
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for number in _SIGNALS:  # after Lightning has set its own, which would exit with code 0
            signal.signal(number, self._receive)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        self.saver.urgent = True

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if is_between_steps(trainer):
            self._stop_if_received(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch_is_saved = self.saver.saved_step == trainer.global_step  # else the signal came after its end
        if self.received is not None and trainer.world_size == 1 and epoch_is_saved:
            raise Interrupted(self.received, self.saver.last)

    def _stop_if_received(self, trainer: pl.Trainer) -> None:
        received = self.received is not None
        if trainer.world_size > 1:
            received = trainer.strategy.reduce_boolean_decision(received, all=False)
        if received:
            self.saver.save(trainer)
            raise Interrupted(self.received or signal.SIGTERM, self.saver.last)

"""End a run early: stop training on a signal with its state saved, close the record, and print how to resume."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from cifar10.config.advice import command_line, setting
from cifar10.config.schema import Config, TrackingConfig
from cifar10.errors import UserError
from cifar10.model import DivergedError
from cifar10.runs.checkpoint_names import LAST
from cifar10.runs.known_stores import unknown_settings
from cifar10.runs.run import Run
from cifar10.system.shortage import is_peer_lost
from cifar10.system.signals import Stopped, listening, taken_by
from cifar10.system.streams import print_message
from cifar10.training.checkpointing import SaveCheckpoints, is_between_steps


class StopOnSignal(pl.Callback):
    """On a signal that ends the program: finish the step, save, stop. A second one of its kind stops at once."""

    def __init__(self, saver: SaveCheckpoints, tracking: TrackingConfig) -> None:
        self.saver = saver
        self.tracking = tracking
        self.received: int | None = None
        self.is_training = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals within this block, if it runs in the main thread."""
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
        last = self.saver.last
        kept = what_is_kept(last.parent, self.tracking, when=f"and saved at {last}")
        raise Stopped(self.received or signal.SIGTERM, kept)


def close_early(run: Run, config: Config, error: BaseException) -> None:
    """Close the record of a run that `error` ends, and print what is kept and how to resume.

    Raises:
        UserError: The error is that another process of the run has ended.
    """
    run.close("KILLED" if isinstance(error, Stopped | KeyboardInterrupt) else "FAILED")
    is_saved = (run.folder / LAST).exists()
    if isinstance(error, Stopped):
        error.kept = error.kept or what_is_kept(run.folder, config.tracking)
    elif isinstance(error, DivergedError):
        rate = config.optimizer.arguments.get("lr")
        print_message(f"training stopped; lower optimizer.lr (now {rate}), or set training.gradient_clip=1")
        print_message(f"the last saved state: {run.folder / LAST}" if is_saved else "nothing was saved before")
    elif is_peer_lost(error):
        kept = what_is_kept(run.folder, config.tracking)
        reason = "another process of this run has ended: killed, out of memory, or by an error of its own"
        raise UserError(f"{reason}, {kept}") from error
    elif is_saved:
        print_message(f"resume with: {going_on_line(run.folder, config.tracking)}")


def what_is_kept(folder: Path, tracking: TrackingConfig, when: str = "after the last save") -> str:
    """Return the end of the message about an early end: `when` it came, and how to resume."""
    if not (folder / LAST).exists():
        return "before anything was saved; there is nothing to resume"
    return f"{when}; resume with: {going_on_line(folder, tracking)}"


def going_on_line(folder: Path, tracking: TrackingConfig) -> str:
    """Return the command line that resumes the run and records it in the same store."""
    unknown = {} if tracking.backend == "none" else unknown_settings(tracking)
    words = [setting(key, value) for key, value in unknown.items()]
    return command_line("train", *words, resume=folder.name, models_dir=str(folder.parent))

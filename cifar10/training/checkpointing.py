"""Save checkpoints during training, atomically.

`last.ckpt` is written when `save_every_seconds` have passed since the last save, within an epoch or at its end; at the
end of training; and on a signal to stop. `best.ckpt` is the same file under a second name, when an epoch is the best.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint as CheckpointCallback
from pytorch_lightning.plugins.io import TorchCheckpointIO

from cifar10.errors import UserError
from cifar10.files import atomic_write, link_or_copy
from cifar10.model import Classifier
from cifar10.runs.checkpoint_names import BEST, LAST
from cifar10.runs.checkpoints import read_checkpoint
from cifar10.runs.stopwatch import Stopwatch
from cifar10.types import Metrics


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write to a temporary file, flush it to the disk, then rename it: a reader sees the old file or the new one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with atomic_write(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(Path(path))


def amend_checkpoint(path: Path, metadata: dict[str, Any]) -> None:
    """Add these entries to the metadata of the checkpoint at `path`."""
    raw = read_checkpoint(path)
    raw["cifar10"] |= metadata
    with atomic_write(path) as file:
        torch.save(raw, file)


@dataclass(eq=False)
class SaveCheckpoints(CheckpointCallback):
    """Keep `last.ckpt` and `best.ckpt` of a run up to date.

    Args:
        folder: The run folder.
        monitor: Name of the score that makes an epoch the best; None: the newest epoch is.
        every_seconds: Save when this much time has passed; None: at the end of each epoch.
        after_epoch: Called in the first process at the end of each epoch, with the trainer, the scores of all epochs
            so far, and whether they have been saved.
        stopwatch: Its times are saved and restored.
        is_higher_better: Whether a higher score is better.
    """

    folder: Path
    monitor: str | None
    every_seconds: float | None
    after_epoch: Callable[[pl.Trainer, list[Metrics], bool], None]
    stopwatch: Stopwatch
    is_higher_better: bool = True

    def __post_init__(self) -> None:
        self.last, self.best = self.folder / LAST, self.folder / BEST
        self.best_score: float | None = None
        self.urgent = False
        """Save the end of the epoch in any case: the run is about to stop."""
        self.saved_step = -1
        self.has_started = False
        """Whether the state is restored and the first step is next."""
        self._saved_at = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score, **self.stopwatch.seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.has_started:  # Lightning restores callbacks for the test as well
            return
        if self.best.exists():  # else the run continues in a new folder
            self.best_score = state_dict["best_score"]
        if "wall_seconds" in state_dict:  # older checkpoints have none
            self.stopwatch.go_on_from(state_dict)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved_at = time.monotonic()
        for optimizer in trainer.optimizers:
            for parameter, state in optimizer.state.items():
                for name, value in state.items():
                    shape, expected = tuple(getattr(value, "shape", ())), tuple(parameter.shape)
                    if shape and shape != expected:
                        raise ValueError(f"the optimizer's {name} has shape {shape}, not {expected}")
        self.has_started = True

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save within an epoch, where an optimizer step has just been completed."""
        if self.every_seconds is not None and is_between_steps(trainer) and self._is_due(trainer):
            self.save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the epoch if it is due, the best so far, or the last; called after the module's own hook."""
        is_best = self._is_best(trainer)
        is_last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        saves = is_last or (is_best and self.monitor is not None) or self._is_due(trainer)
        if saves:
            self.save(trainer)
        if not trainer.is_global_zero:
            return
        if saves and is_best:
            link_or_copy(self.last, self.best)
        assert isinstance(pl_module, Classifier)
        self.after_epoch(trainer, pl_module.history, saves)

    def save(self, trainer: pl.Trainer) -> None:
        """Write `last.ckpt`; call it in every process.

        Raises:
            DivergedError: Loss or weights are no longer finite; the previous file is kept.
        """
        classifier = trainer.lightning_module
        assert isinstance(classifier, Classifier)
        if not trainer.strategy.reduce_boolean_decision(classifier.is_finite(), all=True):
            raise classifier.diverged("the weights are", trainer.global_step)
        trainer.save_checkpoint(self.last)
        self.saved_step = trainer.global_step
        self._saved_at = time.monotonic()

    def _is_due(self, trainer: pl.Trainer) -> bool:
        """Return whether the time has passed in any process, the same in all of them."""
        due = self.urgent or time.monotonic() - self._saved_at >= (self.every_seconds or 0)
        return trainer.strategy.reduce_boolean_decision(due, all=False)

    def _is_best(self, trainer: pl.Trainer) -> bool:
        if self.monitor is None:
            return True
        score = trainer.callback_metrics.get(self.monitor)
        if score is None:
            raise UserError(f"training.monitor={self.monitor} was not measured; is data_loading.validation_size 0?")
        if not math.isfinite(float(score)):
            return False
        sign = 1.0 if self.is_higher_better else -1.0
        if self.best_score is not None and sign * float(score) <= sign * self.best_score:
            return False
        self.best_score = float(score)
        return True


def is_between_steps(trainer: pl.Trainer) -> bool:
    """Whether an optimizer step has just ended that is not the last of its epoch, whose end is saved elsewhere."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    return progress.current.ready % trainer.accumulate_grad_batches == 0 and not progress.is_last_batch

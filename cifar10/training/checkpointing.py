"""Save checkpoints during training: atomically, and whenever `save_every_seconds` have passed.

`last.ckpt` is written when `save_every_seconds` have passed since the last time, within an epoch or at its end, at the
end of training, and on a signal to stop. So epochs of a second do not wait for the disk. `best.ckpt` is the same file
under a second name, whenever an epoch was the best so far.
"""

import math
import time
from collections.abc import Callable
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
    """Write beside the target, flush to the disk, then rename: a reader sees the old file or the new one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with atomic_write(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(Path(path))


def amend_checkpoint(path: Path, metadata: dict[str, Any]) -> None:
    """Write the checkpoint at `path` anew with these entries in its metadata."""
    raw = read_checkpoint(path)
    raw["cifar10"] |= metadata
    with atomic_write(path) as file:
        torch.save(raw, file)


class SaveCheckpoints(CheckpointCallback):
    """Keep `last.ckpt` and `best.ckpt` of a run up to date.

    Args:
        folder: The run's.
        monitor: Name of the score that makes an epoch the best; None: the newest epoch is.
        every_seconds: Save when this much time has passed; None: at the end of each epoch.
        after_epoch: Called in the first process whenever an epoch has ended, with the trainer, the scores of all epochs
            so far, and whether they have been saved.
        stopwatch: Of the run; what it shows is saved and restored.
        is_higher_better: Whether a higher score is better.
    """

    def __init__(
        self,
        folder: Path,
        monitor: str | None,
        every_seconds: float | None,
        after_epoch: Callable[[pl.Trainer, list[Metrics], bool], None],
        stopwatch: Stopwatch,
        is_higher_better: bool = True,
    ) -> None:
        self.last, self.best = folder / LAST, folder / BEST
        self.monitor = monitor
        self.every_seconds = every_seconds
        self.after_epoch = after_epoch
        self.stopwatch = stopwatch
        self.is_higher_better = is_higher_better
        self.best_score: float | None = None
        self.urgent = False
        """Whether the end of the epoch is to be saved whatever the time: the run is about to stop."""
        self.saved_step = -1
        self.has_started = False
        """Whether everything has been restored and the first step is next."""
        self._saved_at = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score, **self.stopwatch.seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.has_started:  # Lightning restores callbacks for the test, too
            return
        if self.best.exists():  # else the run goes on in a new folder, and its best epoch is still to come
            self.best_score = state_dict["best_score"]
        if "wall_seconds" in state_dict:  # older checkpoints have none
            self.stopwatch.go_on_from(state_dict)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved_at = time.monotonic()
        for optimizer in trainer.optimizers:
            _refuse_unfit_state(optimizer)
        self.has_started = True

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save within an epoch, where an optimizer step has just been completed."""
        if self.every_seconds is not None and is_between_steps(trainer) and self._is_due(trainer, self.every_seconds):
            self.save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the epoch if it is time, the best so far, or the last; runs after the module has closed it."""
        is_best = self._is_best(trainer)
        is_last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        saves = is_last or (is_best and self.monitor is not None)
        if saves or self.every_seconds is None or self._is_due(trainer, self.every_seconds):
            saves = True
            self.save(trainer)
        if not trainer.is_global_zero:
            return
        if saves and is_best:
            link_or_copy(self.last, self.best)
        assert isinstance(pl_module, Classifier)
        self.after_epoch(trainer, pl_module.history, saves)

    def save(self, trainer: pl.Trainer) -> None:
        """Write `last.ckpt`; every process takes part.

        Raises:
            DivergedError: Loss or weights are no longer numbers; the file from before is left as it is.
        """
        classifier = trainer.lightning_module
        assert isinstance(classifier, Classifier)
        if not trainer.strategy.reduce_boolean_decision(classifier.is_finite(), all=True):
            raise classifier.diverged("the weights are", trainer.global_step)
        trainer.save_checkpoint(self.last)
        self.saved_step = trainer.global_step
        self._saved_at = time.monotonic()

    def _is_due(self, trainer: pl.Trainer, every_seconds: float) -> bool:
        """Return whether any process finds that it is time, the same in all of them."""
        due = self.urgent or time.monotonic() - self._saved_at >= every_seconds
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
    """Whether a whole optimizer step has just ended and the epoch goes on; its end saves in any case."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    return progress.current.ready % trainer.accumulate_grad_batches == 0 and not progress.is_last_batch


def _refuse_unfit_state(optimizer: torch.optim.Optimizer) -> None:
    """Refuse a restored state whose arrays are not of the shape of their parameters."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.ndim and value.shape != parameter.shape:
                raise ValueError(f"the optimizer's {name} has shape {tuple(value.shape)}, not {tuple(parameter.shape)}")

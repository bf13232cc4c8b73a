"""What a person sees while training runs: a bar in a terminal, plain lines elsewhere. All of it goes to stderr."""

import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

from cifar10.model import Classifier
from cifar10.tally import Scores

_REDRAW_SECONDS = 0.5
_LINE_SECONDS = 30.0


class TrainingProgress(ProgressBar):
    """Loss, accuracy, images per second and time left, over the whole run.

    Args:
        images_per_step: Of an optimizer step, over all processes.
        steps_per_epoch: Optimizer steps.
        num_epochs: Of the run.
    """

    def __init__(self, images_per_step: int, steps_per_epoch: int, num_epochs: int) -> None:
        super().__init__()
        self.images_per_step = images_per_step
        self.num_epochs = num_epochs
        self.num_images = num_epochs * steps_per_epoch * images_per_step
        self.validation = ""
        self._enabled = True
        self._bar: tqdm[Any] | None = None
        self._shown_at = self._started_at = time.monotonic()
        self._first_image = 0

    def disable(self) -> None:
        """Say nothing; Lightning calls this in all processes but the first."""
        self._enabled = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started_at = self._shown_at = time.monotonic()
        self._first_image = self._images_done(trainer)
        if self._enabled and sys.stderr.isatty():
            self._bar = tqdm(
                total=self.num_images,
                initial=self._first_image,
                unit=" images",
                unit_scale=True,
                dynamic_ncols=True,
                leave=False,
            )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        pause = _LINE_SECONDS if self._bar is None else _REDRAW_SECONDS
        if not self._enabled or time.monotonic() - self._shown_at < pause:
            return
        assert isinstance(pl_module, Classifier)
        self._shown_at = time.monotonic()
        means = pl_module.running_means()
        text = f"loss {means['loss']:.3f}, accuracy {means['accuracy']:.1%}{self.validation}"
        epoch = f"epoch {trainer.current_epoch + 1}/{self.num_epochs}"
        if self._bar is None:
            print(f"{epoch}, {text}, {self._pace(trainer)}", file=sys.stderr, flush=True)
        else:
            self._bar.set_description(epoch, refresh=False)
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.n = self._images_done(trainer)
            self._bar.refresh()

    def show_epoch(self, trainer: pl.Trainer, scores: Scores) -> None:
        """Leave one line about a finished epoch."""
        self.validation = f", val {scores['val/accuracy']:.1%}" if "val/accuracy" in scores else ""
        if not self._enabled:
            return
        line = (
            f"epoch {int(scores['epoch']) + 1}/{self.num_epochs}: loss {scores['train/loss']:.3f}, "
            f"accuracy {scores['train/accuracy']:.1%}{self.validation}, "
            f"{scores['seconds']:.1f} s, {self._pace(trainer)}"
        )
        self._shown_at = time.monotonic()
        if self._bar is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._bar.write(line, file=sys.stderr)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _images_done(self, trainer: pl.Trainer) -> int:
        return trainer.global_step * self.images_per_step

    def _pace(self, trainer: pl.Trainer) -> str:
        done = self._images_done(trainer)
        if done == self._first_image:  # a run that was cut off between the last step of an epoch and its end
            return "no step since the resume"
        rate = (done - self._first_image) / max(time.monotonic() - self._started_at, 1e-9)
        left = (self.num_images - done) / rate
        return f"{rate:,.0f} images/s, {int(left) // 60}:{int(left) % 60:02d} left"

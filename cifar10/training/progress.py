"""Training progress on stderr: a bar in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

from cifar10.model import Classifier
from cifar10.system.progress import Progress
from cifar10.system.streams import print_message
from cifar10.types import Metrics, is_quartile

if TYPE_CHECKING:
    from cifar10.config.schema import ResizingStage

_REDRAW_SECONDS = 0.5
_LINE_SECONDS = 30.0
_FORECAST_AFTER_SECONDS = 20.0  # the first steps also warm up kernels and caches
_FAST = 10  # images per second; fewer are shown with a decimal
_LONG_SECONDS = 1800.0


class TrainingProgress(ProgressBar):
    """Loss, accuracy, images per second and time left, over the whole run.

    Args:
        images_per_step: Images per optimizer step, over all processes.
        steps_per_epoch: Optimizer steps per epoch.
        num_epochs: Epochs of the run.
        resizing: Stages with smaller images, which take less time.
    """

    def __init__(
        self, images_per_step: int, steps_per_epoch: int, num_epochs: int, resizing: "Sequence[ResizingStage]" = ()
    ) -> None:
        super().__init__()
        self.resizing, self.images_per_step = resizing, images_per_step
        self.num_epochs = num_epochs
        self.num_images = num_epochs * steps_per_epoch * images_per_step
        self.validation = ""
        self._enabled = True
        self._bar: tqdm[Any] | None = None
        self._is_forecast = False

    def disable(self) -> None:
        """Print nothing; Lightning calls this in all processes but the first."""
        self._enabled = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started_at = self._shown_at = time.monotonic()
        self._first_image = self._images_done(trainer)
        if self._enabled and sys.stderr is not None and sys.stderr.isatty():
            self._bar = tqdm(
                total=self.num_images,
                initial=self._first_image,
                unit=" images",
                unit_scale=True,
                dynamic_ncols=True,
                leave=False,
            )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._forecast(trainer)
        pause = _LINE_SECONDS if self._bar is None else _REDRAW_SECONDS
        if not self._enabled or time.monotonic() - self._shown_at < pause:
            return
        assert isinstance(pl_module, Classifier)
        self._shown_at = time.monotonic()
        means = pl_module.running_means()
        text = f"loss {means['loss']:.3f}, accuracy {means['accuracy']:.1%}{self.validation}"
        epoch = f"epoch {trainer.current_epoch + 1}/{self.num_epochs}"
        if self._bar is None:
            self._print(f"{epoch}, {text}, {self._pace(trainer)}")
        else:
            self._bar.set_description(epoch, refresh=False)
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.n = self._images_done(trainer)
            self._bar.refresh()

    def show_epoch(self, trainer: pl.Trainer, scores: Metrics) -> None:
        """Print one line about a finished epoch."""
        self.validation = _validation(scores)
        if not self._enabled:
            return
        self._shown_at = time.monotonic()
        self._print(
            f"epoch {int(scores['epoch']) + 1}/{self.num_epochs}: loss {scores['train/loss']:.3f}, "
            f"accuracy {scores['train/accuracy']:.1%}{self.validation}, "
            f"{scores['seconds']:.1f} s, {self._pace(trainer)}"
        )

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _images_done(self, trainer: pl.Trainer) -> int:
        return trainer.global_step * self.images_per_step

    def _print(self, line: str) -> None:
        """Print `line` on stderr, above the bar if there is one."""
        write = print_message if self._bar is None else partial(self._bar.write, file=sys.stderr)
        write(line)

    def _forecast(self, trainer: pl.Trainer) -> None:
        """Print once, when some steps have been measured, how long a long run will take."""
        if self._is_forecast or time.monotonic() - self._started_at < _FORECAST_AFTER_SECONDS:
            return
        self._is_forecast = True
        left = self._seconds_left(trainer)
        if self._enabled and left is not None and left >= _LONG_SECONDS:
            time_left = _in_words(left)
            self._print(f"this will take about {time_left} on this machine; Ctrl-C saves, and train --resume continues")

    def _pace(self, trainer: pl.Trainer) -> str:
        left = self._seconds_left(trainer)
        if left is None:  # the run was stopped between the last step of an epoch and its end
            return "no step since the resume"
        rate = (self._images_done(trainer) - self._first_image) / max(time.monotonic() - self._started_at, 1e-9)
        return f"{rate:,.{0 if rate >= _FAST else 1}f} images/s, {_clock(left)} left"

    def _seconds_left(self, trainer: pl.Trainer) -> float | None:
        """Return the time left, smaller images in proportion to their pixels; None: no step was measured."""
        first, now = (self._work(done / self.num_images) for done in (self._first_image, self._images_done(trainer)))
        if now <= first:
            return None
        return (self._work(1.0) - now) / (now - first) * (time.monotonic() - self._started_at)

    def _work(self, progress: float) -> float:
        """Return the work done at `progress` in [0, 1] of all steps; 1 is all steps at full image size."""
        work = begin = 0.0
        for end, scale in [*((stage.until, stage.scale) for stage in self.resizing), (1.0, 1.0)]:
            work += max(0.0, min(progress, end) - begin) * scale**2
            begin = end
        return work


class TestProgress(pl.Callback):
    """Images tested, of all."""

    __test__ = False  # no test of pytest

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        total = len(trainer.datamodule.data.test)  # type: ignore[attr-defined]
        self._progress = Progress("testing", total).__enter__()

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._progress.update(len(batch[1]))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._progress.__exit__(None, None, None)


def _validation(scores: Metrics) -> str:
    """Return validation accuracy and other metrics as the end of a line."""
    names = [name for name in scores if name.startswith("val/") and not is_quartile(name)]
    values = {name.removeprefix("val/"): scores[name] for name in names}
    if not values:
        return ""
    others = [f", {name} {value:.3f}" for name, value in values.items() if name not in ("accuracy", "loss")]
    return f", val {values['accuracy']:.1%}{''.join(others)}"


def _clock(seconds: float) -> str:
    """Return minutes and seconds, 9:05, or hours, minutes and seconds, 10:00:54."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _in_words(seconds: float) -> str:
    """Return a time in two digits: 45 min, 1.5 h, 10 h, 3.0 days."""
    hours = seconds / 3600
    if hours < 1:
        return f"{seconds / 60:.0f} min"
    number, unit = (hours, "h") if hours < 48 else (hours / 24, "days")
    return f"{number:.0f} {unit}" if number >= 9.5 else f"{number:.1f} {unit}"

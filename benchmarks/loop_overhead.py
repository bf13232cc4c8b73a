"""What does the whole set-up (Lightning, callbacks, checkpoints, MLflow) cost a step, over a bare PyTorch loop?

    python benchmarks/loop_overhead.py [--cases fast width=4 width=32 width=96]

Trains the same network on the same batches of the built-in shapes twice at once, in turn: an epoch in a plain loop of a
dozen lines, an epoch in one of three set-ups, and so on to the end. The set-ups are `train`'s own Trainer, callbacks
and MLflow record, in chunks of steps; the same, but Lightning takes each step (training.chunk_seconds=0); and
Lightning's default set-up around the same step: its own loop, progress bar and checkpoint after each epoch, loss and
accuracy logged at each step. Each epoch of a set-up, all that ends or begins an epoch included, is divided by the mean
of the bare epochs before and after it, so that a machine whose pace changes slowly changes both. The first and the last
epoch, which begin and end a run, do not count. MLflow's own thread works at times while the bare loop has its turn;
tracking_cost.py has what it costs.

One case is the recipe of experiment=fast, in steps of its own 2,000 images; the others are small networks in steps of
some milliseconds, so that what is around them shows. Both loops must end with the same weights.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from measuring import median_interval, table, write_results
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.nn.functional import cross_entropy

from cifar10.build import build
from cifar10.checkpoints import digest_of
from cifar10.compose import load_config
from cifar10.config import Config
from cifar10.data.contract import DataSet
from cifar10.data.module import ResidentData
from cifar10.data.resident import TrainingBatches
from cifar10.data.resizing import pixels_at, resize
from cifar10.memory import keep_memory_warm
from cifar10.model import Classifier
from cifar10.run import open_run
from cifar10.train import fit, make_network
from cifar10.trainer import prepare_cpu, resolve_precision

_SHAPES = ("data_loading=shapes", "data_loading.validation_size=0", "data_loading.test_size=10", "training.resizing=[]")
_SMALL = (
    "data_loading.image_size=16",
    "data_loading.train_size=2000",
    "model=simple_cnn",
    "model.dropout=0.0",
    "training.batch_size=20",
    "training.epochs=42",
    "optimizer=sgd",
)
_CASES = {
    "fast": ("experiment=fast", "data_loading.train_size=4000", "training.epochs=22"),
    **{f"width={width}": (*_SMALL, f"model.width={width}") for width in (4, 32, 96)},
}
_SET_UPS = ("chunks", "stepwise", "default")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(_CASES), default=list(_CASES), help="width: of simple_cnn")
    parser.add_argument("--overrides", nargs="*", default=[], help="of every case; after the script's own")
    arguments = parser.parse_args()
    keep_memory_warm()
    raw = {name: measure((*_CASES[name], *arguments.overrides)) for name in arguments.cases}
    rows = [
        [name, set_up, len(turns.ratios), f"{statistics.median(turns.bare):.2f}", *turns.medians()]
        for name, case in raw.items()
        for set_up, turns in case.items()
    ]
    head = ["case", "set-up", "epochs", "bare loop, ms a step", "set-up / bare", "microseconds more a step"]
    body = ["Medians, in brackets their 95 % interval.", "", *table(head, rows)]
    figures = {
        name: {set_up: {"bare_ms": turns.bare, "ms": turns.other} for set_up, turns in case.items()}
        for name, case in raw.items()
    }
    write_results("loop_overhead", "What the set-up costs a step, over a bare loop", body, {"cases": figures})


class TakeTurns(pl.Callback):
    """Lets a bare loop train an epoch before each of Lightning's, and takes the time of both.

    Args:
        epochs: Trains an epoch whenever it is asked for its next item.
        steps: Of an epoch.
    """

    def __init__(self, epochs: Iterator[None], steps: int) -> None:
        self.bare: list[float] = []
        """Milliseconds a step of each epoch."""
        self.other: list[float] = []
        """The same for Lightning's epochs, but the last."""
        self._epochs = epochs
        self._steps = steps
        self._resumed: float | None = None

    def on_train_epoch_start(self, *_: Any) -> None:
        stopped = time.perf_counter()
        if self._resumed is not None:
            self.other.append(1000 * (stopped - self._resumed) / self._steps)
        next(self._epochs)
        self._resumed = time.perf_counter()
        self.bare.append(1000 * (self._resumed - stopped) / self._steps)

    @property
    def ratios(self) -> list[float]:
        return [other / bare for other, bare in self._pairs()]

    def medians(self) -> tuple[str, str]:
        """Return ratio and difference, the latter in microseconds a step, with their intervals."""
        differences = [1000 * (other - bare) for other, bare in self._pairs()]
        return median_interval(self.ratios, 3), median_interval(differences, 0)

    def _pairs(self) -> Iterator[tuple[float, float]]:
        """Yield Lightning's time of each epoch but the first and the last, and the bare loop's around it."""
        for number, other in enumerate(self.other[1:], start=1):
            yield other, (self.bare[number] + self.bare[number + 1]) / 2


def measure(overrides: tuple[str, ...]) -> dict[str, TakeTurns]:
    """Return the times of each set-up beside those of the bare loop."""
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        tracked = [f"tracking.uri=sqlite:///{folder}/mlflow.db", f"tracking.artifacts={folder}", f"models_dir={folder}"]
        config = load_config([*_SHAPES, *overrides, *tracked])
        stepwise = config.model_copy(update={"training": config.training.model_copy(update={"chunk_seconds": 0.0})})
        prepare_cpu(config.training)
        data: DataSet = build(config.data_loading)
        for set_up in _SET_UPS:
            bare, other = make_network(config, data), make_network(config, data)
            turns = TakeTurns(bare_epochs(bare, data, config), len(data.train) // config.training.batch_size)
            if set_up == "default":
                run_default(other, data, stepwise, Path(folder), turns)
            else:
                run_ours(other, data, config if set_up == "chunks" else stepwise, turns)
            assert digest_of(bare.state_dict()) == digest_of(other.state_dict()), (
                "the two loops differ in what they learn"
            )
            measured[set_up] = turns
    return measured


def bare_epochs(network: nn.Module, data: DataSet, config: Config) -> Iterator[None]:
    """Train in a plain loop, an epoch for each item."""
    training, smoothing = config.training, config.training.label_smoothing
    batches = TrainingBatches(
        data.train, data.num_classes, config.augmentation, training.batch_size, config.seed, torch.device("cpu")
    )
    num_steps = training.epochs * batches.steps_per_epoch
    optimizer = build(config.optimizer, network=network, params=network.parameters())
    schedule = build(config.schedule)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step / num_steps))
    step = 0
    for epoch in range(training.epochs):
        batches.seek(epoch, batch=0)
        for images, labels in batches:
            pixels = pixels_at(step / num_steps, training.resizing, images.shape[-1])
            with torch.autocast("cpu", torch.bfloat16, enabled=resolve_precision(training) == "bf16"):
                logits = network(resize(images, pixels)).float()
                loss = cross_entropy(logits, labels, label_smoothing=smoothing)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            step += 1
        yield


def run_ours(network: nn.Module, data: DataSet, config: Config, turns: TakeTurns) -> None:
    """Train as `train` does, but for the test."""
    named = config.model_copy(update={"run_name": f"run{time.monotonic_ns()}"})
    run = open_run(named, data, None)
    with contextlib.redirect_stderr(io.StringIO()):
        fit(network, run, callbacks=[turns])
    run.tracker.finish("FINISHED")


class Usual(Classifier):
    """The same step, with loss and accuracy logged as Lightning's tutorials do."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        images, labels = batch
        logits = self.network(self._resize(images, batch_idx)).float()
        loss = cross_entropy(logits, labels, label_smoothing=self.config.training.label_smoothing)
        self.log("train_loss", loss, prog_bar=True)
        self.log("train_accuracy", (logits.argmax(dim=1) == labels).float().mean(), prog_bar=True)
        return loss

    def on_train_epoch_end(self) -> None:
        """Leave everything to Lightning."""


class UsualData(ResidentData):
    """The same batches under the name that Lightning's users know."""

    def val_dataloader(self) -> list[Any]:
        return []


def run_default(network: nn.Module, data: DataSet, config: Config, folder: Path, turns: TakeTurns) -> None:
    """Train in Lightning's default set-up."""
    module = UsualData(data, config)
    classifier = Usual(network, config, {"class_names": list(data.class_names)}, module.steps_per_epoch)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        trainer = pl.Trainer(
            default_root_dir=folder,
            accelerator="cpu",
            devices=1,
            max_epochs=config.training.epochs,
            logger=CSVLogger(folder),
            callbacks=[turns, ModelCheckpoint(save_last=True)],
            use_distributed_sampler=False,
            enable_model_summary=False,
            precision="bf16-mixed" if resolve_precision(config.training) == "bf16" else "32-true",
            log_every_n_steps=50,
        )
        trainer.fit(classifier, module)


if __name__ == "__main__":
    main()

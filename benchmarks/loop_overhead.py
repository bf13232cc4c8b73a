"""What does the whole set-up (Lightning, callbacks, checkpoints, MLflow) cost, over a bare PyTorch loop?

    python benchmarks/loop_overhead.py [--cases fast width=4 width=32 width=96]

Trains the same network on the same batches of the built-in shapes twice at once, in turn: an epoch in a plain loop of a
dozen lines, an epoch in one of three set-ups, and so on to the end. The set-ups are `train`'s own Trainer, callbacks
and MLflow record, in chunks of steps; the same, but Lightning takes each step (training.chunk_seconds=0); and
Lightning's default set-up around the same step: its own loop, progress bar and checkpoint after each epoch, loss and
accuracy logged at each step.

A set-up's epoch has two parts: its steps, and what follows the last of them (scores, history, checkpoint, and MLflow,
whose thread is waited for, so that none of its work falls into the bare loop's turn). Ratios are to the mean of the
bare epochs before and after, so that a machine whose pace changes slowly changes both. Epochs here are short,
so that they alternate often; what an epoch of the recipe costs follows from both parts and its number of steps. The
first and the last epoch, which begin and end a run, do not count.

One case is the recipe of experiment=fast, in steps of its own 2,000 images; the others are small networks in steps of
some milliseconds, so that what is around them shows. Both loops must end with the same weights.
"""

import argparse
import contextlib
import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from measuring import median_interval, table, write_results
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.nn.functional import cross_entropy

from cifar10.config.build import build
from cifar10.config.compose import load_config
from cifar10.config.schema import Config
from cifar10.config.targets import DATA, OPTIMIZER, SCHEDULE
from cifar10.data.image_dataset import ImageDataset
from cifar10.model import Classifier
from cifar10.runs.checkpoints import digest_of
from cifar10.runs.mlflow_tracker import MLflowTracker
from cifar10.runs.run import open_run
from cifar10.system.memory import keep_memory_warm
from cifar10.trainer import prepare_cpu, resolve_precision
from cifar10.training.batches import TrainingBatches
from cifar10.training.data_module import InMemoryDataModule
from cifar10.training.fitting import fit, make_network, make_recipe
from cifar10.training.resizing import pixels_at, resize

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
    "fast": (
        "experiment=fast",
        "data_loading.train_size=4000",
        "training.epochs=22",
        "training.save_every_seconds=null",  # each epoch, which on CIFAR-10 takes as long as there is between two saves
    ),
    **{f"width={width}": (*_SMALL, f"model.width={width}") for width in (4, 32, 96)},
}
_EPOCH = {"fast": 25}
"""Steps of an epoch of CIFAR-10, where it is not the one that is trained here."""
_SET_UPS = ("chunks", "stepwise", "default")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(_CASES), default=list(_CASES), help="width: of simple_cnn")
    parser.add_argument("--overrides", nargs="*", default=[], help="of every case; after the script's own")
    arguments = parser.parse_args()
    keep_memory_warm()
    raw = {name: measure((*_CASES[name], *arguments.overrides)) for name in arguments.cases}
    head = ["case", "set-up", "epochs", "bare loop, ms a step", "step / bare step", "microseconds more a step"]
    head += ["ms at an epoch's end", "steps an epoch", "epoch / bare epoch"]
    rows = [
        [name, set_up, *turns.row(_EPOCH.get(name, turns.steps))]
        for name, case in raw.items()
        for set_up, turns in case.items()
    ]
    body = ["Medians, in brackets their 95 % interval.", "", *table(head, rows)]
    figures = {name: {set_up: vars(turns.times) for set_up, turns in case.items()} for name, case in raw.items()}
    write_results("loop_overhead", "What the set-up costs, over a bare loop", body, {"cases": figures})


@dataclass
class Times:
    """Milliseconds, an item an epoch."""

    bare: list[float] = field(default_factory=list)
    """A step of the bare loop."""
    step: list[float] = field(default_factory=list)
    """A step of the set-up."""
    end: list[float] = field(default_factory=list)
    """From the set-up's last step to its next epoch; none for its last epoch."""


class TakeTurns(pl.Callback):
    """Lets a bare loop train an epoch before each of Lightning's, and takes the time of both.

    Args:
        epochs: Trains an epoch whenever it is asked for its next item.
        steps: Of an epoch.
    """

    def __init__(self, epochs: Iterator[None], steps: int) -> None:
        self.times = Times()
        self.steps = steps
        self.settle: Callable[[], object] = lambda: None
        """Returns once nothing of the set-up's epoch goes on any more."""
        self._epochs = epochs
        self._resumed = self._last_step = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch > 0:
            self.settle()
            self.times.step.append(1000 * (self._last_step - self._resumed) / self.steps)
            self.times.end.append(1000 * (time.perf_counter() - self._last_step))
        stopped = time.perf_counter()
        next(self._epochs)
        self._resumed = time.perf_counter()
        self.times.bare.append(1000 * (self._resumed - stopped) / self.steps)

    def on_train_batch_end(self, *_: Any) -> None:
        self._last_step = time.perf_counter()

    def row(self, steps: int) -> list[object]:
        """Return the medians, as the table has them, and what an epoch of so many `steps` would cost."""
        times = self.times
        bare = [(before + after) / 2 for before, after in itertools.pairwise(times.bare)][1:]
        step, end = times.step[1:], times.end[1:]
        whole = [own + last / steps for own, last in zip(step, end, strict=True)]
        return [
            len(bare),
            f"{statistics.median(bare):.2f}",
            median_interval([own / plain for own, plain in zip(step, bare, strict=True)], 3),
            median_interval([1000 * (own - plain) for own, plain in zip(step, bare, strict=True)], 0),
            median_interval(end, 1),
            steps,
            median_interval([own / plain for own, plain in zip(whole, bare, strict=True)], 3),
        ]


def measure(overrides: tuple[str, ...]) -> dict[str, TakeTurns]:
    """Return the times of each set-up beside those of the bare loop."""
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        tracked = [f"tracking.uri=sqlite:///{folder}/mlflow.db", f"tracking.artifacts={folder}", f"models_dir={folder}"]
        config = load_config([*_SHAPES, *overrides, *tracked])
        stepwise = config.model_copy(update={"training": config.training.model_copy(update={"chunk_seconds": 0.0})})
        prepare_cpu(config.training)
        data: ImageDataset = build(DATA, config.data_loading)
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


def bare_epochs(network: nn.Module, data: ImageDataset, config: Config) -> Iterator[None]:
    """Train in a plain loop, an epoch for each item."""
    training, smoothing = config.training, config.training.label_smoothing
    batches = TrainingBatches(
        data.train, data.num_classes, config.augmentation, training.batch_size, config.seed, torch.device("cpu")
    )
    num_steps = training.epochs * batches.steps_per_epoch
    optimizer = build(OPTIMIZER, config.optimizer, network=network, params=network.parameters())
    schedule = build(SCHEDULE, config.schedule)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step / num_steps))
    in_bf16 = resolve_precision(config) == "bf16"  # once: it asks for GPUs, which takes time
    step = 0
    for epoch in range(training.epochs):
        batches.seek(epoch, batch=0)
        for images, labels in batches:
            pixels = pixels_at(step / num_steps, training.resizing, images.shape[-1])
            with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
                logits = network(resize(images, pixels)).float()
                loss = cross_entropy(logits, labels, label_smoothing=smoothing)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            step += 1
        yield


def run_ours(network: nn.Module, data: ImageDataset, config: Config, turns: TakeTurns) -> None:
    """Train as `train` does, but for the test."""
    named = config.model_copy(update={"run_name": f"run{time.monotonic_ns()}"})
    run = open_run(named, data, resolve_precision(named))
    assert isinstance(run.tracker, MLflowTracker)
    turns.settle = run.tracker.flush
    with contextlib.redirect_stderr(io.StringIO()):
        fit(network, named, data, run, callbacks=[turns])
    run.tracker.finish("FINISHED")


class Usual(Classifier):
    """The same step, with loss and accuracy logged as Lightning's tutorials do."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        images, labels = batch
        pixels = pixels_at(self._progress(batch_idx), self.recipe.settings.resizing, images.shape[-1])
        logits = self.network(resize(images, pixels)).float()
        loss = cross_entropy(logits, labels, label_smoothing=self.recipe.settings.label_smoothing)
        self.log("train_loss", loss, prog_bar=True)
        self.log("train_accuracy", (logits.argmax(dim=1) == labels).float().mean(), prog_bar=True)
        return loss

    def on_train_epoch_end(self) -> None:
        """Leave everything to Lightning."""


class UsualData(InMemoryDataModule):
    """The same batches under the name that Lightning's users know."""

    def val_dataloader(self) -> list[Any]:
        return []


def run_default(network: nn.Module, data: ImageDataset, config: Config, folder: Path, turns: TakeTurns) -> None:
    """Train in Lightning's default set-up."""
    module = UsualData(data, config.training, config.augmentation, config.evaluation, config.seed)
    recipe = make_recipe(config, data, module.steps_per_epoch)
    classifier = Usual(network, config.evaluation, {"class_names": list(data.class_names)}, recipe=recipe)
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
            precision="bf16-mixed" if resolve_precision(config) == "bf16" else "32-true",
            log_every_n_steps=50,
        )
        trainer.fit(classifier, module)


if __name__ == "__main__":
    main()

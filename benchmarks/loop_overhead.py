"""What does the whole set-up (Lightning, callbacks, checkpoints, MLflow) cost a step, over a bare PyTorch loop?

    python benchmarks/loop_overhead.py [--rounds 7] [--cases fast width=4 width=32 width=96]

Trains the same network on the same batches of the built-in shapes in four ways, in turn and in one process: a plain
loop of a dozen lines; `train`'s own Trainer, callbacks and MLflow record, in chunks of steps; the same, but Lightning
takes each step (training.chunk_seconds=0); and Lightning's default set-up around the same step: its own loop, progress
bar and checkpoint after each epoch, loss and accuracy logged at each step. Time runs from some epoch to the end of the
last: what begins a run is paid once, and is not the question here. One case is the recipe of experiment=fast, in steps
of its own 2,000 images; the others are small networks in steps of some milliseconds, so that what is around them shows.
All four ways must end with the same weights.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from measuring import in_turn, ratio, table, write_results
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
from cifar10.trainer import resolve_precision

_SHAPES = ("data_loading=shapes", "data_loading.validation_size=0", "data_loading.test_size=10")
_SMALL = (
    "data_loading.image_size=16",
    "data_loading.train_size=2000",
    "model=simple_cnn",
    "model.dropout=0.0",
    "training.batch_size=20",
    "training.resizing=[]",
    "training.epochs=9",
    "optimizer=sgd",
)


class Case(NamedTuple):
    """What is trained, and from which epoch on it is timed."""

    overrides: tuple[str, ...]
    warm_up: int

    def measured_steps(self, config: Config, data: DataSet) -> int:
        return (config.training.epochs - self.warm_up) * (len(data.train) // config.training.batch_size)


_CASES = {
    # The first half of the epochs has smaller images, as in the recipe; the whole ones are timed.
    "fast": Case(("experiment=fast", "data_loading.train_size=4000", "training.epochs=6"), warm_up=3),
    **{f"width={width}": Case((*_SMALL, f"model.width={width}"), warm_up=3) for width in (4, 32, 96)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cases", nargs="+", choices=list(_CASES), default=list(_CASES), help="width: of simple_cnn")
    arguments = parser.parse_args()
    keep_memory_warm()
    raw = {name: measure(_CASES[name], arguments.rounds) for name in arguments.cases}
    head = ["case", "bare loop, ms a step"]
    head += [column for way in _WAYS for column in (f"{way} / bare", "microseconds more")]
    rows = [
        [name, f"{statistics.median(figures['bare']):.2f}", *(cell for way in _WAYS for cell in compare(figures, way))]
        for name, figures in raw.items()
    ]
    title = "What the set-up costs a step, over a bare loop"
    body = [f"Medians of {arguments.rounds} rounds, in brackets the range.", "", *table(head, rows)]
    write_results("loop_overhead", title, body, {"milliseconds_a_step": raw})


_WAYS = ("chunks", "stepwise", "default")


def compare(figures: dict[str, list[float]], way: str) -> tuple[str, str]:
    """Return the ratio to the bare loop, and the median difference in microseconds."""
    differences = [1000 * (ours - bare) for ours, bare in zip(figures[way], figures["bare"], strict=True)]
    return ratio(figures[way], figures["bare"]), f"{statistics.median(differences):.0f}"


def measure(case: Case, rounds: int) -> dict[str, list[float]]:
    """Return milliseconds a step of each way in each round."""
    with tempfile.TemporaryDirectory() as folder:
        tracked = [f"tracking.uri=sqlite:///{folder}/mlflow.db", f"tracking.artifacts={folder}", f"models_dir={folder}"]
        config = load_config([*case.overrides, *_SHAPES, *tracked])
        stepwise = config.model_copy(update={"training": config.training.model_copy(update={"chunk_seconds": 0.0})})
        data: DataSet = build(config.data_loading)
        digests: set[str] = set()

        def timed(way: Any, *arguments: Any) -> float:
            network = make_network(config, data)
            seconds: float = way(network, data, case.warm_up, *arguments)
            digests.add(digest_of(network.state_dict()))
            return 1000 * seconds / case.measured_steps(config, data)

        figures: dict[str, list[float]] = in_turn(
            {
                "bare": lambda: timed(run_bare, config),
                "chunks": lambda: timed(run_ours, config),
                "stepwise": lambda: timed(run_ours, stepwise),
                "default": lambda: timed(run_default, stepwise, Path(folder)),
            },
            rounds,
        )
    assert len(digests) == 1, "the four ways have not learnt the same"
    return dict(figures)


def run_bare(network: nn.Module, data: DataSet, warm_up: int, config: Config) -> float:
    """Train in a plain loop; return seconds."""
    training, smoothing = config.training, config.training.label_smoothing
    batches = TrainingBatches(
        data.train, data.num_classes, config.augmentation, training.batch_size, config.seed, torch.device("cpu")
    )
    num_steps = training.epochs * batches.steps_per_epoch
    optimizer = build(config.optimizer, network=network, params=network.parameters())
    schedule = build(config.schedule)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step / num_steps))
    step, started = 0, 0.0
    for epoch in range(training.epochs):
        if epoch == warm_up:
            started = time.perf_counter()
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
    return time.perf_counter() - started


class Stopwatch(pl.Callback):
    """Measures from the end of the warm-up to the end of training."""

    def __init__(self, warm_up: int) -> None:
        self.warm_up = warm_up
        self.seconds = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == self.warm_up:
            self._started = time.perf_counter()

    def on_train_end(self, *_: Any) -> None:
        self.seconds = time.perf_counter() - self._started


def run_ours(network: nn.Module, data: DataSet, warm_up: int, config: Config) -> float:
    """Train as `train` does, but for the test; return seconds."""
    named = config.model_copy(update={"run_name": f"run{time.monotonic_ns()}"})
    run, stopwatch = open_run(named, data, None), Stopwatch(warm_up)
    with contextlib.redirect_stderr(io.StringIO()):
        fit(network, run, callbacks=[stopwatch])
    run.tracker.finish("FINISHED")
    return stopwatch.seconds


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


def run_default(network: nn.Module, data: DataSet, warm_up: int, config: Config, folder: Path) -> float:
    """Train in Lightning's default set-up; return seconds."""
    module, stopwatch = UsualData(data, config), Stopwatch(warm_up)
    classifier = Usual(network, config, {"class_names": list(data.class_names)}, module.steps_per_epoch)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        trainer = pl.Trainer(
            default_root_dir=folder,
            accelerator="cpu",
            devices=1,
            max_epochs=config.training.epochs,
            logger=CSVLogger(folder),
            callbacks=[stopwatch, ModelCheckpoint(save_last=True)],
            use_distributed_sampler=False,
            enable_model_summary=False,
            precision="bf16-mixed" if resolve_precision(config.training) == "bf16" else "32-true",
            log_every_n_steps=50,
        )
        trainer.fit(classifier, module)
    return stopwatch.seconds


if __name__ == "__main__":
    main()

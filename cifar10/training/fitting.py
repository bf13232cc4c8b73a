"""Building, training and testing a network, with Lightning."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn
from torchmetrics import Metric

from cifar10.config.advice import command_line
from cifar10.config.build import build
from cifar10.config.choices import same_data_and_network
from cifar10.config.schema import Config
from cifar10.config.targets import METRIC, MODEL, OPTIMIZER, SCHEDULE, SELECTION
from cifar10.data.class_names import few
from cifar10.data.image_dataset import ImageDataset
from cifar10.data.stored_images import sample_of
from cifar10.devices import prepare_network
from cifar10.errors import CheckpointError, UsageError, UserError, first_line
from cifar10.model import Classifier, Recipe
from cifar10.networks.heads import head_parameters
from cifar10.optimizers.schedules import Schedule
from cifar10.runs.checkpoint_names import resolve_checkpoint
from cifar10.runs.checkpoints import Checkpoint, load_checkpoint
from cifar10.runs.pretrained_weights import load_pretrained_weights
from cifar10.runs.run import Run
from cifar10.runs.stopwatch import Stopwatch
from cifar10.system.lazy_compiler import compiler_errors
from cifar10.system.shortage import told_if_short
from cifar10.system.streams import print_message
from cifar10.trainer import make_trainer
from cifar10.training.checkpointing import SaveCheckpoints
from cifar10.training.data_module import InMemoryDataModule
from cifar10.training.hard_example_mining import ExampleSelection
from cifar10.training.interruption import StopOnSignal
from cifar10.training.metrics import is_higher_better as metric_direction
from cifar10.training.preflight import sizes_of, training_advice
from cifar10.training.progress import TrainingProgress
from cifar10.training.tensorboard import DrawGraph
from cifar10.types import Metrics
from cifar10.wording import counted


def make_network(config: Config, data: ImageDataset) -> nn.Module:
    """Build the network with weights drawn by the seed, and calibrate it on the training images."""
    torch.manual_seed(config.seed)
    with told_if_short(f"lower {sizes_of('model', config.model)}"):
        network: nn.Module = build(MODEL, config.model, num_classes=data.num_classes, image_size=data.image_size)
        _calibrate(network, config, data)
    return network


def make_recipe(config: Config, data: ImageDataset, steps_per_epoch: int) -> Recipe:
    """Build optimizer, schedule and selection; the weights of the selection are drawn by the seed."""

    def make_optimizer(network: nn.Module) -> torch.optim.Optimizer:
        provided = {"network": network, "params": network.parameters()}
        optimizer: torch.optim.Optimizer = build(OPTIMIZER, config.optimizer, **provided)
        return optimizer

    schedule: Schedule = build(SCHEDULE, config.schedule)
    torch.manual_seed(config.seed)
    sizes = {"num_classes": data.num_classes, "image_size": data.image_size}
    selection: ExampleSelection = build(SELECTION, config.selection, **sizes)
    for network in selection.networks:
        _calibrate(network, config, data)
    return Recipe(config.training, config.seed, steps_per_epoch, selection, make_optimizer, schedule)


def make_metrics(config: Config, num_classes: int) -> dict[str, Metric]:
    """Build the configured metrics, by name."""
    return {name: build(METRIC, component, num_classes=num_classes) for name, component in config.metric.items()}


def _calibrate(network: nn.Module, config: Config, data: ImageDataset) -> None:
    network.calibrate(sample_of(data.train.images))  # type: ignore[operator]
    prepare_network(
        network, config.training.channels_last, config.training.kernels, config.training.compile == "graphs"
    )


def fit(
    network: nn.Module,
    config: Config,
    data: ImageDataset,
    run: Run,
    checkpoint: Checkpoint | None = None,
    callbacks: Sequence[pl.Callback] = (),
    stopwatch: Stopwatch | None = None,
) -> tuple[pl.Trainer, Classifier, InMemoryDataModule]:
    """Train `network`, or resume from `checkpoint`.

    Args:
        network: See `make_network`.
        config: The run.
        data: The data set.
        run: The open record of the run.
        checkpoint: The checkpoint of this run to resume from.
        callbacks: Further callbacks for the Trainer.
        stopwatch: Runs since the program was started; None: from now on.

    Raises:
        UserError: Memory ran out, the loss is not finite, or the state in the checkpoint does not fit.
    """
    training = config.training
    module = InMemoryDataModule(data, config.training, config.augmentation, config.evaluation, config.seed)
    recipe = make_recipe(config, data, module.steps_per_epoch)
    metrics = make_metrics(config, data.num_classes)
    is_higher_better = training.monitor is None or metric_direction(training.monitor, metrics)
    metadata = {**run.metadata, "config": config.plain()}
    classifier = Classifier(network, config.evaluation, metadata, metrics, recipe)
    progress = TrainingProgress(module.images_per_step, module.steps_per_epoch, training.epochs, training.resizing)

    def after_epoch(trainer: pl.Trainer, history: list[Metrics], is_saved: bool) -> None:
        if is_saved:
            run.record_epochs(history)
        progress.show_epoch(trainer, history[-1])

    every_seconds, stopwatch = training.save_every_seconds, stopwatch or Stopwatch()
    saver = SaveCheckpoints(run.folder, training.monitor, every_seconds, after_epoch, stopwatch, is_higher_better)
    stopper = StopOnSignal(saver, config.tracking)
    all_callbacks = [*callbacks, progress, saver, stopper]
    if config.tracking.tensorboard:
        all_callbacks.append(DrawGraph(config, data.num_classes, data.image_size))
    trainer = make_trainer(config, run.folder, all_callbacks, is_higher_better, config.tracking.tensorboard)
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    run.begin(config, num_parameters, history=checkpoint.history if checkpoint else [])
    with stopper.listening(), told_if_short(training_advice(config)), _explained(config, checkpoint, saver):
        try:
            trainer.fit(classifier, module, ckpt_path=checkpoint.path if checkpoint else None, weights_only=True)
        except BaseException:
            # Lightning kills this process as well, which has a record to close, within five seconds of the failure of a
            # process that it has started. The other processes end when this one does.
            getattr(trainer.strategy.launcher, "procs", []).clear()
            raise
    return trainer, classifier, module


def test(  # a step of the program, no test of pytest
    trainer: pl.Trainer,
    classifier: Classifier,
    module: InMemoryDataModule,
    path: Path,
    split: str = "test",  # noqa: PT028
) -> Metrics:
    """Return the scores of the classifier's network on the test split, plain and with test-time augmentation.

    Args:
        path: The checkpoint of the weights, for the message.
        split: The name of the images, for the message.
    """
    # The saved weights are averaged already; the callback would replace them with the current ones.
    trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, WeightAveraging)]  # type: ignore[attr-defined]
    if trainer.is_global_zero:
        print_message(f"testing {path} on {counted(len(module.data.test), f'{split} image')} of {module.data.name}")
    with told_if_short(f"lower evaluation.batch_size={classifier.evaluation.batch_size}"):
        trainer.test(classifier, module, verbose=False)
    return dict(classifier.test_scores)


def start_from(config: Config, network: nn.Module, data: ImageDataset) -> str | None:
    """Load the weights of the checkpoint `config.weights`, if set, into `network`, and return their digest.

    Otherwise a pretrained network gets its published weights.

    Raises:
        UsageError: The checkpoint has other classes.
        UserError: The checkpoint has another network.
    """
    if config.weights is None:
        if (file := load_pretrained_weights(network)) is not None:
            print_message(f"starts from {file}")
        return None
    initial = load_checkpoint(resolve_checkpoint(config.weights, config.models_dir))
    weights = initial.weights
    if initial.class_names != data.class_names:
        weights = _with_new_head(initial, config, network, data)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip().removesuffix(".")
        model = [word for word in same_data_and_network(initial.config.plain()) if word.startswith("model")]
        raise UserError(
            f"weights={initial.path} are of another network than {type(network).__name__}: {reason}; "
            f"choose the same one: {shlex.join(model) or 'model=speed'}"
        ) from error
    print_message(f"starts from {initial.path}, weights {initial.weights_digest[:12]}")
    return initial.weights_digest


def _with_new_head(initial: Checkpoint, config: Config, network: nn.Module, data: ImageDataset) -> dict[str, Tensor]:
    """Return the weights of `initial` with the head of `network`, which is for other classes."""
    if config.probe is None and not config.training.freeze_until:
        raise UsageError(
            f"weights={initial.path} has the classes {few(initial.class_names)}, not those of these data, "
            f"{few(data.class_names)}; to replace its last layer: training.freeze_until=0.2, or experiment=probe"
        )
    old, new = head_parameters(initial.network(), initial.num_classes), head_parameters(network, data.num_classes)
    print_message(f"the last layer of {initial.path} is replaced: the data have other classes")
    body = {name: tensor for name, tensor in initial.weights.items() if name not in old}
    return body | {name: tensor for name, tensor in network.state_dict().items() if name in new}


@contextmanager
def _explained(config: Config, checkpoint: Checkpoint | None, saver: SaveCheckpoints) -> Iterator[None]:
    """Convert errors of torch.compile, most often a missing C++ compiler, and of restoring the training state."""
    try:
        yield
    except UserError:
        raise
    except compiler_errors() as error:
        raise UserError(
            f"training.compile={str(config.training.compile).lower()}: {first_line(error)}; install a compiler such as "
            "g++, or set training.compile=false"
        ) from error
    except Exception as error:
        if checkpoint is None or saver.has_started:
            raise
        same = same_data_and_network(checkpoint.config.plain())
        again = command_line("train", f"weights={checkpoint.path}", *same)
        raise CheckpointError(
            f"{checkpoint.path}: its training state cannot be restored ({type(error).__name__}: {first_line(error)}); "
            f"start a new run from its weights: {again}"
        ) from error

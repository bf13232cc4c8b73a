"""The walk of `train`: configuration -> data -> network -> fit -> test on the best checkpoint -> scores."""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed

from cifar10.config.advice import command_line
from cifar10.config.build import build
from cifar10.config.schema import Config
from cifar10.config.targets import DATA, MODEL, SELECTION
from cifar10.data.contract import DataSet
from cifar10.errors import CheckpointError, Misuse, UserError
from cifar10.model import Classifier
from cifar10.runs.checkpoint_names import BEST, LAST, name_of_run, resolve_checkpoint
from cifar10.runs.checkpoint_outline import first_line
from cifar10.runs.checkpoints import Checkpoint, load_checkpoint
from cifar10.runs.run import Run, open_run
from cifar10.runs.stopwatch import Stopwatch
from cifar10.runs.trained_data import load_trained_data
from cifar10.system.memory import keep_memory_warm
from cifar10.system.processes import find_processes
from cifar10.system.shortage import told_if_alone, told_if_short
from cifar10.system.signals import Stopped, held, if_stopped
from cifar10.trainer import make_trainer, prepare_cpu
from cifar10.training.capacity import refuse_untrainable, sizes_of, training_advice
from cifar10.training.checkpointing import SaveCheckpoints, amend_checkpoint
from cifar10.training.data_module import ResidentData
from cifar10.training.early_end import close_early, going_on_line, what_is_kept
from cifar10.training.hard_example_mining import Selection
from cifar10.training.interruption import StopOnSignal
from cifar10.training.mirroring import MirrorTest
from cifar10.training.preflight import refuse_unfit, tell_batches, warn_of_mirroring
from cifar10.training.progress import TrainingProgress
from cifar10.training.resuming import find_resumed, finished_scores
from cifar10.training.running_metrics import Scores
from cifar10.wording import counted


def train(
    config: Config, resume: str | None = None, changes: Sequence[str] = (), stopwatch: Stopwatch | None = None
) -> Scores:
    """Train, test and save; return the scores, and print them as one line.

    Args:
        config: The run. With `resume`, only its `models_dir`, and its `tracking` for a checkpoint from elsewhere.
        resume: What to go on from: anything `resolve_checkpoint` knows; of a run's folder, its `last.ckpt`.
        changes: Overrides of the checkpoint's configuration; see `require_resumable` for those that are possible.
        stopwatch: Runs since the program was started; None: from now on.

    Raises:
        UserError: Data, devices, folders or the checkpoint are not as needed, or the run diverged.
    """
    stopwatch = stopwatch or Stopwatch()
    checkpoint, config = find_resumed(config, resume, changes)
    if checkpoint is not None and (finished := finished_scores(checkpoint, config)) is not None:
        return finished
    processes = find_processes(config.training)  # refuses those of a launcher in a wrong number, before data are loaded
    keep_memory_warm()
    prepare_cpu(config.training)
    data = _load_data(config, checkpoint)
    refuse_unfit(config, data)
    if processes.is_first:
        warn_of_mirroring(config, data)
        tell_batches(config, data)
    network = make_network(config, data)
    refuse_untrainable(network, config, data.image_size, len(data.train))
    initial_weights = checkpoint.metadata.initial_weights if checkpoint else None
    if checkpoint is None and config.weights is not None:
        initial_weights = start_from(config, network, data)
    run = open_run(config, data, checkpoint, initial_weights)
    try:
        with told_if_alone(lambda: what_is_kept(run)):
            scores = _fit_and_test(network, run, checkpoint, stopwatch)
    except BaseException as error:
        close_early(run, error)
        if isinstance(error, Stopped) and find_processes(config.training).is_launched_by_lightning:
            raise SystemExit from None  # the first process says it; Lightning kills it if another's exit code is not 0
        raise
    with if_stopped(f"while the tracker was told; the run is complete in {run.folder}"):
        run.close("FINISHED")
    if run.is_first_process:
        _announce(scores, run)
    return scores


def make_network(config: Config, data: DataSet) -> nn.Module:
    """Build the network, its first weights drawn by the seed, and let it measure the training images."""
    torch.manual_seed(config.seed)
    with told_if_short(f"lower {sizes_of('model', config.model)}"):
        network: nn.Module = build(MODEL, config.model, num_classes=data.num_classes, image_size=data.image_size)
        _fit_to_data(network, config, data)
    return network


def make_selection(config: Config, data: DataSet) -> Selection:
    """Build what chooses the images to learn from, likewise."""
    torch.manual_seed(config.seed)
    selection: Selection = build(SELECTION, config.selection, num_classes=data.num_classes, image_size=data.image_size)
    for network in selection.networks:
        _fit_to_data(network, config, data)
    return selection


def _fit_to_data(network: nn.Module, config: Config, data: DataSet) -> None:
    network.fit_to(data.train.images)  # type: ignore[operator]
    if config.training.channels_last:
        network.to(memory_format=torch.channels_last)


def test(  # a step of the program, no test of pytest
    trainer: pl.Trainer,
    classifier: Classifier,
    module: ResidentData,
    path: Path,
    split: str = "test",  # noqa: PT028
    is_loaded: bool = False,  # noqa: PT028
) -> Scores:
    """Return the scores of the checkpoint at `path` on the test split, plain and with test-time augmentation.

    Args:
        split: What the images are called in the message.
        is_loaded: Whether the network has its weights already; then the file is not read.
    """
    # What is saved is the averaged weights already; the callback would put the current ones back in their place.
    trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, WeightAveraging)]  # type: ignore[attr-defined]
    if trainer.is_global_zero:
        _say(f"testing {path} on {counted(len(module.data.test), f'{split} image')} of {module.data.name}")
    with told_if_short(f"lower evaluation.batch_size={classifier.config.evaluation.batch_size}"):
        trainer.test(classifier, module, ckpt_path=None if is_loaded else path, weights_only=True, verbose=False)
    return dict(classifier.test_scores)


def fit(
    network: nn.Module,
    run: Run,
    checkpoint: Checkpoint | None = None,
    callbacks: Sequence[pl.Callback] = (),
    stopwatch: Stopwatch | None = None,
) -> tuple[pl.Trainer, Classifier, ResidentData]:
    """Train `network` as `run` says, on from `checkpoint` if there is one, with further `callbacks`."""
    config, training = run.config, run.config.training
    module = ResidentData(run.data, config)
    selection = make_selection(config, run.data)
    classifier = Classifier(network, config, run.identity(), module.steps_per_epoch, selection)
    progress = TrainingProgress(module.images_per_step, module.steps_per_epoch, training.epochs, training.resizing)

    def after_epoch(trainer: pl.Trainer, history: list[Scores], is_saved: bool) -> None:
        if is_saved:
            run.record_epochs(history)
        progress.show_epoch(trainer, history[-1])

    saver = SaveCheckpoints(
        run.folder, training.monitor, training.save_every_seconds, after_epoch, stopwatch or Stopwatch()
    )
    stopper = StopOnSignal(saver)
    trainer = make_trainer(config, run.folder, [*callbacks, progress, saver, stopper])
    run.begin(
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
        history=checkpoint.history if checkpoint else [],
    )
    with stopper.listening(), told_if_short(training_advice(config)), _restoring(checkpoint, saver), _compiling(config):
        trainer.fit(classifier, module, ckpt_path=checkpoint.path if checkpoint else None, weights_only=True)
    return trainer, classifier, module


@contextmanager
def _restoring(checkpoint: Checkpoint | None, saver: SaveCheckpoints) -> Iterator[None]:
    """Say in one line if the state of training in `checkpoint` is not that of a run like this."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if checkpoint is None or saver.has_started:
            raise
        again = command_line("train", f"weights={checkpoint.path}")
        raise CheckpointError(
            f"{checkpoint.path}: its training state cannot be restored ({type(error).__name__}: {first_line(error)}); "
            f"start a new run from its weights: {again}"
        ) from error


@contextmanager
def _compiling(config: Config) -> Iterator[None]:
    """Say in one line if torch.compile cannot compile the network, most often for want of a C++ compiler."""
    try:
        yield
    except BackendCompilerFailed as error:
        raise UserError(
            f"training.compile={str(config.training.compile).lower()}: {first_line(error)}; install a compiler such as "
            "g++, or set training.compile=false"
        ) from error


def start_from(config: Config, network: nn.Module, data: DataSet) -> str:
    """Give `network` the weights of the checkpoint that `config.weights` names, and return their digest.

    Raises:
        Misuse: They are of other classes.
        UserError: They are of another network.
    """
    assert config.weights is not None
    initial = load_checkpoint(resolve_checkpoint(config.weights, config.models_dir))
    if initial.class_names != data.class_names:
        raise Misuse(
            f"weights={initial.path} tells apart {_few(initial.class_names)}, not the classes of these data, "
            f"{_few(data.class_names)}"
        )
    try:
        network.load_state_dict(initial.weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(
            f"weights={initial.path} are of another network than {type(network).__name__}: {reason}"
        ) from error
    _say(f"starts from {initial.path}, weights {initial.weights_digest[:12]}")
    return initial.weights_digest


def _fit_and_test(network: nn.Module, run: Run, checkpoint: Checkpoint | None, stopwatch: Stopwatch) -> Scores:
    trainer, classifier, module = fit(network, run, checkpoint, stopwatch=stopwatch)
    history = list(classifier.history)
    if not (run.folder / BEST).exists():
        raise UserError(f"in no epoch was {run.config.training.monitor} a finite number, so there is no best one")
    if run.data.is_mirrorable is None and len(run.data.validation) and classifier.tta != "none":
        _drop_views_that_score_worse(trainer, classifier, run)
    with if_stopped(f"in the test, after training; go on with: {going_on_line(run)}"):
        scores = test(trainer, classifier, module, run.folder / BEST)
    scores |= {key: value for key, value in history[-1].items() if key.startswith(("train/", "val/"))}
    scores |= stopwatch.seconds()
    if run.is_first_process:
        with held():
            run.record_scores(scores, history, classifier.confusion)
    return scores


def _drop_views_that_score_worse(trainer: pl.Trainer, classifier: Classifier, run: Run) -> None:
    """Test and use the network without test-time augmentation if that is right more often on the validation images."""
    validation = ResidentData(dataclasses.replace(run.data, test=run.data.validation), run.config)
    scores = test(trainer, classifier, validation, run.folder / BEST, split="validation")
    plain, augmented = scores["test/accuracy"], scores["test/accuracy_tta"]
    if plain <= augmented:
        return
    _say(
        f"note: of the validation images {augmented:.1%} are right with {classifier.tta}, and {plain:.1%} without; so "
        "this network is tested and used without"
    )
    if MirrorTest(plain, augmented, len(run.data.validation)).matters:
        _say("warning: left and right matter in these data; train without mirroring: augmentation.flip=none")
    classifier.tta = "none"
    if run.is_first_process:
        for name in (BEST, LAST):
            amend_checkpoint(run.folder / name, {"tta": "none"})
    trainer.strategy.barrier()


def _load_data(config: Config, checkpoint: Checkpoint | None) -> DataSet:
    """Return the data of the run; of one that goes on, those that it was begun with."""
    if checkpoint is None:
        data: DataSet = build(DATA, config.data_loading)
        return data
    moved = command_line("train", "data_loading.root=DIR", resume=str(checkpoint.path), models_dir=config.models_dir)
    data = load_trained_data(checkpoint, config.data_loading, moved)
    if checkpoint.data_digest != data.digest:
        raise UserError(
            f"the data are not those that {checkpoint.path} was trained on (SHA-256 {data.digest[:12]} now, "
            f"{checkpoint.data_digest[:12]} then); bring them back, say where they are with data_loading.root=DIR, or "
            "train anew"
        )
    return data


def _announce(scores: Scores, run: Run) -> None:
    best = load_checkpoint(run.folder / BEST)
    tta, digest = best.tta, best.weights_digest
    augmented = f"{scores['test/accuracy_tta']:.2%} with {tta}, " if tta != "none" else ""
    print(
        f"test accuracy {augmented}{scores['test/accuracy']:.2%} plain; "
        f"{scores['wall_seconds']:.0f} s, {scores['cpu_seconds']:.0f} s cpu; weights {digest[:12]}",
        flush=True,
    )
    _say(f"saved    {run.folder}/: best.ckpt, last.ckpt, scores.json, history.csv, curves.png, confusion.png")
    _say(f"tracked  {run.tracker.describe()}")
    _say(f"next     {command_line('infer', test_dir='DIR', checkpoint_name=name_of_run(run.folder))}")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

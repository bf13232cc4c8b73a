"""The walk of `train`: configuration -> data -> network -> fit -> test on the best checkpoint -> scores."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import nn

from cifar10.build import build
from cifar10.capacity import refuse_untrainable, sizes_of, training_advice
from cifar10.checkpoint_names import BEST, LAST, resolve_checkpoint
from cifar10.checkpoints import Checkpoint, load_checkpoint
from cifar10.config import Config
from cifar10.data.contract import DataSet
from cifar10.data.module import ResidentData
from cifar10.data.resizing import scaled
from cifar10.errors import UserError
from cifar10.interruption import Interrupted, StopOnSignal
from cifar10.memory import keep_memory_warm
from cifar10.model import Classifier
from cifar10.processes import find_processes
from cifar10.progress import TrainingProgress
from cifar10.run import Run, open_run, process_seconds
from cifar10.saving import SaveCheckpoints
from cifar10.selection import Selection
from cifar10.shortage import told_if_alone, told_if_short
from cifar10.signals import Stopped, held, if_stopped
from cifar10.tally import Scores
from cifar10.trainer import make_trainer, prepare_cpu


def train(config: Config, resume: str | None = None) -> Scores:
    """Train, test and save; return the scores, and print them as one line.

    Args:
        config: The run. With `resume`, the checkpoint's own configuration is used instead.
        resume: What to go on from: anything `resolve_checkpoint` knows; of a run's folder, its `last.ckpt`.

    Raises:
        UserError: Data, devices, folders or the checkpoint are not as needed.
    """
    checkpoint = None
    if resume is not None:
        checkpoint = load_checkpoint(resolve_checkpoint(resume, config.models_dir, prefer=LAST))
        config = checkpoint.config
    find_processes(config.training)  # refuses what a launcher has started in the wrong number, before data are loaded
    keep_memory_warm()
    prepare_cpu(config.training)
    data: DataSet = build(config.data_loading)
    _refuse_unfit(config, data, checkpoint)
    network = make_network(config, data)
    refuse_untrainable(network, config, data.image_size, len(data.train))
    run = open_run(config, data, checkpoint)
    try:
        with told_if_alone(lambda: _what_is_kept(run)):
            scores = _fit_and_test(network, run, checkpoint)
    except BaseException as error:
        _close_early(run, error)
        if isinstance(error, Stopped) and find_processes(config.training).is_launched_by_lightning:
            raise SystemExit from None  # the first process says it; Lightning kills it if another's exit code is not 0
        raise
    with if_stopped(f"while the tracker was told; the run is complete in {run.folder}"):
        run.tracker.finish("FINISHED")
    if run.is_first_process:
        _announce(scores, run)
    return scores


def make_network(config: Config, data: DataSet) -> nn.Module:
    """Build the network, its first weights drawn by the seed, and let it measure the training images."""
    torch.manual_seed(config.seed)
    network: nn.Module = build(config.model, num_classes=data.num_classes, image_size=data.image_size)
    _fit_to_data(network, config, data)
    return network


def make_selection(config: Config, data: DataSet) -> Selection:
    """Build what chooses the images to learn from, likewise."""
    torch.manual_seed(config.seed)
    selection: Selection = build(config.selection, num_classes=data.num_classes, image_size=data.image_size)
    for network in selection.networks:
        _fit_to_data(network, config, data)
    return selection


def _fit_to_data(network: nn.Module, config: Config, data: DataSet) -> None:
    network.fit_to(data.train.images)  # type: ignore[operator]
    if config.training.channels_last:
        network.to(memory_format=torch.channels_last)


def test(trainer: pl.Trainer, classifier: Classifier, module: ResidentData, path: Path) -> Scores:
    """Return the scores of the checkpoint at `path` on the test split, plain and with test-time augmentation."""
    # What is saved is the averaged weights already; the callback would put the current ones back in their place.
    trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, WeightAveraging)]  # type: ignore[attr-defined]
    if trainer.is_global_zero:
        _say(f"testing {path} on {len(module.data.test):,} images")
    with told_if_short(f"lower evaluation.batch_size={classifier.config.evaluation.batch_size}"):
        trainer.test(classifier, module, ckpt_path=path, weights_only=True, verbose=False)
    return dict(classifier.test_scores)


def fit(
    network: nn.Module, run: Run, checkpoint: Checkpoint | None = None, callbacks: Sequence[pl.Callback] = ()
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

    saver = SaveCheckpoints(run.folder, training.monitor, training.save_every_seconds, after_epoch)
    stopper = StopOnSignal(saver)
    trainer = make_trainer(config, run.folder, [*callbacks, progress, saver, stopper])
    run.begin(
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
        history=checkpoint.history if checkpoint else [],
    )
    with stopper.listening(), told_if_short(training_advice(config)):
        trainer.fit(classifier, module, ckpt_path=checkpoint.path if checkpoint else None, weights_only=True)
    return trainer, classifier, module


def _fit_and_test(network: nn.Module, run: Run, checkpoint: Checkpoint | None) -> Scores:
    trainer, classifier, module = fit(network, run, checkpoint)
    history = list(classifier.history)
    with if_stopped(f"in the test, after training; go on with: {_go_on_line(run)}"):
        scores = test(trainer, classifier, module, run.folder / BEST)
    scores |= {key: value for key, value in history[-1].items() if key.startswith(("train/", "val/"))}
    scores |= process_seconds()
    if run.is_first_process:
        with held():
            run.record_scores(scores, history, classifier.confusion)
    return scores


def _refuse_unfit(config: Config, data: DataSet, checkpoint: Checkpoint | None) -> None:
    if checkpoint is not None and checkpoint.data_digest != data.digest:
        raise UserError(
            f"the data are not those that {checkpoint.path} was trained on (SHA-256 {data.digest[:12]} now, "
            f"{checkpoint.data_digest[:12]} then); bring them back, or train anew"
        )
    if config.training.monitor is not None and not len(data.validation):
        raise UserError(
            f"training.monitor={config.training.monitor} needs validation images: set the validation size of "
            "data_loading above 0, or training.monitor=null"
        )
    sizes = [(data.image_size, f"choose another model than {config.model.target} and selection=all")]
    sizes += [(scaled(data.image_size, stage), "set training.resizing=[]") for stage in config.training.resizing]
    for pixels, advice in sizes:
        with told_if_short(f"lower {sizes_of('model', config.model)}"):
            try:
                for component in (config.model, config.selection):
                    build(component, num_classes=data.num_classes, image_size=pixels)
            except ValueError as error:
                raise UserError(f"training would need images of {pixels} pixels: {error}; {advice}") from error


def _close_early(run: Run, error: BaseException) -> None:
    run.tracker.finish("KILLED" if isinstance(error, Stopped | KeyboardInterrupt) else "FAILED")
    if isinstance(error, Stopped):
        saved_at = error.saved_at if isinstance(error, Interrupted) else None
        error.kept = error.kept or _what_is_kept(run, saved_at)


def _what_is_kept(run: Run, saved_at: Path | None = None) -> str:
    """Return the end of the line that says what has stopped the run; `saved_at` if its last step was saved there."""
    if not (run.folder / LAST).exists():
        return "before anything was saved; there is nothing to go on with"
    when = f"and saved at {saved_at}" if saved_at else "after the last save"
    return f"{when}; go on with: {_go_on_line(run)}"


def _go_on_line(run: Run) -> str:
    return f"python commands.py train --resume {run.folder.name}"


def _announce(scores: Scores, run: Run) -> None:
    tta = run.config.evaluation.tta
    digest = load_checkpoint(run.folder / BEST).weights_digest
    augmented = f"{scores['test/accuracy_tta']:.2%} with {tta}, " if tta != "none" else ""
    print(
        f"test accuracy {augmented}{scores['test/accuracy']:.2%} plain; "
        f"{scores['wall_seconds']:.0f} s, {scores['cpu_seconds']:.0f} s cpu; weights {digest[:12]}",
        flush=True,
    )
    _say(f"saved    {run.folder}/: best.ckpt, last.ckpt, scores.json, history.csv, curves.png, confusion.png")
    _say(f"tracked  {run.tracker.describe()}")
    _say(f"next     python commands.py infer --test_dir DIR --checkpoint_name {run.folder.name}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

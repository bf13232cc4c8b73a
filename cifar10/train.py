"""Entry point of `train`: configuration -> data -> network -> fit -> test on the best checkpoint -> scores."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytorch_lightning as pl
from torch import nn

from cifar10.analysis.figures import save_figures
from cifar10.config.advice import command_line
from cifar10.config.build import build, require_buildable
from cifar10.config.schema import Config, TTAMode
from cifar10.config.targets import DATA
from cifar10.data.image_dataset import ImageDataset
from cifar10.errors import UserError
from cifar10.model import Classifier
from cifar10.runs.checkpoint_names import BEST, LAST, name_of_run
from cifar10.runs.checkpoints import Checkpoint, load_checkpoint
from cifar10.runs.folder import FIGURES, HISTORY, SCORES
from cifar10.runs.run import Run, open_run
from cifar10.runs.stopwatch import Stopwatch
from cifar10.runs.tracking import require_store
from cifar10.runs.trained_data import load_trained_data
from cifar10.system.memory import keep_memory_warm
from cifar10.system.processes import find_processes
from cifar10.system.signals import Stopped, held, if_stopped
from cifar10.system.streams import print_message
from cifar10.trainer import prepare_cpu, resolve_precision
from cifar10.training.checkpointing import amend_checkpoint
from cifar10.training.data_module import InMemoryDataModule
from cifar10.training.fitting import fit, make_network, start_from, test
from cifar10.training.interruption import close_early, going_on_line
from cifar10.training.mirroring import MirrorTest
from cifar10.training.preflight import (
    refuse_headless,
    refuse_unfit,
    refuse_untrainable,
    require_tensorboard,
    tell_batches,
    warn_of_mirroring,
)
from cifar10.training.resuming import find_resumed, finished_scores, refuse_without_end
from cifar10.training.tensorboard import write_predictions
from cifar10.types import Metrics


@dataclass(frozen=True)
class RunOptions:
    """What differs for a run that is a part of a comparison or a sweep."""

    is_tested: bool = True
    """Whether the test split is used. A run that was trained without is tested when it is resumed with."""
    is_drawn: bool = True
    """Whether pictures of the learning curves and the confusion matrix are saved."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Further tags of the run in MLflow."""


def train(
    config: Config,
    resume: str | None = None,
    changes: Sequence[str] = (),
    stopwatch: Stopwatch | None = None,
    callbacks: Sequence[pl.Callback] = (),
    data: ImageDataset | None = None,
    options: RunOptions = RunOptions(),
) -> Metrics:
    """Train, test and save; return the scores, and print them as one line.

    Args:
        config: The run. With `resume`, only its `models_dir`, and its `tracking` for a checkpoint from elsewhere.
        resume: The checkpoint to resume: any name that `resolve_checkpoint` accepts; for a run folder, its `last.ckpt`.
        changes: Overrides of the checkpoint's configuration; see `require_resumable` for those that are possible.
        stopwatch: Runs since the program was started; None: from now on.
        callbacks: Further callbacks for the Trainer.
        data: What `config.data_loading` names, if it is loaded already.
        options: What is left out, if the run is a part of something else.

    Raises:
        UserError: Data, devices, folders or the checkpoint are not as needed, or the run diverged.
    """
    stopwatch = stopwatch or Stopwatch()
    checkpoint, config = find_resumed(config, resume, changes)
    if checkpoint is not None and (finished := finished_scores(checkpoint, config, options.is_tested)) is not None:
        return finished
    if checkpoint is not None:
        refuse_without_end(checkpoint, config)
    require_buildable(config)
    require_tensorboard(config)
    processes = find_processes(config.training)  # checks the launcher before data are loaded
    if processes.is_first:
        require_store(config.tracking)
    keep_memory_warm()
    prepare_cpu(config.training)
    data = _load_data(config, checkpoint, data)
    refuse_unfit(config, data)
    if processes.is_first:
        warn_of_mirroring(config, data)
        tell_batches(config, data)
    network = make_network(config, data)
    refuse_headless(network, config, data.num_classes)
    refuse_untrainable(network, config, data.image_size, len(data.train))
    initial_weights = checkpoint.metadata.initial_weights if checkpoint else start_from(config, network, data)
    run = open_run(config, data, resolve_precision(config), checkpoint, initial_weights, options.tags)
    try:
        scores, digest, tta = _fit_and_test(network, config, data, run, checkpoint, stopwatch, callbacks, options)
    except BaseException as error:
        close_early(run, config, error)
        if isinstance(error, Stopped) and find_processes(config.training).is_launched_by_lightning:
            raise SystemExit from None  # the first process reports it; Lightning would kill it at another exit code
        raise
    with if_stopped(f"while the record was closed; the run is complete in {run.folder}"):
        run.close("FINISHED")
    if run.is_first_process and options.is_tested:
        _announce(scores, digest, tta, config, run)
    return scores


def _fit_and_test(
    network: nn.Module,
    config: Config,
    data: ImageDataset,
    run: Run,
    resumed: Checkpoint | None,
    stopwatch: Stopwatch,
    callbacks: Sequence[pl.Callback],
    options: RunOptions,
) -> tuple[Metrics, str, TTAMode]:
    """Return the scores, the digest of the best weights, and the test-time augmentation."""
    trainer, classifier, module = fit(network, config, data, run, resumed, callbacks, stopwatch)
    history = list(classifier.history)
    if not (run.folder / BEST).exists():
        raise UserError(f"{config.training.monitor} was not a finite number in any epoch, so there is no best one")
    best = load_checkpoint(run.folder / BEST)
    scores: Metrics = {}
    if options.is_tested:
        classifier.network.load_state_dict(best.weights)
        if data.is_mirrorable is None and len(data.validation) and classifier.tta != "none":
            _drop_views_that_score_worse(trainer, classifier, module, run)
        with if_stopped(f"in the test, after training; resume with: {going_on_line(run.folder, config.tracking)}"):
            scores = test(trainer, classifier, module, best.path)
    scores |= {key: value for key, value in history[-1].items() if key.startswith(("train/", "val/"))}
    scores |= stopwatch.seconds()
    if run.is_first_process:
        with held():
            if options.is_drawn:
                confusion = classifier.confusion.numpy() if options.is_tested else None
                save_figures(history, confusion, data.class_names, run.folder)
            run.record_scores(scores, config.seed, len(history), best.weights_digest)  # last: the run is then complete
            run.send_files()
            write_predictions(trainer, classifier, data)
    return scores, best.weights_digest, classifier.tta


def _drop_views_that_score_worse(
    trainer: pl.Trainer, classifier: Classifier, module: InMemoryDataModule, run: Run
) -> None:
    """Disable test-time augmentation if the accuracy on the validation images is higher without it."""
    validation = dataclasses.replace(module, data=dataclasses.replace(module.data, test=module.data.validation))
    scores = test(trainer, classifier, validation, run.folder / BEST, split="validation")
    plain, augmented = scores["test/accuracy"], scores["test/accuracy_tta"]
    if plain <= augmented:
        return
    print_message(
        f"note: of the validation images {augmented:.1%} are right with {classifier.tta}, and {plain:.1%} without; so "
        "this network is tested and used without"
    )
    if MirrorTest(plain, augmented, len(module.data.validation)).matters:
        print_message("warning: left and right matter in these data; train without mirroring: augmentation.flip=none")
    classifier.tta = "none"
    if run.is_first_process:
        for name in (BEST, LAST):
            amend_checkpoint(run.folder / name, {"tta": "none"})
    trainer.strategy.barrier()


def _load_data(config: Config, checkpoint: Checkpoint | None, loaded: ImageDataset | None) -> ImageDataset:
    """Return the data of the run, unless they are `loaded`; of a resumed run, the data that it was started with."""
    if checkpoint is None:
        data: ImageDataset = loaded or build(DATA, config.data_loading)
        return data
    moved = command_line("train", "data_loading.root=DIR", resume=str(checkpoint.path), models_dir=config.models_dir)
    data = loaded or load_trained_data(checkpoint, config.data_loading, moved)
    if checkpoint.data_digest != data.digest:
        raise UserError(
            f"the data are not those that {checkpoint.path} was trained on (SHA-256 {data.digest[:12]} now, "
            f"{checkpoint.data_digest[:12]} then); restore them, set their folder with data_loading.root=DIR, or start "
            "a new run"
        )
    return data


def _announce(scores: Metrics, digest: str, tta: TTAMode, config: Config, run: Run) -> None:
    augmented = f"{scores['test/accuracy_tta']:.2%} with {tta}, " if tta != "none" else ""
    suffix = "_tta" if tta != "none" else ""
    others = [f"{name} {scores[f'test/{name}{suffix}']:.4f}, " for name in config.metric if name != "accuracy"]
    print(
        f"test accuracy {augmented}{scores['test/accuracy']:.2%} plain; "
        f"{''.join(others)}{scores['wall_seconds']:.0f} s, {scores['cpu_seconds']:.0f} s cpu; weights {digest[:12]}",
        flush=True,
    )
    files = [name for name in (BEST, LAST, SCORES, HISTORY, *FIGURES) if (run.folder / name).is_file()]
    print_message(f"saved    {run.folder}/: {', '.join(files)}")
    print_message(f"tracked  {run.tracker.describe()}")
    print_message(f"next     {command_line('infer', test_dir='DIR', checkpoint_name=name_of_run(run.folder))}")

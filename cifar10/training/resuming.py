"""Resume a run: the configuration that applies, the settings that may change, and whether training is complete."""

import json
from collections.abc import Sequence
from pathlib import Path

from cifar10.config.advice import command_line, setting
from cifar10.config.choices import same_data_and_network
from cifar10.config.compose import with_changes
from cifar10.config.mlflow_uri import shown_uri
from cifar10.config.schema import Config, TrackingConfig
from cifar10.errors import CheckpointError, UsageError
from cifar10.files import read_text
from cifar10.runs.checkpoint_names import BEST, LAST, resolve_checkpoint
from cifar10.runs.checkpoints import Checkpoint, load_checkpoint, require_training_state
from cifar10.runs.folder import SCORES, is_folder_of, lasting_settings
from cifar10.runs.known_stores import unknown_settings
from cifar10.runs.run import has_best_beside
from cifar10.runs.trained_data import without_sources
from cifar10.system.streams import print_message
from cifar10.types import Metrics
from cifar10.wording import counted

AUTO = "auto"
"""`--resume=auto`: resume the run of this name if it exists, else start it."""


def find_resumed(config: Config, resume: str | None, changes: Sequence[str]) -> tuple[Checkpoint | None, Config]:
    """Return the checkpoint to resume, None for a new run, and the configuration of the run.

    Args:
        config: The configuration from the command line.
        resume: None, `auto`, or any name that `resolve_checkpoint` accepts; for a run folder, its `last.ckpt`, or its
            `best.ckpt` if that is damaged.
        changes: Overrides of the checkpoint's configuration.

    Raises:
        UserError: There is no such checkpoint, its data are missing, or it cannot be resumed with these settings.
    """
    if resume is None:
        return None, config
    if resume == AUTO:
        assert config.run_name is not None, "the command line requires it"
        path = Path(config.models_dir) / config.run_name / LAST
        if not path.is_file():
            return None, config
        checkpoint = _load_resumable(path)
        _refuse_other_settings(checkpoint, config)
    else:
        checkpoint = _load_resumable(resolve_checkpoint(resume, config.models_dir, prefer=LAST))
        config = _resumed_config(checkpoint, config, changes)
    _refuse_other_steps(checkpoint, config)
    return checkpoint, config


def finished_scores(checkpoint: Checkpoint, config: Config, tested: bool = True) -> Metrics | None:
    """Return the metrics of a finished run, and print that it is finished; None if it is not.

    Args:
        checkpoint: Of the run.
        config: Of the run.
        tested: Whether it is finished only if it has been tested.
    """
    folder = checkpoint.path.parent
    try:
        facts = json.loads(read_text(folder / SCORES))
    except (OSError, ValueError, RecursionError):
        return None
    is_whole = isinstance(facts, dict) and facts.get("epochs") == len(checkpoint.history)
    is_whole = is_whole and (not tested or "test/accuracy" in facts)
    is_same_length = config.training.epochs == checkpoint.config.training.epochs
    if not (is_whole and is_same_length and is_folder_of(config, folder, Path(config.models_dir))):
        return None
    print_message(f"{folder} is finished after {counted(facts['epochs'], 'epoch')}; nothing was changed")
    return {name: value for name, value in facts.items() if isinstance(value, int | float)}


def refuse_without_end(checkpoint: Checkpoint, config: Config) -> None:
    """Refuse a copy of a checkpoint whose training has ended: there would be no epoch to train, and none to test.

    Raises:
        UsageError: All epochs are done, and the best one is neither in its run folder nor beside it.
    """
    is_whole = len(checkpoint.history) >= config.training.epochs
    is_copy = not is_folder_of(config, checkpoint.path.parent, Path(config.models_dir))
    if is_whole and is_copy and not has_best_beside(checkpoint):
        raise UsageError(
            f"{checkpoint.path} has all its {counted(len(checkpoint.history), 'epoch')}, so nothing is left to train; "
            f"to test it: {command_line('evaluate', checkpoint_name=str(checkpoint.path))}"
        )


def _load_resumable(path: Path) -> Checkpoint:
    """Return the checkpoint at `path`; if that is a damaged `last.ckpt`, the `best.ckpt` beside it, with a message.

    Raises:
        CheckpointError: It cannot be resumed, and neither can the other.
    """
    try:
        require_training_state(path)
        return load_checkpoint(path)
    except CheckpointError as error:
        before = path.with_name(BEST)
        if path.name != LAST or not before.is_file():
            raise
        try:
            require_training_state(before)
            checkpoint = load_checkpoint(before)
        except CheckpointError:
            raise error from None
        epochs = counted(len(checkpoint.history), "epoch")
        print_message(f"warning: {error}; the run goes on from {before}, after {epochs}")
        return checkpoint


def _resumed_config(checkpoint: Checkpoint, config: Config, changes: Sequence[str]) -> Config:
    """Return the checkpoint's configuration with `changes`.

    A checkpoint outside of `config.models_dir` may be a stranger's: folder and tracking are then those of `config`. Its
    data are not downloaded from the sources that it names.
    """
    base = checkpoint.config.model_copy(update={"models_dir": config.models_dir})
    if not is_folder_of(base, checkpoint.path.parent, Path(config.models_dir)):
        base = base.model_copy(update={"tracking": config.tracking, "run_name": None})
    base = base.model_copy(update={"data_loading": without_sources(base.data_loading)})
    resumed = with_changes(base, [change for change in changes if not change.startswith("models_dir=")])
    _refuse_unknown_store(checkpoint, resumed.tracking, config.tracking)
    return resumed


def _refuse_unknown_store(checkpoint: Checkpoint, tracking: TrackingConfig, typed: TrackingConfig) -> None:
    """Refuse to record in a store that is named by the run's files and not `typed` here: they may be a stranger's."""
    unknown = {} if tracking.backend == "none" else unknown_settings(tracking)
    unknown = {key: uri for key, uri in unknown.items() if getattr(typed, key.removeprefix("tracking.")) != uri}
    if unknown:
        named = " and ".join(f"{key}={shown_uri(uri)}" for key, uri in unknown.items())
        words = [setting(key, uri) for key, uri in unknown.items()]
        again = command_line("train", *words, resume=str(checkpoint.path))
        raise UsageError(
            f"{checkpoint.path.parent} says {named}, which is not configured here; if that store is yours: {again}\n"
            "else add where to record it: tracking=mlflow, tracking=server or tracking=none"
        )


def _refuse_other_settings(checkpoint: Checkpoint, config: Config) -> None:
    then, now = lasting_settings(checkpoint.config), lasting_settings(config)
    for key in sorted({*then, *now}):
        if then.get(key) != now.get(key):
            raise UsageError(
                f"{checkpoint.path.parent} was begun with {key}={then.get(key)}, not {now.get(key)}; "
                "set it as it was, or choose another run_name"
            )


def _refuse_other_steps(checkpoint: Checkpoint, config: Config) -> None:
    """Refuse settings that would change learning rate or image size of completed steps, or the counting of steps."""
    folder, before, now = checkpoint.path.parent, checkpoint.config.training, config.training
    is_constant = config.schedule.target.endswith(".Constant") and not config.schedule.arguments.get("warmup")
    anew = [f"weights={checkpoint.path}", *same_data_and_network(checkpoint.config.plain())]
    if now.epochs != before.epochs and (not is_constant or now.resizing):
        again = command_line("train", *anew, f"training.epochs={now.epochs}")
        raise UsageError(
            f"{folder} cannot be extended to {now.epochs} epochs: its learning rate and image sizes are laid out "
            f"for {before.epochs}; start a new run from its weights: {again}"
        )
    num_done = len(checkpoint.history)
    if now.epochs != before.epochs and now.epochs < num_done:
        raise UsageError(f"training.epochs={now.epochs}: {checkpoint.path} has {counted(num_done, 'epoch')} behind it")
    if before.chunked != now.chunked:
        again = command_line("train", *anew, f"training.devices={now.devices}", f"training.num_nodes={now.num_nodes}")
        raise UsageError(
            f"{folder} cannot resume with {now.num_processes} processes: it was begun with "
            f"{before.num_processes}, and one process alone makes many steps at a time; start a new run from its "
            f"weights: {again}"
        )

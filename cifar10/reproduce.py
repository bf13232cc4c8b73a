"""Entry point of `reproduce`: a run -> its settings, seed and data -> the same training again -> the same network?

The new run is an ordinary one, with `reproduction.json` in its folder.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

from cifar10.analysis.reproduction import Verdict, judge, may_differ
from cifar10.analysis.score_spread import spread_of
from cifar10.config.advice import command_line
from cifar10.config.compose import with_changes
from cifar10.config.run_name import MLFLOW_RUN_ID
from cifar10.config.schema import Config, TrackingConfig
from cifar10.data.class_names import printable
from cifar10.data.image_dataset import ImageDataset
from cifar10.errors import UsageError
from cifar10.files import write_text
from cifar10.probe import probe
from cifar10.runs.checkpoint_names import BEST, LAST, resolve_checkpoint
from cifar10.runs.checkpoints import Checkpoint, load_checkpoint
from cifar10.runs.folder import SCORES
from cifar10.runs.known_stores import unknown_settings
from cifar10.runs.run_claims import (
    ACCURACIES,
    PLAIN,
    Difference,
    RunClaims,
    differences_here,
    first_other_epoch,
    read_scores,
    recorded_threads,
    seed_siblings,
    used_gpu,
)
from cifar10.runs.stopwatch import Stopwatch
from cifar10.runs.trained_data import load_trained_data, moved_line, without_sources
from cifar10.system.limits import num_cpus
from cifar10.system.memory import keep_memory_warm
from cifar10.system.signals import Stopped, if_stopped
from cifar10.system.streams import print_message
from cifar10.train import train
from cifar10.trainer import prepare_cpu, resolve_accelerator, resolve_precision
from cifar10.training.testing import Tester
from cifar10.wording import counted

VERDICT = "reproduction.json"
_LONGEST_NAME = 100  # characters of the name of a run, to which more is added
_ROUNDING = 0.001  # of an accuracy, between machines and versions; of few test images, one may be answered otherwise
_SAME_NUMBER = 1e-9


def reproduce(
    checkpoint_name: str,
    config: Config,
    overrides: Sequence[str] = (),
    resume: str | None = None,
    stopwatch: Stopwatch | None = None,
) -> bool:
    """Train a run again from what it says of itself, print whether the result is the same, and return it.

    Args:
        checkpoint_name: As for `resolve_checkpoint`.
        config: Where to keep the new run: `models_dir`, `run_name`, and `tracking` if the run's own store is not known.
        overrides: Where the data are now, and settings of `config` that were typed.
        resume: The name of an earlier reproduction that was interrupted; None: begin a new one.
        stopwatch: Runs since the program was started.

    Raises:
        UsageError: The run is not finished, or `resume` names another run.
        UserError: The checkpoint or its data cannot be used, or the training failed.
    """
    claims = RunClaims.of(load_checkpoint(resolve_checkpoint(checkpoint_name)))
    if not claims.is_finished:
        line = command_line("train", resume=str(claims.checkpoint.path.parent))
        if (claims.checkpoint.path.parent / SCORES).exists():
            raise UsageError(f"{SCORES} of {checkpoint_name} is damaged; this writes it again: {line}")
        raise UsageError(f"{checkpoint_name} is not finished, so there is nothing to compare with; resume it: {line}")
    if resume is not None and claims.folder is not None:
        _refuse_itself(Path(config.models_dir) / resume, claims.folder)
    if contradictions := claims.contradictions():
        shown = "; ".join(contradictions[:3]) + (f"; and {len(contradictions) - 3} more" if contradictions[3:] else "")
        return _tell(
            Verdict(False, f"the files of {checkpoint_name} contradict each other, so nothing was trained: {shown}")
        )
    keep_memory_warm()
    repeated = _repeated(claims, config, overrides, resume or _free_name(claims, checkpoint_name, config))
    data = load_trained_data(claims.checkpoint, repeated.data_loading, moved_line("reproduce", checkpoint_name))
    if data.digest != claims.checkpoint.data_digest:
        then, now = claims.checkpoint.data_digest[:12], data.digest[:12]
        reason = (
            f"the data are not those that it was trained on (SHA-256 {then} then, {now} now), so nothing was trained"
        )
        return _tell(Verdict(False, reason))
    if (other := _other_start(claims, repeated)) is not None:
        return _tell(Verdict(False, f"{other}, so nothing was trained"))
    prepare_cpu(repeated.training)
    differences = _differences(claims, repeated)
    _announce(claims, checkpoint_name, differences, repeated)
    folder = Path(repeated.models_dir) / str(repeated.run_name)
    kept = [word for word in overrides if not word.startswith(("run_name=", "models_dir="))]
    again = command_line("reproduce", checkpoint_name, *kept, resume=folder.name, models_dir=config.models_dir)
    _train(repeated, data, folder, again, stopwatch, is_resumed=resume is not None)
    with if_stopped(f"while the two runs were compared; repeat that with: {again}"):
        verdict, facts = _compare(claims, folder, data, differences)
    write_text(folder / VERDICT, f"{json.dumps({'of': checkpoint_name, **asdict(verdict), **facts}, indent=1)}\n")
    return _tell(verdict)


def _tell(verdict: Verdict) -> bool:
    print(verdict, flush=True)
    return verdict.is_reproduced


# -- the same training -------------------------------------------------------------------------------------------------


def _refuse_itself(folder: Path, original: Path) -> None:
    """Raise UsageError if a run is to be its own reproduction: its weights are the same in any case."""
    if folder.is_dir() and folder.samefile(original):
        raise UsageError(f"--resume={folder.name}: this is the run itself; leave out --resume to train it again")


def _repeated(claims: RunClaims, config: Config, overrides: Sequence[str], name: str) -> Config:
    """Return the configuration of the run, in a new folder, and with what was chosen by itself then as it was then."""
    recorded = claims.last.config
    base = recorded.model_copy(
        update={
            "data_loading": without_sources(recorded.data_loading),
            "training": recorded.training.model_copy(update=_as_then(claims)),
            "tracking": _tracking(recorded.tracking, config.tracking, overrides),
            "models_dir": config.models_dir,
            "run_name": name,
        }
    )
    located = [word for word in overrides if word.startswith("data_loading.")]
    return with_changes(base, located) if located else base


def _as_then(claims: RunClaims) -> dict[str, Any]:
    """Return settings of the section `training` that were left to the program then, as they were; one process."""
    training = claims.last.config.training
    update: dict[str, Any] = {"devices": 1, "num_nodes": 1}
    if training.accelerator == "auto" and not used_gpu(claims) and claims.machine:
        update["accelerator"] = "cpu"
    if training.accelerator == "gpu":
        update["accelerator"] = "auto"
    is_gpu = resolve_accelerator(training.model_copy(update=update)) == "gpu"
    if training.precision == "auto" and is_gpu == used_gpu(claims):
        update["precision"] = claims.checkpoint.precision
    threads = recorded_threads(claims)
    prepare_cpu(training.model_copy(update=update))
    if threads is not None and training.threads is None and threads <= num_cpus():
        update["threads"] = threads
    return update


def _tracking(recorded: TrackingConfig, chosen: TrackingConfig, overrides: Sequence[str]) -> TrackingConfig:
    """Return the store that was typed, else the run's own if it is configured here, else the one configured here."""
    if any(word.startswith("tracking") for word in overrides):
        return chosen
    return recorded if recorded.backend == "none" or not unknown_settings(recorded) else chosen


def _free_name(claims: RunClaims, checkpoint_name: str, config: Config) -> str:
    """Return the name of the new run: the one that was typed, or one that is not taken."""
    if config.run_name is not None:
        return config.run_name
    if claims.folder is not None:
        own = claims.folder.name
    elif MLFLOW_RUN_ID.fullmatch(checkpoint_name):
        own = checkpoint_name[:8]
    else:
        own = checkpoint_name.removeprefix("models:/").removeprefix("runs:/").removesuffix(".ckpt").rpartition("/")[2]
    plain = re.sub(r"[^\w.+-]", "_", own).lstrip(".+-")[:_LONGEST_NAME] or "run"
    names = (f"{plain}-reproduced" + (f"-{number}" if number > 1 else "") for number in count(1))
    return next(name for name in names if not (Path(config.models_dir) / name).exists())


def _other_start(claims: RunClaims, repeated: Config) -> str | None:
    """Return what is wrong with the weights that the training starts from; None: they are the same, or random."""
    then = claims.checkpoint.metadata.initial_weights
    if repeated.weights is None or then is None:
        return None
    initial = load_checkpoint(resolve_checkpoint(repeated.weights, repeated.models_dir))
    if initial.weights_digest == then:
        return None
    return f"it started from the weights {then[:12]}, and {initial.path} has {initial.weights_digest[:12]} now"


def _differences(claims: RunClaims, repeated: Config) -> list[Difference]:
    import torch

    then, now = claims.last.config.training, repeated.training
    found = differences_here(claims, resolve_precision(repeated), torch.get_num_threads())
    if then.num_processes > 1:
        found.append(Difference("processes", str(then.num_processes), "1", matters=True))
    if resolve_accelerator(now) == "gpu":
        found.append(Difference("GPU", "rounding that depends on the order of sums", "likewise", matters=True))
    return found


def _announce(claims: RunClaims, name: str, differences: Sequence[Difference], repeated: Config) -> None:
    """Print what is trained, how long it took, what differs here, and what can be expected."""
    epochs = counted(repeated.training.epochs, "epoch")
    took = (
        ""
        if claims.seconds is None
        else f"; it took {claims.seconds:,.0f} s on {claims.machine.get('cpu', 'its machine')}"
    )
    print_message(f"trains {printable(name)} again, seed {repeated.seed}, {epochs}{printable(took)}")
    for difference in differences:
        print_message(f"differs  {printable(str(difference))}")
    if may_differ(differences):
        print_message("expected: scores within the recipe's spread; the same weights bit by bit only by luck")
    else:
        print_message(
            "expected: the same weights, bit by bit: code, versions, kind of processor and threads are the same"
        )


def _train(
    config: Config, data: ImageDataset, folder: Path, again: str, stopwatch: Stopwatch | None, is_resumed: bool
) -> None:
    """Train the run in `folder`, unless it is finished; `again` is the line to type if it is stopped."""
    if config.probe is not None:
        if not (folder / SCORES).is_file():
            probe(config, stopwatch)
        return
    try:
        train(config, resume="auto", stopwatch=stopwatch, data=data)
    except Stopped as stop:
        if (folder / LAST).is_file():
            stop.kept = f"and saved; go on with: {again}"
        raise
    except UsageError as error:
        if not is_resumed:
            raise
        raise UsageError(f"{error}\n--resume={folder.name}: if it is no reproduction, leave --resume out") from None


# -- the comparison ----------------------------------------------------------------------------------------------------


def _compare(
    claims: RunClaims, folder: Path, data: ImageDataset, differences: Sequence[Difference]
) -> tuple[Verdict, dict[str, Any]]:
    """Return the verdict, and the facts it rests on."""
    old, new = claims.checkpoint, _counterpart(claims.checkpoint, folder)
    is_same = old.weights_digest == new.weights_digest
    again = {key: float(value) for key, value in read_scores(folder).items() if key in ACCURACIES}
    measured = again if is_same else _tested(old, data, folder)
    now, then = again[PLAIN], measured[PLAIN]
    siblings = seed_siblings(claims, _places(claims, folder))
    spread = spread_of(then, len(data.test), list(siblings.values()))
    same = "the same, bit by bit" if is_same else "others"
    print(f"weights   {old.weights_digest[:12]} then, {new.weights_digest[:12]} now: {same}")
    print(f"accuracy  {then:.2%} then, {now:.2%} now, one view", flush=True)
    facts = {
        "weights": {"then": old.weights_digest, "now": new.weights_digest},
        "accuracy": {"then": then, "recorded": claims.accuracies.get(PLAIN), "now": now},
        "spread": asdict(spread),
        "differences": [asdict(difference) for difference in differences],
    }
    tolerance = max(_ROUNDING, 1 / len(data.test)) if may_differ(differences) else 0.0
    if old.path.name == BEST and (wrong := _wrong_accuracy(claims.accuracies, measured, tolerance)):
        return Verdict(False, wrong), facts
    if is_same:
        return Verdict(True, f"{folder} has the same weights, bit by bit"), facts
    return judge(then, now, spread, differences, first_other_epoch(claims.last.history, new.history)), facts


def _wrong_accuracy(recorded: Mapping[str, float], measured: Mapping[str, float], tolerance: float) -> str | None:
    """Return which recorded accuracy is not that of the recorded weights; None: none."""
    for key, accuracy in recorded.items():
        if key in measured and not abs(accuracy - measured[key]) <= tolerance + _SAME_NUMBER:  # NaN is wrong too
            kind = "" if key == PLAIN else " with test-time augmentation"
            return f"its weights have an accuracy of {measured[key]:.2%}{kind}, and {SCORES} says {accuracy:.2%}"
    return None


def _counterpart(old: Checkpoint, folder: Path) -> Checkpoint:
    """Return the checkpoint of the new run that corresponds to the old one: of that name, else of that epoch."""
    if old.path.name in (BEST, LAST):
        return load_checkpoint(folder / old.path.name)
    best = load_checkpoint(folder / BEST)
    return best if len(best.history) == len(old.history) else load_checkpoint(folder / LAST)


def _tested(checkpoint: Checkpoint, data: ImageDataset, folder: Path) -> dict[str, float]:
    """Return the accuracies of a checkpoint on the test images."""
    config = checkpoint.config
    quiet = config.model_copy(update={"tracking": config.tracking.model_copy(update={"tensorboard": False})})
    tester = Tester.of(dataclasses.replace(checkpoint, config=quiet), data, folder)
    scores: Mapping[str, float] = tester.answers(data.test, "test")[0]
    return {key: float(scores[key]) for key in ACCURACIES if key in scores}


def _places(claims: RunClaims, folder: Path) -> list[Path]:
    own = claims.folder
    return [folder.parent, *([own.parent] if own is not None else [])]

"""What a run says of itself, for training it again: origin, contradictions between its files, runs beside it.

A run is described twice and more: its configuration is in the checkpoints and in `config.yaml`, its epochs in the
checkpoints and in `history.csv`, its weights in `best.ckpt` and, by their digest, in `scores.json`. If these disagree,
one of them was changed after the training.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cifar10.config.schema import Config
from cifar10.config.validation import validate
from cifar10.files import read_text
from cifar10.runs.checkpoint_names import BEST, LAST
from cifar10.runs.checkpoints import Checkpoint, load_checkpoint
from cifar10.runs.folder import CONFIG, HISTORY, SCORES, lasting_settings, read_settings
from cifar10.runs.provenance import code_state, machine, versions
from cifar10.runs.recorded_run import read_history
from cifar10.types import Metrics
from cifar10.wording import counted

_IRRELEVANT_VERSIONS = ("python", "mlflow")  # for the weights
_UNKNOWN = "not recorded"
PLAIN = "test/accuracy"
"""Score of a run: of one view."""
ACCURACIES = (PLAIN, "test/accuracy_tta")
"""Scores of a run: of one view, and with test-time augmentation."""


@dataclass(frozen=True, eq=False)
class RunClaims:
    """A run that is to be trained again."""

    checkpoint: Checkpoint
    """As it was named."""
    last: Checkpoint
    """`last.ckpt` of the run, with all epochs; the checkpoint itself if there is no other."""
    scores: Mapping[str, Any]
    """The content of `scores.json`; empty if there is none."""

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "RunClaims":
        """Return what the files beside a checkpoint say, if it is in a run folder.

        Raises:
            CheckpointError: `last.ckpt` is damaged.
        """
        if not _is_in_run(checkpoint):
            return cls(checkpoint, checkpoint, {})
        beside = checkpoint.path.with_name(LAST)
        is_other = checkpoint.path.name != LAST and beside.is_file()
        return cls(checkpoint, load_checkpoint(beside) if is_other else checkpoint, read_scores(checkpoint.path.parent))

    @property
    def folder(self) -> Path | None:
        """The run folder, if the checkpoint is in one."""
        return self.checkpoint.path.parent if _is_in_run(self.checkpoint) else None

    @property
    def is_finished(self) -> bool:
        """Whether training and test are complete, as far as the files tell."""
        return self.folder is None or bool(self.scores) or not (self.folder / LAST).is_file()

    @property
    def machine(self) -> Mapping[str, Any]:
        """The machine of the training; empty if it was not recorded."""
        recorded = self.checkpoint.metadata.machine or self.scores.get("machine")
        return recorded if isinstance(recorded, dict) else {}

    @property
    def seconds(self) -> float | None:
        """How long it took."""
        seconds = self.scores.get("wall_seconds")
        return float(seconds) if isinstance(seconds, int | float) and math.isfinite(seconds) else None

    @property
    def accuracies(self) -> dict[str, float]:
        """The recorded accuracies on the test images: of one view, and with test-time augmentation."""
        found = {key: self.scores.get(key) for key in ACCURACIES}
        return {key: float(value) for key, value in found.items() if isinstance(value, int | float)}

    def contradictions(self) -> list[str]:
        """Return what the files of the run say differently, a line each."""
        found = []
        if self.last is not self.checkpoint:
            found += _differences(self.checkpoint.path.name, self.checkpoint.config, LAST, self.last.config)
            found += _other_epochs(self.checkpoint, self.last.history, LAST)
        if self.folder is None:
            return found
        written = _written_config(self.folder)
        if isinstance(written, str):
            found.append(written)
        elif written is not None:
            found += _differences(CONFIG, written, self.last.path.name, self.last.config)
            epochs = written.training.epochs, self.last.config.training.epochs
            if epochs[0] != epochs[1]:
                found.append(f"training.epochs is {epochs[0]} in {CONFIG}, {epochs[1]} in {self.last.path.name}")
        history = _written_history(self.folder)
        found += _other_epochs(self.last, history, HISTORY) or _other_number_of_epochs(self.last, history)
        return found + self._other_facts()

    def _other_facts(self) -> list[str]:
        """Return what `scores.json` says differently from the checkpoint that it is about."""
        best = self.checkpoint
        if self.folder is not None and best.path.name != BEST and (self.folder / BEST).is_file():
            best = load_checkpoint(self.folder / BEST)
        facts = {"seed": best.config.seed, "data_digest": best.data_digest}
        if best.path.name == BEST:
            facts["weights_digest"] = best.weights_digest
        return [
            f"{key} is {_short(self.scores[key])} in {SCORES}, {_short(value)} in {best.path.name}"
            for key, value in facts.items()
            if key in self.scores and self.scores[key] != value
        ]


@dataclass(frozen=True)
class Difference:
    """Something that is not as it was."""

    what: str
    then: str
    now: str
    matters: bool
    """Whether the weights may differ in bits because of it."""

    def __str__(self) -> str:
        return f"{self.what}: {self.then} then, {self.now} now"


def differences_here(claims: RunClaims, precision: str, threads: int) -> list[Difference]:
    """Return what differs between the training of a run and a training here and now: code, versions, machine.

    Args:
        claims: The run.
        precision: Of a training here.
        threads: Of a training here.
    """
    metadata, code = claims.checkpoint.metadata, code_state()
    now = {"code": code["code_digest"], "precision": precision, "threads": str(threads), **_machine(machine())}
    then = {
        "code": metadata.code_digest,
        "precision": metadata.precision,
        "threads": _threads(claims),
        **_machine(claims.machine),
    }
    pairs = [(what, then.get(what), now.get(what), True) for what in now]
    for name, number in versions().items():
        pairs.append((name, metadata.versions.get(name), number, name not in _IRRELEVANT_VERSIONS))
    several = [Difference("origin", "several versions or machines, as it was resumed", "one", matters=True)]
    return (several if claims.last.metadata.several_origins else []) + [
        Difference(what, _short(old) if old else _UNKNOWN, _short(new) if new else "none", matters)
        for what, old, new, matters in pairs
        if (old or None) != (new or None)
    ]


def recorded_threads(claims: RunClaims) -> int | None:
    """Return how many threads computed the run; None if it was not recorded."""
    return claims.checkpoint.metadata.threads or claims.checkpoint.config.training.threads


def used_gpu(claims: RunClaims) -> bool:
    """Whether the run was trained on a GPU, as far as it was recorded."""
    return claims.checkpoint.config.training.accelerator != "cpu" and bool(claims.machine.get("gpu"))


def seed_siblings(claims: RunClaims, folders: Sequence[Path]) -> dict[int, float]:
    """Return seed -> accuracy on the test images, one view, of finished runs that differ by their seed only.

    Args:
        claims: The run; it is not among them.
        folders: Folders of run folders.
    """
    own = _recipe(claims.last.config)
    found: dict[int, float] = {}
    places = {scores.parent.resolve() for folder in folders for scores in folder.glob(f"*/{SCORES}")}
    for run in sorted(places):
        scores, written = read_scores(run), _written_config(run)
        accuracy = scores.get("test/accuracy")
        if not isinstance(written, Config) or not isinstance(accuracy, int | float):
            continue
        is_sibling = _recipe(written) == own and scores.get("data_digest") == claims.checkpoint.data_digest
        if is_sibling and written.seed != claims.last.config.seed:
            found.setdefault(written.seed, float(accuracy))
    return found


def first_other_epoch(then: Sequence[Metrics], now: Sequence[Metrics]) -> str | None:
    """Return where two histories begin to differ, such as `epoch 2: train/loss 1.3 then, 1.4 now`; None: nowhere."""
    for number, (old, new) in enumerate(zip(then, now, strict=False), start=1):
        for key, value in old.items():
            if key.startswith(("train/", "val/")) and key in new and _is_other(value, new[key]):
                return f"epoch {number}: {key} {value:.6g} then, {new[key]:.6g} now"
    return None


def read_scores(folder: Path) -> dict[str, Any]:
    """Return the content of `scores.json`; nothing if it cannot be read."""
    try:
        facts = json.loads(read_text(folder / SCORES))
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _is_in_run(checkpoint: Checkpoint) -> bool:
    path = checkpoint.path
    return path.name in (BEST, LAST) and any((path.parent / name).is_file() for name in (CONFIG, SCORES))


def _recipe(config: Config) -> dict[str, Any]:
    """Return the settings of a recipe; threads and precision may have been fixed by a reproduction."""
    settings = {**lasting_settings(config), "training.epochs": config.training.epochs}
    return {
        key: value for key, value in settings.items() if key not in ("seed", "training.threads", "training.precision")
    }


def _written_config(folder: Path) -> Config | str | None:
    """Return what `config.yaml` says, or what is wrong with it; None if there is none."""
    if not (folder / CONFIG).is_file():
        return None
    try:
        return validate(Config, read_settings(folder))
    except (OSError, TypeError, ValueError, RecursionError, yaml.YAMLError):  # a ValidationError is a ValueError
        return f"{CONFIG} is no configuration"


def _written_history(folder: Path) -> list[dict[str, float]]:
    try:
        return read_history(folder / HISTORY)
    except (OSError, ValueError, csv.Error):
        return []


def _differences(name: str, one: Config, other_name: str, other: Config) -> list[str]:
    ours, theirs = lasting_settings(one), lasting_settings(other)
    return [
        f"{key} is {_short(ours.get(key))} in {name}, {_short(theirs.get(key))} in {other_name}"
        for key in sorted({*ours, *theirs})
        if ours.get(key) != theirs.get(key)
    ]


def _other_number_of_epochs(checkpoint: Checkpoint, written: Sequence[Metrics]) -> list[str]:
    """Return that a finished run has another number of epochs in `history.csv`; nothing if there is no such file."""
    numbers = len(written), len(checkpoint.history)
    is_other = bool(written) and checkpoint.path.name == LAST and numbers[0] != numbers[1]
    return [f"{HISTORY} has {counted(numbers[0], 'epoch')}, {LAST} has {numbers[1]}"] if is_other else []


def _other_epochs(checkpoint: Checkpoint, others: Sequence[Metrics], name: str) -> list[str]:
    for number, (own, other) in enumerate(zip(checkpoint.history, others, strict=False), start=1):
        for key, value in own.items():
            if key in other and _is_other(value, other[key]):
                values = f"{other[key]:.6g} in {name}, {value:.6g} in {checkpoint.path.name}"
                return [f"{key} of epoch {number} is {values}"]
    return []


def _is_other(one: float, other: float) -> bool:
    return math.isfinite(one) and math.isfinite(other) and one != other


def _threads(claims: RunClaims) -> str | None:
    threads = recorded_threads(claims)
    return None if threads is None else str(threads)


def _machine(recorded: Mapping[str, Any]) -> dict[str, str]:
    flags = recorded.get("flags")
    return {
        "processor": str(recorded.get("cpu") or ""),
        "instruction sets": " ".join(map(str, flags)) if isinstance(flags, list) else "",
        "GPU": str(recorded.get("gpu") or ""),
    }


def _short(value: object) -> str:
    text = str(value)
    is_digest = len(text) == 64 and all(letter in "0123456789abcdef" for letter in text)
    return text[:12] if is_digest else text[:200]

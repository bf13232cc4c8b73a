"""The folder of a comparison, and the runs in it.

models/NAME/            the winner, as an ordinary run
    laboratory/         settings.yaml   curves.png   report.html   results.json   worker-0.log
        WAY-SEED/       the run of a way with a seed
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cifar10.config.foreign_yaml import parse_yaml
from cifar10.config.schema import Component, Config, PoolingConfig, flatten
from cifar10.config.validation import validate
from cifar10.errors import UsageError
from cifar10.files import read_text, write_text
from cifar10.runs.checkpoint_names import BEST
from cifar10.runs.folder import SCORES, RunFolder, claim_existing, lasting_settings

LABORATORY = "laboratory"
_SETTINGS = "settings.yaml"
_CHANGEABLE = ("pooling.seeds", "pooling.redraw_every", "pooling.workers", "training.epochs", "seed")
"""Settings that may change when a comparison is continued; of several machines, those that a run may change."""


@dataclass(frozen=True)
class Laboratory:
    """A claimed folder."""

    claim: RunFolder
    config: Config

    @property
    def winner(self) -> Path:
        """The folder of the winner's run."""
        return self.claim.path

    @property
    def folder(self) -> Path:
        """The folder of runs and results."""
        return self.winner / LABORATORY

    @property
    def pooling(self) -> PoolingConfig:
        assert self.config.pooling is not None
        return self.config.pooling

    @property
    def runs(self) -> dict[str, tuple[str, int]]:
        """Name of each run -> way and seed; the ways take turns, so that a stopped comparison has some of each."""
        return {f"{way}-{seed}": (way, seed) for seed in self.pooling.seeds for way in self.pooling.ways}

    def config_of(self, name: str) -> Config:
        """Return the configuration of a run: of an ordinary one, which MLflow learns of when all are trained."""
        way, seed = self.runs[name]
        return self.config.model_copy(
            update={
                "model": self.model_of(way),
                "seed": seed,
                "run_name": name,
                "models_dir": str(self.folder),
                "tracking": self.config.tracking.model_copy(update={"backend": "none"}),
                "pooling": None,
            }
        )

    def model_of(self, way: str) -> Component:
        """Return the network of a way."""
        return self.config.model.model_copy(update={"target": self.pooling.ways[way]})

    def finished(self) -> list[str]:
        """Return the runs that have been trained and tested."""
        return [name for name in self.runs if (self.folder / name / SCORES).is_file()]


def open_laboratory(config: Config, must_exist: bool) -> Laboratory:
    """Claim the folder of a new comparison, or of one that is continued.

    Args:
        config: With `pooling` and `run_name`.
        must_exist: Refuse to begin a new one.

    Raises:
        UsageError: The folder belongs to something else, or to a comparison with other settings; or there is none.
    """
    assert config.run_name is not None
    path = Path(config.models_dir) / config.run_name
    known = path / LABORATORY / _SETTINGS
    if not known.is_file():
        if must_exist:
            raise UsageError(f"there is no comparison in {path} to resume; begin it without --resume")
        if any((path / name).exists() for name in (BEST, SCORES)):
            raise UsageError(f"{path} holds a run, which is not changed; choose another run_name")
    claim = claim_existing(path)
    try:
        if known.is_file():
            _refuse_other_settings(known, config)
        (path / LABORATORY).mkdir(exist_ok=True)
        write_text(known, yaml.safe_dump(config.plain(), sort_keys=False, allow_unicode=True))
    except BaseException:
        claim.release()
        raise
    return Laboratory(claim, config)


def _refuse_other_settings(known: Path, config: Config) -> None:
    before, now = _settings(_read(known)), _settings(config)
    for key in sorted({*before, *now}):
        is_new_way = key.startswith("pooling.ways.") and not (key in before and key in now)
        if before.get(key) != now.get(key) and not is_new_way:
            raise UsageError(
                f"{known.parent.parent} was begun with {key}={before.get(key)}, not {now.get(key)}; set it as it was, "
                "or choose another name: run_name=NAME"
            )


def _read(path: Path) -> Config:
    try:
        return validate(Config, parse_yaml(read_text(path)))
    except (OSError, TypeError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read: {str(error).splitlines()[0]}; choose another run_name") from None


def _settings(config: Config) -> Mapping[str, Any]:
    """Return what must stay the same; the networks as a whole."""
    flat = flatten({key: value for key, value in config.plain().items() if key == "pooling"})
    lasting = {key: value for key, value in lasting_settings(config).items() if not key.startswith("pooling.")}
    return {key: value for key, value in {**lasting, **flat}.items() if key not in _CHANGEABLE}

"""What a sweep will do, validated as a whole before anything starts: settings, search space, name of the study."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cifar10.config.advice import setting
from cifar10.config.compose import ConfigError, load_config
from cifar10.config.conf_folder import groups
from cifar10.config.run_name import refusal_of_run_name
from cifar10.config.schema import Config, flatten
from cifar10.config.search_space import SearchSpace, Values, grid_of, lists_of, read_space
from cifar10.errors import UsageError

METRIC = "val/accuracy"
"""What is compared if `training.monitor` is null."""

_DEFAULT = "default"
_MOST_GROUPS = 64  # combinations of groups of which each is validated with the other parameters
_OWN = {"pooling": "that is for compare_pooling", "run_name": "--study=NAME names the trials"}
_SAME = {
    "data_loading": "they would be compared on different images",
    "training.monitor": "they would be compared by different metrics",
    "training.devices": "each trial is one process; start several sweeps on one study instead",
    "training.num_nodes": "each trial is one process; start several sweeps on one study instead",
    "tracking": "they belong to one study",
    "models_dir": "they belong to one study",
    "run_name": "they are named trial-0000, trial-0001 and so on",
    "probe": "a linear probe is fitted, not trained",
    "pooling": "that is for compare_pooling",
}
"""Settings, and sections of them, that all trials have in common, and why."""
_ADVICE = (
    "a search space is for one kind of optimizer and model; list values, KEY=A,B,C, or name another: sweep=FILE.yaml"
)
_MAY_DIFFER = ("data_loading.image_size", "data_loading.cache")


@dataclass(frozen=True)
class SweepPlan:
    """A sweep, validated.

    Args:
        study: Its name.
        words: Overrides that all trials have in common.
        config: Of `words`.
        space: What differs between trials.
        source: Where the space was read, for messages.
    """

    study: str
    words: tuple[str, ...]
    config: Config
    space: SearchSpace
    source: str

    @property
    def metric(self) -> str:
        """The score of the validation images by which trials are compared."""
        return self.config.training.monitor or METRIC

    def trial_words(self, values: Values) -> list[str]:
        """Return the overrides of a trial, groups first."""
        own = [setting(key, value) for key, value in values.items()]
        return [*self.words, *sorted(own, key=lambda word: word.partition("=")[0] not in groups())]

    def config_of(self, values: Values, run_name: str, folder: str) -> Config:
        """Return the configuration of the trial with these values, as a run in `folder`.

        Raises:
            ConfigError: The values do not go together.
        """
        config = load_config(self.trial_words(values))
        return config.model_copy(update={"run_name": run_name, "models_dir": folder})

    def facts(self) -> dict[str, Any]:
        """Return what must not change when a study goes on, as plain values by dotted keys."""
        space = {
            f"search space: {key}": parameter.model_dump(mode="json", exclude_defaults=True)
            for key, parameter in self.space.parameters.items()
        }
        moving = ("tracking", "models_dir", "data_loading.root", "data_loading.sources", "data_loading.cache")
        settings = flatten(self.config.plain())
        kept = {key: value for key, value in settings.items() if not _is_in(key, moving)}
        return {**space, **kept}


def plan_sweep(words: Sequence[str], study: str | None = None, trials: int | None = None) -> SweepPlan:
    """Return the sweep that the words of a command line describe.

    Args:
        words: `sweep=NAME`, overrides, and lists of values, which make a grid.
        study: Name of the study; None: after the search space.
        trials: Trainings in all; None: as the search space says.

    Raises:
        UsageError: with everything that is wrong.
    """
    chosen = [word.partition("=")[2] for word in words if word.partition("=")[0] == "sweep"]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(f'sweep={name}' for name in chosen)}: choose one")
    single, lists = lists_of([word for word in words if word.partition("=")[0] != "sweep"])
    if unknown := next((word for word in single if word.lstrip("+~").startswith("sweep.")), None):
        raise UsageError(f"{unknown}: a search space is changed in its file; name another one with sweep=FILE.yaml")
    if lists and chosen:
        raise UsageError(f"{', '.join(lists)}: lists of values make a grid of their own; leave out sweep={chosen[0]}")
    if lists and trials is not None:
        raise UsageError(f"--trials={trials}: a grid has as many trials as points; leave it out")
    name = chosen[0] if chosen else _DEFAULT
    space = grid_of(lists) if lists else read_space(name)
    if trials is not None:
        space = space.model_copy(update={"trials": trials})
    space = _without_fixed(space, single, f"sweep={name}")
    config = load_config(single)
    _refuse_unfit(config, single)
    stem = re.sub(r"\W", "_", name.rpartition("/")[2].removesuffix(".yaml").removesuffix(".yml"))
    study = study or ("sweep-grid" if lists else f"sweep-{stem}")
    _refuse_name(study)
    plan = SweepPlan(study, tuple(single), config, space, "the grid" if lists else f"sweep={name}")
    _refuse_impossible(plan)
    return plan


def _without_fixed(space: SearchSpace, words: Sequence[str], source: str) -> SearchSpace:
    """Return the space without the settings that the command line fixes."""
    fixed = {word.lstrip("+~").partition("=")[0] for word in words}
    free = {key: parameter for key, parameter in space.parameters.items() if key not in fixed}
    if space.is_grid and len(free) < len(space.parameters):
        doubled = next(key for key in space.parameters if key in fixed)
        raise UsageError(f"{doubled} is both fixed and listed; leave out one of them")
    if not free:
        raise UsageError(f"{', '.join(space.parameters)}: fixed here, and all that {source} searches; leave out one")
    return space.model_copy(update={"parameters": free})


def _refuse_unfit(config: Config, words: Sequence[str]) -> None:
    for key, reason in _OWN.items():
        if getattr(config, key) is not None:
            given = next((word for word in words if word.startswith(f"{key}=")), key)
            raise UsageError(f"{given}: {reason}; leave it out")
    if config.probe is not None:
        raise UsageError("probe: a linear probe has no epochs, and chooses its strength itself; run it once with train")
    if config.training.num_processes > 1:
        raise UsageError(f"training.devices and training.num_nodes: {_SAME['training.devices']}")
    for key in ("validation_size", "validation_fraction"):
        if config.data_loading.arguments.get(key) == 0:
            raise UsageError(f"data_loading.{key}=0: trials are compared on validation images; hold some out")


def _refuse_name(study: str) -> None:
    if not re.fullmatch(r"\w[\w.+-]*", study):
        raise UsageError(f"--study={study}: must be a plain folder name, of letters, digits and . _ + - only")
    if (refusal := refusal_of_run_name(study)) is not None:
        raise UsageError(f"--study={study} {refusal}")


def _refuse_impossible(plan: SweepPlan) -> None:
    """Validate samples of the search space: the choices of all groups in each combination, the others side by side."""
    parameters = plan.space.parameters
    of_groups = [[(key, value) for value in parameters[key].samples] for key in parameters if key in groups()]
    others = {key: parameter.samples for key, parameter in parameters.items() if key not in groups()}
    rounds = max(map(len, others.values()), default=1)
    problems: dict[str, None] = {}
    for combination in itertools.islice(itertools.product(*of_groups), _MOST_GROUPS):
        for number in range(rounds):
            values = {key: samples[min(number, len(samples) - 1)] for key, samples in others.items()}
            problems |= dict.fromkeys(_problems(plan, {**dict(combination), **values}))
    if problems:
        advice = [] if plan.space.is_grid or not any("no such setting" in each for each in problems) else [_ADVICE]
        raise ConfigError([*(f"{plan.source}: {problem}" for problem in problems), *advice])


def _problems(plan: SweepPlan, values: Mapping[str, Any]) -> list[str]:
    try:
        config = load_config(plan.trial_words(values))
    except ConfigError as error:
        return error.problems
    before, now = flatten(plan.config.plain()), flatten(config.plain())
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key) and not _is_in(key, _MAY_DIFFER)]
    return [
        f"{key} must be the same in all trials: {reason}"
        for key, reason in _SAME.items()
        if any(_is_in(each, (key,)) for each in changed)
    ]


def _is_in(key: str, sections: Sequence[str]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)

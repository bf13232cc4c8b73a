"""The values of settings as Optuna knows them, and its samplers and pruners."""

from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import Trial

from cifar10.config.advice import setting
from cifar10.config.search_space import Parameter, SearchSpace, Value, Values


def value_of(parameter: Parameter, label: Any) -> Value:
    """Return a value as it is set, from Optuna's, which keeps a list as text."""
    if parameter.choices is None:
        return label  # type: ignore[no-any-return]
    return next(choice for choice in parameter.choices if label_of(choice) == label)


def label_of(value: Value) -> Any:
    """Return a choice as Optuna keeps it: a list as text."""
    return setting("", value)[1:] if isinstance(value, list) else value


def labels_of(values: Values) -> dict[str, Any]:
    """Return the values of a trial as Optuna keeps them."""
    return {key: label_of(value) for key, value in values.items()}


def distribution_of(parameter: Parameter) -> BaseDistribution:
    """Return the values of a setting as Optuna describes them."""
    if parameter.choices is not None:
        return CategoricalDistribution([label_of(choice) for choice in parameter.choices])
    assert parameter.low is not None
    assert parameter.high is not None
    if parameter.is_whole:
        return IntDistribution(int(parameter.low), int(parameter.high), parameter.log, int(parameter.step or 1))
    return FloatDistribution(parameter.low, parameter.high, parameter.log, parameter.step)


def suggest(trial: Trial, key: str, parameter: Parameter) -> Value:
    """Return the value of a setting in this trial, drawn now unless it is known."""
    if parameter.choices is not None:
        return value_of(parameter, trial.suggest_categorical(key, [label_of(choice) for choice in parameter.choices]))
    assert parameter.low is not None
    assert parameter.high is not None
    if parameter.is_whole:
        low, high, step = int(parameter.low), int(parameter.high), int(parameter.step or 1)
        return trial.suggest_int(key, low, high, step=step, log=parameter.log)
    return trial.suggest_float(key, parameter.low, parameter.high, step=parameter.step, log=parameter.log)


def sampler_of(space: SearchSpace, seed: int) -> BaseSampler:
    """Return what draws values."""
    if space.sampler == "tpe":  # constant_liar: keep away from what other processes try now
        return TPESampler(n_startup_trials=space.startup_trials, constant_liar=True, seed=seed)
    if space.sampler == "gp":
        return GPSampler(n_startup_trials=max(1, space.startup_trials), seed=seed)
    return RandomSampler(seed=seed)


def pruner_of(space: SearchSpace, epochs: int) -> BasePruner:
    """Return what ends trials early, of at most `epochs` epochs."""
    if space.pruner == "median":
        return MedianPruner(n_startup_trials=space.startup_trials, n_warmup_steps=space.warmup_epochs)
    if space.pruner == "halving":
        return SuccessiveHalvingPruner()
    if space.pruner == "hyperband":
        return HyperbandPruner(max_resource=epochs)
    return NopPruner()

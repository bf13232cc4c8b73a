"""Read the results of a study out of its database."""

import math
from collections.abc import Mapping

import optuna
from optuna.exceptions import OptunaError
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from cifar10.analysis.sweep_results import State, SweepResults, TrialResult
from cifar10.studies.study import KILLED, REASON, ROOT, Study, num_killed
from cifar10.wording import counted

_STATES: Mapping[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
_LEAST = 4  # complete trials from which importance is computed; fewer say nothing


def read_results(
    study: Study, metric: str, is_higher_better: bool, test: Mapping[str, float] | None = None
) -> SweepResults:
    """Return what is known of a study now."""
    loaded = study.load()
    attempts: dict[int, list[FrozenTrial]] = {}
    for trial in loaded.get_trials(deepcopy=False):
        attempts.setdefault(trial.user_attrs[ROOT], []).append(trial)
    parameters = study.space.parameters
    return SweepResults(
        study=study.name,
        metric=metric,
        is_higher_better=is_higher_better,
        keys=list(parameters),
        logarithmic=frozenset(key for key, parameter in parameters.items() if parameter.log),
        choices=frozenset(key for key, parameter in parameters.items() if parameter.choices is not None),
        trials=[_result(root, attempts[root]) for root in sorted(attempts)],
        importance=_importance(loaded),
        test=dict(test or {}),
    )


def _result(root: int, attempts: list[FrozenTrial]) -> TrialResult:
    last = attempts[-1]
    state, reason = _STATES[last.state], str(last.user_attrs.get(REASON, ""))
    if last.state == TrialState.FAIL and not reason:
        killed = num_killed(attempts)
        state, reason = "killed", f"{KILLED}, {counted(killed, 'time')}"
    epochs = {step: value for step, value in sorted(last.intermediate_values.items()) if math.isfinite(value)}
    is_scored = last.state in (TrialState.COMPLETE, TrialState.PRUNED) and last.value is not None
    seconds = last.duration.total_seconds() if last.duration is not None else None
    return TrialResult(
        root,
        state,
        dict(last.params),
        last.value if is_scored else None,
        epochs,
        seconds,
        len(attempts) - (last.state == TrialState.WAITING),
        reason,
    )


def _importance(study: optuna.Study) -> dict[str, float]:
    """Return the share of each setting in the differences between complete trials; empty if they are too few."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    differing = {key for trial in complete for key in trial.params}
    if len(complete) < _LEAST or len({trial.value for trial in complete}) < 2 or len(differing) < 2:
        return {}
    try:
        return dict(get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0)))
    except (OptunaError, ValueError, RuntimeError):  # as of settings that never differ
        return {}

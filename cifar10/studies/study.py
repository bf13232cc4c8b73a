"""A study in its database: trials that wait, are claimed by one process each, and end.

The trials of a study are added when it begins, and wait. A process claims one after the other. So several processes
make no trial twice, and together as many as one would. Optuna draws the values when a trial is claimed, by what is
known then. If the process of a trial ends without a result, killed or stopped, Optuna's trial fails and another one
waits in its place: with the same values and the same name, so that its training is resumed.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import DuplicatedStudyError, OptunaError, UpdateFinishedTrialError
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from cifar10.config.advice import setting
from cifar10.config.search_space import SearchSpace, Values
from cifar10.errors import UsageError
from cifar10.studies.sampling import distribution_of, labels_of, pruner_of, sampler_of, suggest
from cifar10.studies.storage import HEARTBEAT_SECONDS, locked
from cifar10.system.process_identity import is_alive, this_process

ROOT, OWNER, REASON, STOPPED, FOLDER, PRUNED = "root", "owner", "reason", "stopped", "folder", "pruned"
"""Attributes of a trial: its number among those that were planned; its process; why it failed; whether a signal stopped
it; the folder of its run; whether it is to end early."""
_FACTS, _TRIALS = "facts", "trials"  # attributes of the study
_MOST_KILLED = 3  # processes that a trial may cost
KILLED = "its process was killed"


@dataclass(frozen=True)
class Study:
    """A study that exists.

    Args:
        storage: Its database.
        url: Address of the database.
        name: Of the study.
        space: What its trials try.
        seed: Of the samplers.
        epochs: Of the longest trial.
    """

    storage: RDBStorage
    url: str
    name: str
    space: SearchSpace
    seed: int
    epochs: int

    # -- the study ---------------------------------------------------------------------------------------------------

    def load(self, number: int = 0) -> optuna.Study:
        """Return Optuna's study, with all that is known now, and the sampler of trial `number`."""
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        sampler, pruner = sampler_of(self.space, seed), pruner_of(self.space, self.epochs)
        return optuna.load_study(study_name=self.name, storage=self.storage, sampler=sampler, pruner=pruner)

    def trials(self) -> list[FrozenTrial]:
        """Return the planned trials in order, each as its last attempt."""
        last: dict[int, FrozenTrial] = {}
        for trial in self.load().get_trials(deepcopy=False):
            last[trial.user_attrs[ROOT]] = trial
        return [last[root] for root in sorted(last)]

    @property
    def attributes(self) -> dict[str, Any]:
        """Return what was noted about the study."""
        return dict(self.load().user_attrs)

    def note(self, key: str, value: Any) -> None:
        """Note something about the study."""
        self.load().set_user_attr(key, value)

    def plan(self, number: int) -> None:
        """Add trials until there are `number`; those of a grid have its values."""
        with locked(self.url):
            study = self.load()
            study.set_user_attr(_TRIALS, number)
            known = {trial.user_attrs[ROOT] for trial in study.get_trials(deepcopy=False)}
            points = self.space.points() if self.space.is_grid else [{}] * number
            for root in sorted({*range(number)} - known):
                study.add_trial(_waiting(labels_of(points[root]), self.distributions, {ROOT: root}))

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Return the values of each setting as Optuna describes them."""
        return {key: distribution_of(parameter) for key, parameter in self.space.parameters.items()}

    # -- trials ------------------------------------------------------------------------------------------------------

    def claim(self) -> Trial | None:
        """Return a trial for this process, those first that another one has begun; None if none waits.

        Those whose process has ended wait again.
        """
        with locked(self.url):
            self._take_back()
            waiting = self.load().get_trials(deepcopy=False, states=(TrialState.WAITING,))
            for frozen in sorted(waiting, key=lambda trial: (FOLDER not in trial.user_attrs, trial.user_attrs[ROOT])):
                trial_id = self._id(frozen.number)
                try:
                    self.storage.record_heartbeat(trial_id)  # before it runs: a trial that runs has a sign of life
                    self.storage.set_trial_user_attr(trial_id, OWNER, this_process())
                    if not self.storage.set_trial_state_values(trial_id, state=TrialState.RUNNING):
                        continue
                    self.storage.set_trial_user_attr(trial_id, OWNER, this_process())  # after another one that lost
                except UpdateFinishedTrialError:
                    continue
                study = self.load(frozen.number)
                study.get_trials(deepcopy=False)  # Optuna's cache of the database must know the trial
                return Trial(study, trial_id)
        return None

    def values_of(self, trial: Trial) -> Values:
        """Return the values of a claimed trial, drawn now unless they are known."""
        return {key: suggest(trial, key, parameter) for key, parameter in self.space.parameters.items()}

    def complete(self, trial: Trial, value: float) -> None:
        """Give a trial its result."""
        self._end(trial, TrialState.COMPLETE, value)

    def prune(self, trial: Trial) -> None:
        """End a trial that was stopped early."""
        self._end(trial, TrialState.PRUNED)

    def fail(self, trial: Trial, reason: str) -> None:
        """End a trial that has no result."""
        trial.set_user_attr(REASON, reason)
        self._end(trial, TrialState.FAIL)

    def give_back(self, trial: Trial) -> None:
        """Let a trial wait that this process cannot end: it is stopped."""
        with locked(self.url):
            trial.set_user_attr(STOPPED, True)
            self._end(trial, TrialState.FAIL)
            self._take_back()

    def _end(self, trial: Trial, state: TrialState, value: float | None = None) -> None:
        """Tell Optuna how a trial has ended.

        Raises:
            UpdateFinishedTrialError: Another process has taken it over.
        """
        if self.storage.get_trial(self._id(trial.number)).state.is_finished():
            raise UpdateFinishedTrialError(f"trial {trial.number} has ended already")
        trial.study.tell(trial, value, state)

    @contextmanager
    def alive(self, trial: Trial) -> Iterator[None]:
        """Send signs of life of a trial within this block."""
        trial_id, ended = self._id(trial.number), threading.Event()

        def send() -> None:
            while not ended.wait(HEARTBEAT_SECONDS):
                try:
                    self.storage.record_heartbeat(trial_id)
                except (OptunaError, SQLAlchemyError):
                    continue  # the database may work again before the next

        thread = threading.Thread(target=send, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _take_back(self) -> None:
        """End the trials whose process has ended, and add another one for each that has ended without a result."""
        study = self.load()
        fail_stale_trials(study)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if is_alive(trial.user_attrs.get(OWNER, {})) is False:
                try:
                    self.storage.set_trial_state_values(self._id(trial.number), state=TrialState.FAIL)
                except UpdateFinishedTrialError:
                    continue
        attempts: dict[int, list[FrozenTrial]] = {}
        for trial in study.get_trials(deepcopy=False):
            attempts.setdefault(trial.user_attrs[ROOT], []).append(trial)
        for tried in attempts.values():
            if _is_lost(tried[-1]) and num_killed(tried) < _MOST_KILLED:
                kept = {key: value for key, value in tried[-1].user_attrs.items() if key in (ROOT, FOLDER, PRUNED)}
                study.add_trial(_waiting(tried[-1].params, tried[-1].distributions, kept))

    def _id(self, number: int) -> int:
        study_id = self.storage.get_study_id_from_name(self.name)
        return self.storage.get_trial_id_from_study_id_trial_number(study_id, number)


def exists(storage: RDBStorage, name: str) -> bool:
    """Return whether the database has a study of this name."""
    return name in optuna.get_all_study_names(storage)


def begin(study: Study, is_higher_better: bool, facts: Mapping[str, Any], trials: int) -> None:
    """Begin a new study.

    Raises:
        UsageError: Another process has just begun one of this name.
    """
    direction = StudyDirection.MAXIMIZE if is_higher_better else StudyDirection.MINIMIZE
    try:
        optuna.create_study(study_name=study.name, storage=study.storage, direction=direction)
    except DuplicatedStudyError:
        raise UsageError(f"another process has just begun the study {study.name}; add --resume to join it") from None
    study.note(_FACTS, dict(facts))
    study.plan(trials)


def go_on(study: Study, facts: Mapping[str, Any], trials: int | None) -> None:
    """Go on with a study, or join the processes that do, perhaps with more trials.

    Raises:
        UsageError: It was begun with other settings, or has more trials.
    """
    before = study.attributes.get(_FACTS)
    if before is None:  # its first process was killed at once
        study.note(_FACTS, dict(facts))
        before = facts
    for key in [*facts, *before]:
        if before.get(key) != facts.get(key):
            then, now = (_told(each, key) for each in (before, facts))
            raise UsageError(
                f"the study {study.name} was begun with {key} {then}, and not {now}; set it as it was, or choose "
                "another name: --study=NAME"
            )
    planned = int(study.attributes.get(_TRIALS, study.space.trials))
    if trials is not None and trials < planned:
        raise UsageError(
            f"--trials={trials}: the study {study.name} has {planned} trials; more can be added, not fewer"
        )
    study.plan(trials or planned)


def num_killed(attempts: list[FrozenTrial]) -> int:
    """Return how many processes of a trial were killed."""
    return sum(_is_lost(attempt) and not attempt.user_attrs.get(STOPPED, False) for attempt in attempts)


def _is_lost(trial: FrozenTrial) -> bool:
    """Whether an attempt has ended without a result, by no fault of its own."""
    return trial.state == TrialState.FAIL and REASON not in trial.user_attrs


def _told(facts: Mapping[str, Any], key: str) -> str:
    return setting("", facts[key])[1:] if key in facts else "left out"


def _waiting(
    params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution], attributes: Mapping[str, Any]
) -> FrozenTrial:
    known = {key: distributions[key] for key in params}
    return create_trial(state=TrialState.WAITING, params=dict(params), distributions=known, user_attrs=dict(attributes))

"""Make one trial: a run of `train` without a test, and its result."""

import contextlib
import gc
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.trial import Trial
from sqlalchemy.exc import SQLAlchemyError

from cifar10.config.search_space import Values
from cifar10.config.sweep_plan import SweepPlan
from cifar10.data.image_dataset import ImageDataset
from cifar10.errors import UserError, first_line
from cifar10.runs.folder import HISTORY
from cifar10.runs.recorded_run import read_history
from cifar10.studies.pruning import ReportEpochs
from cifar10.studies.storage import told_if_lost
from cifar10.studies.study import FOLDER, ROOT, Study
from cifar10.studies.tracking import Parent, mark_run
from cifar10.system.shortage import shortage
from cifar10.system.signals import stopped_by
from cifar10.train import RunOptions, train


@dataclass(frozen=True)
class Outcome:
    """How a trial has ended here."""

    state: Literal["complete", "pruned", "failed"]
    value: float | None = None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Runner:
    """Makes the trials that this process claims.

    Args:
        plan: Of the sweep.
        study: Its trials.
        folder: Of their runs.
        data: The data set, for all trials that do not change how it is loaded.
        is_higher_better: Whether a higher score is better.
        parent: The run in MLflow that has the trials as its children.
        go_on: The line that resumes the sweep.
    """

    plan: SweepPlan
    study: Study
    folder: Path
    data: ImageDataset
    is_higher_better: bool
    parent: Parent
    go_on: str

    def run(self, trial: Trial, values: Values) -> Outcome:
        """Train with these values, and tell the study what came of it.

        Raises:
            Stopped: By a signal; the trial waits again.
            UserError: The database failed.
        """
        name = name_of(trial.user_attrs[ROOT])
        with told_if_lost(self.study.url, self.go_on):
            try:
                outcome = self._make(trial, values, name)
            except UpdateFinishedTrialError:
                return Outcome("failed", reason="another process has taken it over, as no sign of life came from here")
        mark_run(self.folder / name, {"sweep.state": outcome.state}, self.plan.config.tracking)
        return outcome

    def _make(self, trial: Trial, values: Values, name: str) -> Outcome:
        trial.set_user_attr(FOLDER, name)
        try:
            with self.study.alive(trial):
                outcome = self._train(trial, values, name)
        except BaseException:
            # If the database fails here as well, the next process sees that this one has ended.
            with contextlib.suppress(OptunaError, SQLAlchemyError):
                self.study.give_back(trial)
            raise
        if outcome.state == "complete":
            assert outcome.value is not None
            self.study.complete(trial, outcome.value)
        elif outcome.state == "pruned":
            self.study.prune(trial)
        else:
            self.study.fail(trial, outcome.reason)
        return outcome

    def _train(self, trial: Trial, values: Values, name: str) -> Outcome:
        reporter = ReportEpochs(trial, self.plan.metric)
        tags = {**self.parent.child_tags, "sweep.study": self.study.name, "sweep.trial": str(trial.user_attrs[ROOT])}
        try:
            config = self.plan.config_of(values, name, str(self.folder))
            data = self.data if config.data_loading == self.plan.config.data_loading else None
            train(
                config, resume="auto", callbacks=[reporter], data=data, options=RunOptions(is_tested=False, tags=tags)
            )
            value = self._value(self.folder / name)
        except Exception as error:
            if stop := stopped_by():
                raise stop from None
            if isinstance(error, OptunaError | SQLAlchemyError):  # of the study's database
                raise
            if not isinstance(error, UserError) and shortage(error) is None:
                traceback.print_exc()
            return Outcome("failed", reason=shortage(error) or first_line(error))
        finally:
            gc.collect()  # a network is part of cycles, and the next one needs its memory
        return Outcome("pruned" if reporter.is_pruned else "complete", value)

    def _value(self, run: Path) -> float:
        """Return the score of the epoch whose weights are kept: the best one, or without `training.monitor` the last.

        Raises:
            UserError: It is not a finite number.
        """
        found = [epoch[self.plan.metric] for epoch in read_history(run / HISTORY) if self.plan.metric in epoch]
        if not found:
            raise UserError(f"{self.plan.metric} was not a finite number in any epoch")
        if self.plan.config.training.monitor is None:
            return found[-1]
        return max(found) if self.is_higher_better else min(found)


def name_of(root: int) -> str:
    """Return the name of a trial's run."""
    return f"trial-{root:04d}"

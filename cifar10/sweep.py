"""Entry point of `sweep`: a study in a database -> trials, each a run of `train` -> table, report, best settings."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage

from cifar10.analysis.sweep_report import sweep_report
from cifar10.analysis.sweep_results import SweepResults, csv_of, plain_results, shown_value, table_of
from cifar10.config.advice import command_line, setting
from cifar10.config.build import build, require_buildable
from cifar10.config.mlflow_uri import shown_uri
from cifar10.config.search_space import Values
from cifar10.config.sweep_plan import SweepPlan
from cifar10.config.targets import DATA
from cifar10.data.image_dataset import ImageDataset
from cifar10.errors import UsageError, UserError
from cifar10.files import write_text
from cifar10.runs.checkpoint_names import BEST, LAST
from cifar10.runs.checkpoints import load_checkpoint
from cifar10.runs.provenance import code_state, machine, versions
from cifar10.studies.outlook import Outlook, same_reason
from cifar10.studies.results import read_results
from cifar10.studies.running import Runner, name_of
from cifar10.studies.sampling import value_of
from cifar10.studies.storage import told_if_lost
from cifar10.studies.study import ROOT, Study, begin, go_on
from cifar10.studies.tracking import Parent, open_parent
from cifar10.system.signals import Stopped, if_stopped
from cifar10.system.streams import print_message
from cifar10.training.fitting import make_metrics
from cifar10.training.metrics import is_higher_better as metric_direction
from cifar10.training.testing import Tester
from cifar10.types import Metrics
from cifar10.wording import counted

REPORT, RESULTS, TRIALS = "report.html", "results.json", "trials.csv"
_SHOWN = 10  # best trials in the table
_DIGEST, _PARENT = "data_digest", "mlflow_run"  # attributes of a study


@dataclass(frozen=True)
class SweepRequest:
    """What `sweep` is to do.

    Args:
        plan: The sweep.
        storage: Its database.
        url: Address of the database.
        folder: Of the study, and of the runs of its trials.
        trials: Trainings in all, as typed.
        resume: Go on with a study that exists, else begin it.
        test: Whether the best trial is tested in the end.
    """

    plan: SweepPlan
    storage: RDBStorage
    url: str
    folder: Path
    trials: int | None
    resume: bool
    test: bool

    @property
    def line(self) -> str:
        """The command line that goes on."""
        words = [*self._searched, *self.plan.words]
        own = f"sqlite:///{self.folder / 'study.db'}"
        storage = None if self.url == own else shown_uri(self.url)
        line = command_line("sweep", *words, study=self.plan.study, storage=storage)
        return f"{line} --resume"

    @property
    def _searched(self) -> list[str]:
        if not self.plan.space.is_grid:
            return [self.plan.source]
        lists = {key: parameter.choices or [] for key, parameter in self.plan.space.parameters.items()}
        return [_list_word(key, values) for key, values in lists.items()]


def _list_word(key: str, values: list[Any]) -> str:
    return f"{key}={','.join(setting('', value)[1:] for value in values)}"


def sweep(request: SweepRequest) -> SweepResults:
    """Make the trials that wait, with other processes if there are any; write and return the results.

    Raises:
        UserError: Data, folders or the database are not as needed, or all trials fail for the same reason.
    """
    plan, config = request.plan, request.plan.config
    require_buildable(config)
    data: ImageDataset = build(DATA, config.data_loading)
    if not len(data.validation):
        raise UsageError("there are no validation images, by which trials are compared; hold some out in data_loading")
    is_higher_better = metric_direction(plan.metric, make_metrics(config, data.num_classes))
    study = Study(request.storage, request.url, plan.study, plan.space, config.seed, config.training.epochs)
    with told_if_lost(request.url, request.line):
        if request.resume:
            go_on(study, {**plan.facts(), "metric": plan.metric}, request.trials)
        else:
            begin(study, is_higher_better, {**plan.facts(), "metric": plan.metric}, plan.space.trials)
        _refuse_other_data(study, data)
        parent = open_parent(config.tracking, request.folder, study.attributes.get(_PARENT), plan.study, request.line)
        if parent.run_id is not None:
            study.note(_PARENT, parent.run_id)
    runner = Runner(plan, study, request.folder, data, is_higher_better, parent, request.line)
    with if_stopped(f"between two trials; go on with: {request.line}"):
        failure = _run_all(request, study, runner)
    with if_stopped("while results were written; all trials are kept, and the same line with --resume writes them"):
        return _conclude(request, study, runner, data, failure)


def _refuse_other_data(study: Study, data: ImageDataset) -> None:
    before = study.attributes.get(_DIGEST)
    if before is None:
        study.note(_DIGEST, data.digest)
    elif before != data.digest:
        raise UsageError(
            f"the study {study.name} was begun on other data (SHA-256 {str(before)[:12]} then, {data.digest[:12]} now);"
            " restore them, or choose another name: --study=NAME"
        )


def _run_all(request: SweepRequest, study: Study, runner: Runner) -> str | None:
    """Make trials until none waits; return the reason if the first ones all failed for the same one."""
    outlook = Outlook(request.plan.metric, runner.is_higher_better)
    while True:
        with told_if_lost(request.url, request.line):
            if (reason := same_reason(study.trials())) is not None:
                return reason
            trial = study.claim()
            if trial is None:
                return None
            values = study.values_of(trial)
            outlook.begin(trial.user_attrs[ROOT], study.trials(), values)
        try:
            outcome = runner.run(trial, values)
        except Stopped as stop:
            name = name_of(trial.user_attrs[ROOT])
            is_saved = (request.folder / name / LAST).is_file()
            kept = "its training is saved and goes on" if is_saved else "nothing of it was saved, so it starts anew"
            stop.kept = f"in {name}; {kept} with: {request.line}"
            raise
        with told_if_lost(request.url, request.line):
            outlook.end(outcome.state, outcome.value, outcome.reason, study.trials())


def _conclude(
    request: SweepRequest, study: Study, runner: Runner, data: ImageDataset, failure: str | None
) -> SweepResults:
    with told_if_lost(request.url, request.line):
        results = read_results(study, request.plan.metric, runner.is_higher_better)
        if request.test and results.best is not None:
            test = _test(request.folder / results.best.name, data)
            results = read_results(study, request.plan.metric, runner.is_higher_better, test)
        best = None if results.best is None else _values_of(request.plan, results.best.values)
    line = "" if best is None else _train_line(request.plan, best)
    _write(request, results, line, data)
    address = _track(request, runner.parent, results)
    if failure is not None:
        raise UserError(f"the first trials all failed: {failure}; correct that, and begin another study: --study=NAME")
    _announce(request, results, line, address)
    return results


def _test(run: Path, data: ImageDataset) -> Metrics:
    """Return the scores of a trial's run on the test images."""
    if not (run / BEST).is_file():
        raise UserError(
            f"--test: {run / BEST} is no longer there; restore the folder of this trial, or leave out --test"
        )
    checkpoint = load_checkpoint(run / BEST)
    scores, _ = Tester.of(checkpoint, data, run).answers(data.test, "test")
    return scores


def _values_of(plan: SweepPlan, labels: Mapping[str, Any]) -> Values:
    """Return the values of a trial as they are set; Optuna keeps a list as text."""
    return {key: value_of(plan.space.parameters[key], label) for key, label in labels.items()}


def _train_line(plan: SweepPlan, values: Values) -> str:
    return command_line("train", *plan.trial_words(values))


def _write(request: SweepRequest, results: SweepResults, line: str, data: ImageDataset) -> None:
    folder, code, computer, space = request.folder, code_state(), machine(), request.plan.space
    search = "" if space.is_grid else f"; sampler {space.sampler}, pruner {space.pruner}"
    origin = [
        (
            "data",
            f"{data.name}, SHA-256 {data.digest[:12]}; {len(data.train):,} training and "
            f"{len(data.validation):,} validation images",
        ),
        ("search space", request.plan.source + search),
        ("common settings", " ".join(request.plan.words) or "the defaults"),
        ("database", shown_uri(request.url)),
        ("machine", f"{computer['cpu']}, {computer['cores']} cores"),
        ("versions", ", ".join(f"{name} {number}" for name, number in versions().items())),
        ("code", f"{code['git_commit'] or 'no commit'}, digest {code['code_digest'][:12]}"),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    sweep_report(results, line, origin).write(folder / REPORT)
    plain = {**plain_results(results), "train": line, **dict(origin)}
    write_text(folder / RESULTS, f"{json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False)}\n")
    write_text(folder / TRIALS, csv_of(results))


def _track(request: SweepRequest, parent: Parent, results: SweepResults) -> str | None:
    best = results.best
    if best is None:
        return parent.finish(False, {}, {}, f"The sweep {results.study}: {results.counts()}", [])
    scores = {f"best/{results.metric}": best.score or 0.0, **results.test}
    settings = {f"best.{key}": shown_value(value) for key, value in best.values.items()}
    note = f"Sweep: {results.counts()}; best {results.shown(best.score)} {results.metric} by {best.name}"
    files = [request.folder / name for name in (REPORT, RESULTS, TRIALS)]
    return parent.finish(results.is_complete, settings, scores, note, files)


def _announce(request: SweepRequest, results: SweepResults, line: str, address: str | None) -> None:
    if results.ranking:
        print(table_of(results, _SHOWN))
    if "test/accuracy" in results.test:
        assert results.best is not None
        print(f"test accuracy of {results.best.name}: {results.test['test/accuracy']:.2%}")
    sys.stdout.flush()
    print_message(f"trials   {results.counts()}")
    if others := len(results.of_state("running")):
        print_message(f"         {counted(others, 'trial')} in other processes; their end writes the report again")
    print_message(f"written  {request.folder}/: {REPORT}, {RESULTS}, {TRIALS}")
    if address is not None:
        print_message(f"tracked  {address}")
    if line:
        print_message(f"next     {line}")

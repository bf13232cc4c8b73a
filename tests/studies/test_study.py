"""Trials of a study are claimed once, are not lost with their process, and belong to one search space."""

import multiprocessing
import sqlite3
from pathlib import Path
from typing import Any

import psutil
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial, TrialState

from cifar10.analysis.sweep_results import SweepResults
from cifar10.config.compose import load_config
from cifar10.config.search_space import SearchSpace, grid_of
from cifar10.config.validation import validate
from cifar10.errors import UsageError, UserError
from cifar10.runs.record import RunRecord
from cifar10.studies.opening import open_storage
from cifar10.studies.results import read_results
from cifar10.studies.storage import connect, told_if_lost
from cifar10.studies.study import FOLDER, OWNER, ROOT, Study, begin, go_on
from cifar10.studies.tracking import open_parent
from cifar10.system.process_identity import this_process

SPACE: dict[str, Any] = {
    "parameters": {
        "optimizer.lr": {"low": 0.01, "high": 1.0, "log": True},
        "model.width": {"low": 4, "high": 64},
        "model.widths": {"choices": [[1, 2], [3, 4]]},
    },
    "trials": 4,
    "sampler": "tpe",
    "pruner": "median",
    "startup_trials": 2,
    "warmup_epochs": 0,
}


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'study.db'}"


def opened(folder: Path, space: SearchSpace | None = None, seed: int = 0) -> Study:
    url = url_of(folder)
    return Study(connect(url), url, "study", space or validate(SearchSpace, SPACE), seed, epochs=3)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    study = opened(tmp_path)
    begin(study, is_higher_better=True, facts={"seed": 0}, trials=4)
    return study


def results_of(study: Study) -> SweepResults:
    return read_results(study, "val/accuracy", is_higher_better=True)


def dead_owner() -> dict[str, Any]:
    """Return a process of this machine that has ended."""
    return {**this_process(), "pid": max(psutil.pids()) + 100_000}


def kill(study: Study, number: int) -> None:
    """Let the process of a trial be one that has ended."""
    study.storage.set_trial_user_attr(study._id(number), OWNER, dead_owner())


# -- claims --------------------------------------------------------------------------------------------------------


def test_each_trial_is_claimed_once_and_no_more_than_planned(study: Study, tmp_path: Path) -> None:
    other = opened(tmp_path)
    claimed = [each.claim() for each in (study, other, study, other)]
    assert sorted(trial.user_attrs[ROOT] for trial in claimed if trial) == [0, 1, 2, 3]
    assert study.claim() is None and other.claim() is None


def _claim_all(folder: str, found: Any) -> None:
    study = opened(Path(folder), grid_of({"seed": list(range(16))}))
    while (trial := study.claim()) is not None:
        found.put((trial.user_attrs[ROOT], study.values_of(trial)["seed"]))
        study.complete(trial, 0.5)
    found.put(None)


@pytest.mark.slow
def test_two_processes_share_the_trials_of_a_study(tmp_path: Path) -> None:
    begin(opened(tmp_path, grid_of({"seed": list(range(16))})), True, {}, 16)
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    processes = [context.Process(target=_claim_all, args=(str(tmp_path), found)) for _ in range(2)]
    for process in processes:
        process.start()
    claimed, ended = [], 0
    while ended < 2:
        item = found.get(timeout=100)
        ended += item is None
        claimed += [] if item is None else [item]
    for process in processes:
        process.join()
    assert sorted(claimed) == [(number, number) for number in range(16)]


def test_values_are_drawn_once_and_in_their_range(study: Study) -> None:
    trial = study.claim()
    assert trial is not None
    values = study.values_of(trial)
    lr, width = values["optimizer.lr"], values["model.width"]
    assert isinstance(lr, float) and 0.01 <= lr <= 1.0
    assert isinstance(width, int) and 4 <= width <= 64
    assert values["model.widths"] in ([1, 2], [3, 4])
    assert study.values_of(trial) == values


def test_the_seed_decides_the_values(tmp_path: Path) -> None:
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        study = opened(tmp_path / name, seed=seed)
        begin(study, True, {}, 2)
        trials = [study.claim(), study.claim()]
        found.append([study.values_of(trial) for trial in trials if trial])
    assert found[0] == found[1] != found[2]
    assert found[0][0] != found[0][1]


def test_the_sampler_knows_the_trials_that_have_ended_since(study: Study) -> None:
    first = study.claim()
    assert first is not None
    study.values_of(first)
    study.complete(first, 0.7)
    second = study.claim()
    assert second is not None
    known = second.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    assert [trial.value for trial in known] == [0.7]


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
@pytest.mark.parametrize("pruner", ["median", "halving", "hyperband", "none"])
def test_each_sampler_goes_with_each_pruner(sampler: str, pruner: str, tmp_path: Path) -> None:
    study = opened(
        tmp_path, validate(SearchSpace, {**SPACE, "sampler": sampler, "pruner": pruner, "startup_trials": 1})
    )
    begin(study, True, {}, 3)
    for trial in iter(study.claim, None):
        assert trial is not None
        lr = study.values_of(trial)["optimizer.lr"]
        assert isinstance(lr, float)
        trial.report(lr, 1)
        trial.should_prune()
        study.complete(trial, lr)
    assert len(results_of(study).ranking) == 3


# -- processes that end --------------------------------------------------------------------------------------------


def test_a_killed_trial_waits_again_with_its_values_and_is_next(study: Study, tmp_path: Path) -> None:
    trial = study.claim()
    assert trial is not None
    values = study.values_of(trial)
    trial.set_user_attr(FOLDER, "trial-0000")
    kill(study, trial.number)
    again = opened(tmp_path).claim()
    assert again is not None and again.user_attrs[ROOT] == 0 and again.number != trial.number
    assert study.values_of(again) == values
    study.complete(again, 0.5)
    results = results_of(study)
    assert len(results.trials) == 4
    assert (results.trials[0].state, results.trials[0].attempts) == ("complete", 2)


def test_a_trial_whose_values_were_not_drawn_yet_is_not_lost(study: Study) -> None:
    trial = study.claim()
    assert trial is not None
    kill(study, trial.number)
    roots = [claimed.user_attrs[ROOT] for claimed in iter(study.claim, None)]
    assert sorted(roots) == [0, 1, 2, 3]


def test_a_trial_killed_between_its_failure_and_its_next_attempt_is_not_lost(study: Study) -> None:
    trial = study.claim()
    assert trial is not None
    study.storage.set_trial_state_values(study._id(trial.number), state=TrialState.FAIL)
    roots = [claimed.user_attrs[ROOT] for claimed in iter(study.claim, None)]
    assert sorted(roots) == [0, 1, 2, 3]


def test_a_trial_that_costs_three_processes_is_given_up(study: Study) -> None:
    roots = []
    for _ in range(3):
        trial = study.claim()
        assert trial is not None
        trial.set_user_attr(FOLDER, "trial-0000")
        roots.append(trial.user_attrs[ROOT])
        kill(study, trial.number)
    assert roots == [0, 0, 0]
    following = study.claim()
    assert following is not None and following.user_attrs[ROOT] == 1
    trial_0 = results_of(study).trials[0]
    assert (trial_0.state, trial_0.reason, trial_0.attempts) == ("killed", "its process was killed, 3 times", 3)


def test_a_stopped_trial_waits_again_however_often(study: Study) -> None:
    for _ in range(5):
        trial = study.claim()
        assert trial is not None and trial.user_attrs[ROOT] == 0
        trial.set_user_attr(FOLDER, "trial-0000")
        study.give_back(trial)
    assert results_of(study).trials[0].state == "waiting"


def test_a_trial_of_another_machine_is_taken_back_without_a_sign_of_life(study: Study, tmp_path: Path) -> None:
    trial = study.claim()
    assert trial is not None
    trial.set_user_attr(OWNER, {**this_process(), "host": "elsewhere"})
    assert 0 not in [claimed.user_attrs[ROOT] for claimed in iter(study.claim, None)]

    def claim_after(seconds: int) -> Trial | None:
        with sqlite3.connect(tmp_path / "study.db") as database:
            change = "UPDATE trial_heartbeats SET heartbeat = datetime('now', ?) WHERE trial_id = ?"
            database.execute(change, (f"-{seconds} seconds", trial._trial_id))
        return study.claim()

    assert claim_after(100) is None
    again = claim_after(130)
    assert again is not None and again.user_attrs[ROOT] == 0


def test_the_result_of_a_trial_that_was_taken_over_is_refused(study: Study) -> None:
    trial = study.claim()
    assert trial is not None
    study.storage.set_trial_state_values(study._id(trial.number), state=TrialState.FAIL)
    with pytest.raises(UpdateFinishedTrialError):
        study.complete(trial, 0.5)
    with pytest.raises(UpdateFinishedTrialError):
        study.prune(trial)
    with pytest.raises(UpdateFinishedTrialError):
        study.fail(trial, "reason")


def test_signs_of_life_are_sent_while_a_trial_runs(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifar10.studies.study.HEARTBEAT_SECONDS", 0.01)
    trial = study.claim()
    assert trial is not None
    sent: list[int] = []
    monkeypatch.setattr(study.storage, "record_heartbeat", sent.append)
    with study.alive(trial):
        while len(sent) < 3:
            pass
    assert set(sent) == {trial._trial_id}


# -- settings of a study -------------------------------------------------------------------------------------------


def test_a_grid_is_each_point_once(tmp_path: Path) -> None:
    space = grid_of({"optimizer.lr": [0.1, 0.2], "model.widths": [[1], [2]]})
    study = opened(tmp_path, space)
    begin(study, True, {}, space.trials)
    trials = [trial for trial in iter(study.claim, None) if trial]
    assert [study.values_of(trial) for trial in trials] == space.points()


def test_other_settings_are_refused_and_named(study: Study) -> None:
    go_on(study, {"seed": 0}, None)
    with pytest.raises(UsageError, match="was begun with seed 0, and not 1; set it as it was"):
        go_on(study, {"seed": 1}, None)
    with pytest.raises(UsageError, match="was begun with model left out, and not speed"):
        go_on(study, {"seed": 0, "model": "speed"}, None)


def test_trials_can_be_added_and_not_taken_away(study: Study) -> None:
    with pytest.raises(UsageError, match="--trials=3: the study study has 4 trials; more can be added"):
        go_on(study, {"seed": 0}, 3)
    go_on(study, {"seed": 0}, 6)
    go_on(study, {"seed": 0}, None)
    assert len(results_of(study).trials) == 6


def test_a_study_whose_trials_were_added_in_part_is_completed(study: Study) -> None:
    study.note("trials", 7)  # its first process was killed after this
    go_on(study, {"seed": 0}, None)
    assert [trial.number for trial in results_of(study).trials] == list(range(7))


# -- databases -----------------------------------------------------------------------------------------------------


def test_what_exists_needs_resume_and_what_does_not_must_not_have_it(study: Study, tmp_path: Path) -> None:
    url = url_of(tmp_path)
    with pytest.raises(UsageError, match=r"exists already .*: --resume, or choose another name: --study=NAME"):
        open_storage("study", tmp_path, url, resume=False)
    with pytest.raises(UsageError, match="has no study other to resume; begin it without --resume"):
        open_storage("other", tmp_path, url, resume=True)
    with pytest.raises(UsageError, match=r"there is no study study to resume: .* is not there"):
        open_storage("study", tmp_path, f"sqlite:///{tmp_path}/none.db", resume=True)
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "trial-0000").mkdir()
    with pytest.raises(UsageError, match=r"holds trial-0000 of a study that is not in the database; .*--study=NAME"):
        open_storage("other", tmp_path, url, resume=False)
    assert open_storage("study", tmp_path, url, resume=True)
    (tmp_path / "best.ckpt").touch()
    with pytest.raises(UsageError, match="holds a run, which is not changed"):
        open_storage("study", tmp_path, url, resume=True)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("study.db", "is no address of a database; write sqlite:///study.db"),
        ("sqlite://", "names no file"),
        ("oracle://me:secret@host/x", "needs the package "),
        ("nonsense://x", "is no database that can be used"),
    ],
)
def test_addresses_that_cannot_be_used_say_why(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        connect(url)
    assert "secret" not in str(caught.value)


def test_a_missing_driver_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(UsageError, match="needs the package pymysql, which is missing: python -m pip install pymysql"):
        connect("mysql+pymysql://me@host/database")


def test_files_that_are_locked_damaged_or_not_writable_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cifar10.studies.storage._PROBE_SECONDS", 0.1)
    (tmp_path / "text.db").write_text("no database, but a text of some length" * 100)
    with pytest.raises(UserError, match=r"text\.db is no database"):
        connect(f"sqlite:///{tmp_path}/text.db")
    connect(f"sqlite:///{tmp_path}/cut.db")
    with (tmp_path / "cut.db").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(UserError, match=r"cut\.db is damaged .*; restore a copy, or begin anew: --study=NAME"):
        connect(f"sqlite:///{tmp_path}/cut.db")
    connect(f"sqlite:///{tmp_path}/letters.db")
    whole = (tmp_path / "letters.db").read_bytes()
    (tmp_path / "letters.db").write_bytes(whole.replace(b"tablestudiesstudies", b"table" + 14 * b"\xcf"))
    with pytest.raises(UserError, match=r"letters\.db is damaged"):
        connect(f"sqlite:///{tmp_path}/letters.db")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        connect(f"sqlite:///{tmp_path}/file/study.db")
    with sqlite3.connect(tmp_path / "locked.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match="locked by another program"):
            connect(f"sqlite:///{tmp_path}/locked.db")
        other.execute("ROLLBACK")


def test_a_database_that_was_deleted_is_told_as_such(study: Study, tmp_path: Path) -> None:
    study.storage.engine.dispose()
    (tmp_path / "study.db").unlink()
    with (
        pytest.raises(UserError, match=r"study\.db has been deleted; what was trained is kept in .*--study=NAME"),
        told_if_lost(study.url, "the line"),
    ):
        study.claim()


@pytest.mark.parametrize("is_resumed", [True, False])
def test_trials_without_a_database_are_told(tmp_path: Path, is_resumed: bool) -> None:
    (tmp_path / "trial-0000").mkdir()
    with pytest.raises(UsageError, match="holds trial-0000 of a study that is not in the database"):
        open_storage("study", tmp_path, f"sqlite:///{tmp_path / 'study.db'}", is_resumed)
    (tmp_path / "study.db").unlink(missing_ok=True)
    (tmp_path / "study.db").mkdir()
    with pytest.raises(UsageError, match=r"study\.db is a folder"):
        open_storage("study", tmp_path, f"sqlite:///{tmp_path / 'study.db'}", is_resumed)


def test_a_database_that_fails_later_says_how_to_go_on(study: Study, tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"broken" * 1000)
    with (
        pytest.raises(UserError, match=r"database .*study.db failed: .*; when it works again: the line"),
        told_if_lost(study.url, "the line"),
    ):
        study.claim()


@pytest.mark.slow
def test_trials_that_were_made_while_mlflow_was_away_get_their_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lost = load_config(["tracking.uri=http://127.0.0.1:9"]).tracking
    (tmp_path / "study/trial-0000").mkdir(parents=True)
    assert open_parent(lost, tmp_path / "study", None, "study", "the line").run_id is None
    RunRecord(tmp_path / "study/trial-0000").begin({}, {})
    found = load_config([f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}"]).tracking
    parent = open_parent(found, tmp_path / "study", None, "study", "the line")
    assert parent.run_id is not None
    record = RunRecord.of(tmp_path / "study/trial-0000")
    assert record is not None and record.tags["mlflow.parentRunId"] == parent.run_id

"""`reproduce`: an honest run is trained again to the same bits, and one that was tampered with is not."""

import dataclasses
import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import cifar10.model
from cifar10.analysis.reproduction import judge
from cifar10.analysis.score_spread import ScoreSpread
from cifar10.cli.command_line import main
from cifar10.config.compose import load_config
from cifar10.reproduce import _wrong_accuracy
from cifar10.runs.checkpoints import load_checkpoint
from cifar10.runs.run_claims import PLAIN, Difference, RunClaims, first_other_epoch, seed_siblings
from cifar10.system.signals import Stopped
from cifar10.train import train
from commands import COMMANDS
from tests.tiny_run import TINY


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an honest run."""
    place = tmp_path_factory.mktemp("honest")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr("cifar10.train.save_figures", lambda *arguments: None)
        torch.set_num_threads(1)
        train(load_config([*TINY, "seed=5", "run_name=a"]))
    return place / "models" / "a"


@pytest.fixture
def run(honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the honest run, `models/a` of the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cifar10.train.save_figures", lambda *arguments: None)
    torch.set_num_threads(1)
    shutil.copytree(honest, "models/a")
    return Path("models/a")


def reproduce(*words: str) -> int:
    return main(COMMANDS, "", ["reproduce", *words])


def change(run: Path, edit: Callable[[dict[str, Any]], object], *names: str) -> None:
    """Change the entry `cifar10` of checkpoints of a run, by default of both."""
    for name in names or ("best.ckpt", "last.ckpt"):
        raw = torch.load(run / name, weights_only=True)
        edit(raw["cifar10"])
        (run / name).unlink()  # the two may be one file
        torch.save(raw, run / name)


def change_text(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_an_honest_run_is_reproduced_bit_by_bit(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce("a") == 0
    told = capsys.readouterr()
    assert "expected: the same weights, bit by bit" in told.err and "differs" not in told.err
    assert told.out.splitlines()[-1] == "yes: models/a-reproduced has the same weights, bit by bit"
    facts = json.loads(Path("models/a-reproduced/reproduction.json").read_text())
    assert facts["is_reproduced"] and facts["weights"]["then"] == facts["weights"]["now"]
    assert facts["accuracy"]["then"] == facts["accuracy"]["recorded"] == facts["accuracy"]["now"]
    assert reproduce("models/a/last.ckpt", "run_name=again") == 0
    assert Path("models/again/reproduction.json").is_file()


def set_rate(entry: dict[str, Any]) -> None:
    entry["config"]["optimizer"]["lr"] *= 1.5


def test_another_learning_rate_in_the_checkpoints_is_found_out(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(run, set_rate)
    change_text(run / "config.yaml", "lr: 0.01", "lr: 0.015")
    assert reproduce("a") == 1
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith("no: code, versions, kind of processor and threads are the same, and the weights are others")
    assert "they part in epoch 1: train/loss" in told


def edit_config(run: Path) -> None:
    change_text(run / "config.yaml", "lr: 0.01", "lr: 0.015")


def edit_best(run: Path) -> None:
    change(run, set_rate, "best.ckpt")


def edit_seed(run: Path) -> None:
    change_text(run / "scores.json", '"seed": 5', '"seed": 6')


def edit_epochs(run: Path) -> None:
    change_text(run / "config.yaml", "epochs: 2", "epochs: 3")


def edit_history(run: Path) -> None:
    lines = (run / "history.csv").read_text().splitlines()
    place = lines[0].split(",").index("train/loss")
    row = lines[1].split(",")
    row[place] = "0.5"
    (run / "history.csv").write_text("\n".join([lines[0], ",".join(row), *lines[2:]]))


def add_epoch(run: Path) -> None:
    text = (run / "history.csv").read_text()
    (run / "history.csv").write_text(text + text.splitlines()[-1] + "\n")


def edit_weights(run: Path) -> None:
    for name in ("best.ckpt", "last.ckpt"):
        raw = torch.load(run / name, weights_only=True)
        next(iter(raw["state_dict"].values())).add_(1)
        (run / name).unlink()
        torch.save(raw, run / name)


@pytest.mark.parametrize(
    ("tamper", "found"),
    [
        (edit_config, "optimizer.lr is 0.015 in config.yaml, 0.01 in last.ckpt"),
        (edit_best, "optimizer.lr is 0.015 in best.ckpt, 0.01 in last.ckpt"),
        (edit_seed, "seed is 6 in scores.json, 5 in best.ckpt"),
        (edit_epochs, "training.epochs is 3 in config.yaml, 2 in last.ckpt"),
        (edit_history, "train/loss of epoch 1 is 0.5 in history.csv"),
        (edit_weights, "weights_digest is "),
        (add_epoch, "history.csv has 3 epochs, last.ckpt has 2"),
    ],
)
def test_files_that_contradict_each_other_are_found_without_training(
    tamper: Callable[[Path], None], found: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tamper(run)
    assert reproduce("a") == 1
    told = capsys.readouterr().out
    assert told.startswith("no: the files of a contradict each other, so nothing was trained: ") and found in told
    assert not Path("models/a-reproduced").exists()


def test_an_accuracy_that_the_weights_do_not_have_is_found_out(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads((run / "scores.json").read_text())
    (run / "scores.json").write_text(json.dumps({**facts, "test/accuracy": 0.97}))
    assert reproduce("a") == 1
    assert "and scores.json says 97.00%" in capsys.readouterr().out.splitlines()[-1]


def test_an_augmented_accuracy_that_the_weights_do_not_have_is_found_out(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = json.loads((run / "scores.json").read_text())
    (run / "scores.json").write_text(json.dumps({**facts, "test/accuracy_tta": 0.97}))
    assert reproduce("a") == 1
    told = capsys.readouterr().out.splitlines()[-1]
    assert "with test-time augmentation, and scores.json says 97.00%" in told


def test_a_recorded_accuracy_must_be_exact_unless_the_machine_is_another_one() -> None:
    assert _wrong_accuracy({PLAIN: 0.88}, {PLAIN: 0.88}, tolerance=0.0) is None
    wrong = "its weights have an accuracy of 88.00%, and scores.json says 89.00%"
    assert _wrong_accuracy({PLAIN: 0.89}, {PLAIN: 0.88}, tolerance=0.0) == wrong
    assert _wrong_accuracy({PLAIN: 0.89}, {PLAIN: 0.88}, tolerance=1 / 100) is None
    assert _wrong_accuracy({PLAIN: math.nan}, {PLAIN: 0.88}, tolerance=1 / 100)


def test_moved_data_are_told_with_the_line_to_type(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def lose(entry: dict[str, Any]) -> None:
        entry["config"]["data_loading"] = {"_target_": "cifar10.data.folder.folder", "root": "lost"}

    change(run, lose)
    (run / "config.yaml").unlink()
    assert reproduce("a") == 2
    line = "python commands.py reproduce data_loading.root=DIR --checkpoint_name=a"
    assert f"if the data have moved: {line}" in capsys.readouterr().err


def test_other_data_are_not_trained_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(run, lambda entry: entry["config"]["data_loading"].update(seed=9))
    change_text(run / "config.yaml", "  test_size: 30\n  seed: 0\n", "  test_size: 30\n  seed: 9\n")
    assert reproduce("a") == 1
    assert "the data are not those that it was trained on" in capsys.readouterr().out
    assert not Path("models/a-reproduced").exists()


@pytest.mark.slow
def test_a_run_that_started_from_other_weights_is_repeated_from_the_same_ones(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(load_config([*TINY, "weights=models/a/best.ckpt", "run_name=child"]))
    assert reproduce("child") == 0
    edit_weights(run)
    assert reproduce("child", "run_name=again") == 1
    assert "no: it started from the weights " in capsys.readouterr().out.splitlines()[-1]
    assert not Path("models/again").exists()


def test_differences_of_code_and_machine_are_told_before_it_starts(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def elsewhere(entry: dict[str, Any]) -> None:
        entry["code_digest"], entry["machine"]["cpu"], entry["versions"]["torch"] = "0" * 64, "Abacus", "1.0"

    change(run, elsewhere)
    change(run, set_rate)
    change_text(run / "config.yaml", "lr: 0.01", "lr: 0.015")
    code = reproduce("a")
    told = capsys.readouterr()
    before = told.err[: told.err.index("epoch 1/2")]
    assert "differs  processor: Abacus then" in before and "differs  torch: 1.0 then" in before
    assert "differs  code: 000000000000 then" in before and "expected: scores within the recipe's spread" in before
    last = told.out.splitlines()[-1]  # the weights are others; the scores decide, and say how
    assert ("yes" if code == 0 else "no") == last.partition(":")[0]
    assert "the binomial error of 30 test images" in last


def interrupt_at_step(step: int, patch: pytest.MonkeyPatch) -> None:
    """Let the training receive Ctrl-C while it computes the given step."""
    compute_loss = cifar10.model.Classifier._loss

    def interrupt_and_compute(self: Any, batch: Any, number: int) -> Any:
        if self.global_step == step:
            os.kill(os.getpid(), signal.SIGINT)
        return compute_loss(self, batch, number)

    patch.setattr(cifar10.model.Classifier, "_loss", interrupt_and_compute)


@pytest.mark.slow
def test_a_reproduction_that_is_stopped_goes_on(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at_step(4, patch)
        assert reproduce("a") == 130
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == ("stopped by Ctrl-C and saved; go on with: python commands.py reproduce a --resume=a-reproduced")
    assert not Path("models/a-reproduced/scores.json").exists()
    assert reproduce("a", "--resume=a-reproduced") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("yes: models/a-reproduced has the same weights")
    assert reproduce("a", "--resume=a-reproduced") == 0  # it is finished, and is compared again


@pytest.mark.slow
def test_a_run_that_was_resumed_elsewhere_says_so(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at_step(4, patch)
        with pytest.raises(Stopped):
            train(load_config([*TINY, "seed=5", "run_name=begun"]))
    change(Path("models/begun"), lambda entry: entry["machine"].update(cpu="Abacus"))
    train(load_config(TINY), resume="begun")
    assert load_checkpoint(Path("models/a/last.ckpt")).metadata.several_origins is False
    assert reproduce("begun") == 0
    assert "differs  origin: several versions or machines" in capsys.readouterr().err


def test_a_comparison_that_is_stopped_can_be_repeated(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr("cifar10.reproduce.spread_of", stop)
    assert reproduce("a", "tracking=none") == 143
    told = capsys.readouterr().err.splitlines()[-1]
    line = "python commands.py reproduce a tracking=none --resume=a-reproduced"
    assert told == f"stopped by SIGTERM while the two runs were compared; repeat that with: {line}"


def test_unfinished_runs_have_nothing_to_compare_with(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "scores.json").write_text("{")
    assert reproduce("a") == 2
    assert "scores.json of a is damaged; this writes it again: python commands.py train" in capsys.readouterr().err
    (run / "scores.json").unlink()
    assert reproduce("a") == 2
    assert "a is not finished, so there is nothing to compare with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "reproduce needs CHECKPOINT_NAME"),
        (["b"], "there is no checkpoint b"),
        (["a", "seed=6"], "seed=6: a reproduction takes its settings from the run"),
        (["a", "--resume=b"], "there is no run models/b"),
        (["a", "run_name=a"], "already holds a run"),
        (["a", "--resume=a"], "--resume=a: this is the run itself; leave out --resume"),
    ],
)
def test_wrong_lines_are_refused(words: list[str], told: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(*words) == 2
    assert told in capsys.readouterr().err


def test_another_run_cannot_go_on_as_a_reproduction(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run, "models/b")
    change(Path("models/b"), lambda entry: entry["config"].update(seed=6))
    assert reproduce("a", "--resume=b") == 2
    told = capsys.readouterr().err
    assert "was begun with seed=6, not 5" in told and "if it is no reproduction, leave --resume out" in told


# -- parts -------------------------------------------------------------------------------------------------------------

SPREAD = ScoreSpread(0.01, "so it is known")
CODE = Difference("code", "a", "b", matters=True)
MLFLOW = Difference("mlflow", "3", "4", matters=False)


@pytest.mark.parametrize(
    ("now", "differences", "is_reproduced", "reason"),
    [
        (0.905, [], False, "the weights are others"),
        (0.905, [MLFLOW], False, "the weights are others"),
        (0.905, [CODE], True, "at most 1.00 by chance (so it is known)"),
        (0.889, [CODE], False, "1.10 points apart, more than 1.00 by chance"),
    ],
)
def test_other_weights_need_an_explanation_and_near_scores(
    now: float, differences: list[Difference], is_reproduced: bool, reason: str
) -> None:
    verdict = judge(0.9, now, SPREAD, differences, "epoch 2: train/loss 1 then, 2 now")
    assert verdict.is_reproduced == is_reproduced
    assert reason in verdict.reason and "they part in epoch 2" in verdict.reason


def test_histories_part_at_the_first_other_value() -> None:
    then = [{"epoch": 0, "train/loss": 1.0, "seconds": 1.0}, {"epoch": 1, "train/loss": 0.5}]
    assert first_other_epoch(then, [{**entry, "seconds": 9.0} for entry in then]) is None
    assert (
        first_other_epoch(then, [then[0], {"epoch": 1, "train/loss": 0.25}]) == "epoch 2: train/loss 0.5 then, 0.25 now"
    )


def test_siblings_differ_by_their_seed_only(run: Path) -> None:
    for number, (key, value) in enumerate([("seed", 6), ("seed", 7), ("seed", 5), ("lr", 1)]):
        copy = Path(f"models/b{number}")
        shutil.copytree(run, copy)
        if key == "seed":
            change_text(copy / "config.yaml", "\nseed: 5", f"\nseed: {value}")
        else:
            change_text(copy / "config.yaml", "lr: 0.01", f"lr: {value}")
        facts = json.loads((copy / "scores.json").read_text())
        (copy / "scores.json").write_text(json.dumps({**facts, "test/accuracy": 0.1 * number}))
    claims = RunClaims.of(load_checkpoint(run / "best.ckpt"))
    assert seed_siblings(claims, [Path("models"), Path("models").resolve()]) == {6: 0.0, 7: 0.1}
    assert dataclasses.replace(claims).contradictions() == []


@pytest.mark.slow
def test_a_run_that_only_mlflow_has_is_reproduced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    words = [word for word in TINY if not word.startswith("tracking")]
    train(load_config([*words, "tracking.system_metrics=false", "run_name=gone"]))
    run_id = Path("models/gone/run_id").read_text().strip()
    shutil.rmtree("models/gone")
    assert reproduce(run_id) == 0
    told = capsys.readouterr().out.splitlines()[-1]
    assert told == f"yes: models/{run_id[:8]}-reproduced has the same weights, bit by bit"
    assert Path(f"models/{run_id[:8]}-reproduced/run_id").read_text().strip() != run_id  # a record of its own

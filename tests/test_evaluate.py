"""`evaluate`: the scores of training again, from the checkpoint alone."""

import json
from pathlib import Path

import pytest
import torch

from cifar10.compose import load_config
from cifar10.evaluate import evaluate
from cifar10.train import train
from tests.tiny_run import TINY


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


def test_a_checkpoint_evaluates_to_the_scores_of_its_training(capsys: pytest.CaptureFixture[str]) -> None:
    trained = train(load_config([*TINY, "model.width=4", "run_name=a"]))
    capsys.readouterr()
    scores = evaluate("a", output="measured")
    report = json.loads(capsys.readouterr().out)
    tested = {key: value for key, value in trained.items() if key.startswith("test/")}
    assert scores == tested
    assert report["weights_digest"] == json.loads(Path("models/a/scores.json").read_text())["weights_digest"]
    assert json.loads(Path("measured/evaluation.json").read_text()) == report
    pairs = Path("measured/confusion.csv").read_text().splitlines()[1:]
    right = sum(pair.split(",")[0] == pair.split(",")[1] for pair in pairs)
    assert len(pairs) == 30
    assert right / len(pairs) == pytest.approx(scores["test/accuracy_tta"])
    assert Path("measured/confusion.png").stat().st_size > 0


def test_other_data_than_the_runs_own_are_pointed_out(capsys: pytest.CaptureFixture[str]) -> None:
    train(load_config([*TINY, "model.width=4", "run_name=a"]))
    raw = torch.load("models/a/best.ckpt", weights_only=True)
    raw["cifar10"]["config"]["data_loading"]["seed"] = 9
    torch.save(raw, "models/a/best.ckpt")
    evaluate("a")
    assert "these are not the data of the training run" in capsys.readouterr().err

"""The files of `evaluate`: report, numbers and MLflow, for splits, engines and data of all kinds."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import classification_report

from cifar10.cli.command_line import main
from cifar10.config.compose import load_config
from cifar10.errors import UsageError
from cifar10.evaluate import evaluate
from cifar10.train import train
from commands import COMMANDS
from tests.test_evaluate import FOLDER, make_set
from tests.tiny_run import TINY


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


def numbers(folder: str = "models/a/evaluation") -> Any:
    return json.loads(Path(folder, "report.json").read_text())


def test_the_report_holds_the_scores_and_what_scikit_learn_makes_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    train(load_config([*TINY, "model.width=4", "run_name=a"]))
    scores = evaluate("a", corruptions=["contrast", "jpeg_compression"])
    told = capsys.readouterr()
    assert {path.name for path in Path("models/a/evaluation").iterdir()} == {
        *("report.html", "report.json", "evaluation.json", "confusion.csv", "confusion.png")
    }
    assert "written to models/a/evaluation: report.html, report.json" in told.err and "MLflow" not in told.err
    found = numbers()
    assert found["accuracy"]["plain"]["value"] == scores["test/accuracy"]
    assert found["accuracy"]["tta"]["value"] == scores["test/accuracy_tta"]
    assert found["loss"]["tta"] == pytest.approx(scores["test/loss_tta"], abs=1e-6)
    pairs = [line.split(",") for line in Path("models/a/evaluation/confusion.csv").read_text().splitlines()[1:]]
    expected = classification_report(*zip(*pairs, strict=True), output_dict=True, zero_division=0.0)
    for score in found["classes"]:
        assert (score["precision"] or 0.0) == expected[score["name"]]["precision"]
        assert (score["f1"] or 0.0) == expected[score["name"]]["f1-score"]
    assert found["macro"]["f1"] == expected["macro avg"]["f1-score"]
    assert found["calibration"]["temperature"]["fitted_on"] == "val" and found["train"]["num_images"] == 60
    assert {kind: len(values) for kind, values in found["corruptions"].items()} == {
        "contrast": 5,
        "jpeg_compression": 5,
    }
    page = Path("models/a/evaluation/report.html").read_text()
    assert f"{scores['test/accuracy_tta']:.2%}" in page and page.count("<img") > 4
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page)  # it opens offline


@pytest.mark.slow
def test_other_splits_have_names_of_their_own_and_an_empty_one_is_refused() -> None:
    train(load_config([*TINY, "model.width=4", "run_name=a"]))
    assert set(evaluate("a", split="val")) == {
        f"val/{name}" for name in ("accuracy", "loss", "accuracy_tta", "loss_tta")
    }
    found = numbers("models/a/evaluation-val")
    assert (found["split"], found["num_images"]) == ("val", 20)
    assert found["calibration"]["temperature"]["is_cross_fitted"]
    assert set(evaluate("a", split="train")) == {f"train/{x}" for x in ("accuracy", "loss", "accuracy_tta", "loss_tta")}
    found = numbers("models/a/evaluation-train")
    assert found["num_images"] == 60 and "train" not in found
    assert found["calibration"]["temperature"]["fitted_on"] == "val"
    assert not Path("models/a/evaluation").exists()  # which is for the test split
    train(
        load_config([*TINY, "model.width=4", "run_name=b", "data_loading.validation_size=0", "training.monitor=null"])
    )
    with pytest.raises(UsageError, match="has no validation images in this run; choose --split=train, --split=test"):
        evaluate("b", split="val")
    evaluate("b", split="train")
    assert numbers("models/b/evaluation-train")["calibration"]["temperature"] is None


@pytest.mark.slow
def test_folders_with_one_test_image_and_classes_without_any_have_a_report() -> None:
    make_set("<b>", "黄色", "tab\there")
    for name in ("<b>", "黄色", "tab\there"):
        for file in sorted(Path("set/test", name).iterdir())[name == "<b>" :]:
            file.unlink()
    train(load_config([*FOLDER, "run_name=a"]))
    evaluate("a")
    found, page = numbers(), Path("models/a/evaluation/report.html").read_text()
    assert found["num_images"] == 1 and found["accuracy"]["plain"]["value"] in (0, 1)
    assert "&lt;b&gt;" in page and "<b>\n" not in page


def test_the_lists_about_cifar10_are_refused_for_other_images(tmp_path: Path) -> None:
    train(load_config([*TINY, "model.width=4", "run_name=a"]))
    with pytest.raises(UsageError, match="--honest is about all test images of CIFAR-10"):
        evaluate("a", honest=str(tmp_path))


@pytest.mark.slow
def test_an_exported_file_evaluates_to_the_same_numbers() -> None:
    train(load_config([*TINY, "model.width=4", "training.precision=fp32", "run_name=a"]))
    scores = evaluate("a", report=False)
    assert main(COMMANDS, "", ["export", "a"]) == 0
    assert evaluate("a", engine="onnx") == pytest.approx(scores, abs=1e-4)
    assert numbers()["engine"] == "onnx"


@pytest.mark.slow
def test_a_tracked_run_gets_the_report_and_an_unavailable_store_costs_a_note(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [word for word in TINY if word != "tracking=none"]
    scores = train(load_config([*words, "model.width=4", "run_name=a", "tracking.system_metrics=false"]))
    evaluate("a")
    assert "; recorded in MLflow" in capsys.readouterr().err
    from cifar10.runs.mlflow_store import connect

    client, run_id = connect("sqlite:///mlruns/mlflow.db"), Path("models/a/run_id").read_text().strip()
    recorded = client.get_run(run_id).data.metrics
    assert recorded["evaluation/test/accuracy_tta"] == scores["test/accuracy_tta"]
    assert recorded["evaluation/test/temperature"] == numbers()["calibration"]["temperature"]["value"]
    assert {item.path for item in client.list_artifacts(run_id, "evaluation")} == {
        *("evaluation/report.html", "evaluation/report.json")
    }
    Path("mlruns/mlflow.db").rename("elsewhere.db")
    evaluate("a")
    assert "note: not recorded in MLflow: there is no database mlruns/mlflow.db" in capsys.readouterr().err
    assert not Path("mlruns/mlflow.db").exists()


def test_photos_larger_than_the_page_needs_are_shown_smaller() -> None:
    from cifar10.analysis.evaluation_report import _small_enough

    assert _small_enough(np.zeros((1024, 1024, 3), np.uint8)).shape == (256, 256, 3)
    image = np.asarray(Image.new("RGB", (32, 32), "red"))
    np.testing.assert_array_equal(_small_enough(image), image)

"""The pages *Model*, *Runs*, *Data* and *Drift*, without a browser."""

import json
import shutil
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest

from cifar10.inference.predictor import Predictor
from cifar10.serving.drift import DriftLog
from cifar10.serving.web import registered, run_list
from cifar10.serving.web.registered import RegisteredModels
from cifar10.serving.web.settings import PAGES, WebSettings
from tests.serving.web.conftest import Page, html_of


@pytest.fixture(autouse=True)
def _fresh_store(monkeypatch: pytest.MonkeyPatch) -> None:
    run_list.tracked_runs.clear()
    monkeypatch.setattr(registered, "_DELAY_SECONDS", 0)


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("code", ["en", "ru"])
def test_every_page_is_drawn_in_every_language(page: Page, name: str, code: str) -> None:
    at = page(name, lang=code)
    assert not at.exception
    assert at.title[0].value


def test_the_numbers_of_the_model_are_those_of_its_files(page: Page, site: Path) -> None:
    at = page("model")
    report = json.loads((site / "models/run/evaluation/report.json").read_text())
    accuracy = report["accuracy"]["tta"]
    shown = html_of(at)
    assert f"{accuracy['value']:.2%}" in shown and f"{accuracy['interval'][0]:.2%}" in shown
    assert report["weights_digest"][:12] in shown
    assert "16 × 16 pixels" in shown


def test_a_model_without_an_evaluation_has_the_command_that_makes_one(page: Page, site: Path, tmp_path: Path) -> None:
    shutil.copytree(site / "models/run", tmp_path / "other", ignore=shutil.ignore_patterns("evaluation"))
    at = page("model", settings=WebSettings(tmp_path, page="model"))
    assert "python commands.py evaluate --checkpoint_name=other" in at.code[0].value


@pytest.mark.slow
def test_an_evaluation_of_other_weights_or_a_damaged_one_is_not_shown_as_that_of_the_model(
    page: Page, site: Path, tmp_path: Path
) -> None:
    shutil.copytree(site / "models/run", tmp_path / "other")
    file = tmp_path / "other/evaluation/report.json"
    report = json.loads(file.read_text())
    for change, said in (({"weights_digest": "0" * 64}, "other weights"), ({"accuracy": None}, "damaged")):
        file.write_text(json.dumps(report | change))
        at = page("model", settings=WebSettings(tmp_path, page="model"))
        assert not at.exception
        assert any(said in element.value for element in (*at.warning, *at.caption))


@pytest.mark.parametrize("local", [True, False])
def test_a_model_that_is_gone_is_told_with_the_others_and_without_a_path(
    page: Page, site: Path, tmp_path: Path, local: bool
) -> None:
    shutil.copytree(site / "models/run", tmp_path / "run")
    at = page("classify", settings=WebSettings(tmp_path, checkpoint_name="gone"), local=local)
    [error] = at.error
    assert "gone" in error.value and (str(tmp_path) in error.value) is local
    assert [element.value for element in at.info] == ["Choose another model at the side."]
    assert not at.code


def test_runs_of_the_folder_and_of_mlflow_are_one_table(page: Page, site: Path, tmp_path: Path) -> None:
    at = page("runs")
    assert not at.exception and not at.warning
    [table] = at.dataframe
    assert list(table.value["run"]) == ["run"]
    assert table.value["place"][0] == "folder, MLflow"
    scores = json.loads((site / "models/run/scores.json").read_text())
    assert table.value["accuracy"][0] == scores["test/accuracy"]
    elsewhere = page("runs", settings=WebSettings(tmp_path, page="runs"))  # MLflow alone knows the run
    assert list(elsewhere.dataframe[0].value["place"]) == ["MLflow"]
    assert elsewhere.get("vega_lite_chart")


def test_a_store_that_is_away_costs_one_line(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    start = time.monotonic()
    at = page("runs")
    assert time.monotonic() - start < 15
    assert "MLflow is not available" in at.warning[0].value and len(at.warning) == 1
    assert list(at.dataframe[0].value["run"]) == ["run"]
    assert at.get("vega_lite_chart")


def test_a_filter_leaves_the_runs_that_it_names(page: Page) -> None:
    at = page("runs")
    at.text_input(key="runs_filter").set_value("nothing like that").run()
    assert "0 of 1 runs" in [caption.value for caption in at.caption]
    assert not at.exception


def test_wrong_answers_are_found_in_the_data(page: Page, site: Path) -> None:
    at = page("data")
    assert "30 images" in at.caption[0].value
    at.segmented_control(key="data_kind").set_value("wrong").run()
    report = json.loads((site / "models/run/evaluation/report.json").read_text())
    wrong = sum(report["num_images"] - count["correct"] for count in [report["accuracy"]["tta"]])
    assert f"{wrong} images" in at.caption[0].value
    at.segmented_control(key="data_kind").set_value("right").run()
    assert f"{30 - wrong} images" in at.caption[0].value


def test_pages_of_the_data_are_turned(page: Page) -> None:
    at = page("data")
    at.segmented_control(key="data_split").set_value("train").run()
    assert "Page 1 of 2" in at.caption[1].value
    at.button(key="data_next").click().run()
    assert "Page 2 of 2" in at.caption[1].value and at.button(key="data_next").disabled
    at.selectbox(key="data_class").set_value(3).run()
    assert "Page 1 of 1" in at.caption[1].value


def test_data_that_have_gone_are_an_error_in_words(page: Page, site: Path, tmp_path: Path) -> None:
    shutil.copytree(site / "models/run/export", tmp_path / "exported/export")
    at = page("data", settings=WebSettings(tmp_path, page="data"))
    assert "not available" in at.error[0].value and not at.exception


def test_registered_models_are_offered_once_they_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def aliases() -> list[str]:
        calls.append(1)
        return ["models:/b@champion", "models:/a@champion"]

    monkeypatch.setattr(registered, "_aliases", aliases)
    models = RegisteredModels()
    assert models.refresh(wait_seconds=5) == ("models:/a@champion", "models:/b@champion")
    models.refresh(wait_seconds=5)
    assert len(calls) == 1  # it is not asked again within a minute


def test_a_registry_that_fails_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[str]:
        raise sqlite3.OperationalError("locked")

    monkeypatch.setattr(registered, "_aliases", fail)
    assert RegisteredModels().refresh(wait_seconds=5) == ()


@pytest.mark.slow
def test_darker_pictures_are_drift(page: Page, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "incoming.db"
    monkeypatch.setattr("cifar10.serving.web.drift.DEFAULT_PATH", file)
    predictor = Predictor.from_checkpoint(site / "models/run/export/model.onnx")
    assert "nothing to compare" in page("drift").info[0].value
    pixels = np.random.default_rng(0).integers(0, 30, (300, 16, 16, 3), np.uint8)
    log = DriftLog(predictor.origin["weights_digest"], file)
    log.add(pixels[:50], predictor.probabilities(pixels[:50]))
    log.flush()
    assert "Too few pictures to tell: 50" in page("drift").info[0].value
    log.add(pixels, predictor.probabilities(pixels))
    log.close()
    at = page("drift")
    assert "brightness" in at.warning[0].value and at.get("vega_lite_chart") and not at.exception
    for left in tmp_path.glob("incoming.db*"):
        left.write_bytes(b"no database, but something long enough to look at")
    assert "cannot be read" in page("drift").warning[0].value

"""Metrics of the configuration: computed, shown, recorded and monitored like accuracy."""

import csv
import json
from pathlib import Path

import pytest
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch.nn.functional import cross_entropy
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassF1Score

from cifar10.config.build import build
from cifar10.config.compose import ConfigError, load_config
from cifar10.config.conf_folder import options
from cifar10.config.schema import Component
from cifar10.config.targets import METRIC, BuildError
from cifar10.errors import UsageError
from cifar10.evaluate import evaluate
from cifar10.runs.checkpoints import load_checkpoint
from cifar10.train import train
from cifar10.training.metrics import MetricSet, is_higher_better
from tests.tiny_run import TINY


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


def test_a_set_adds_up_batches_in_double_precision_and_starts_anew() -> None:
    metrics = MetricSet({"f1": MulticlassF1Score(3)})
    generator = torch.Generator().manual_seed(0)
    for size in (7, 4):
        batches = [(torch.randn(size, 3, generator=generator), torch.arange(size) % 3) for _ in range(3)]
        for logits, labels in batches:
            metrics.update(cross_entropy(logits, labels), logits, labels)
        logits, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        values = metrics.compute(SingleDeviceStrategy())
        assert values["loss"] == pytest.approx(cross_entropy(logits, labels).item())
        assert values["accuracy"] == (logits.argmax(dim=1) == labels).double().mean().item()
        assert values["f1"] == pytest.approx(MulticlassF1Score(3)(logits, labels).item())


@pytest.mark.slow
def test_a_metric_is_in_the_lines_the_history_the_scores_and_the_evaluation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["model.width=4", "metric=[f1,calibration_error]", "training.monitor=val/f1", "run_name=a"]
    scores = train(load_config([*TINY, *words]))
    out, err = capsys.readouterr()
    assert f"; f1 {scores['test/f1_tta']:.4f}, calibration_error " in out
    epochs = [line for line in err.splitlines() if line.startswith("epoch ")]
    rows = list(csv.DictReader(Path("models/a/history.csv").read_text().splitlines()))
    assert len(epochs) == len(rows) == 2
    for line, row in zip(epochs, rows, strict=True):
        assert f", f1 {float(row['val/f1']):.3f}, calibration_error {float(row['val/calibration_error']):.3f}, " in line
    facts = json.loads(Path("models/a/scores.json").read_text())
    assert facts["test/f1"] == scores["test/f1"] and 0 <= facts["test/calibration_error_tta"] <= 1
    tested = {name: value for name, value in scores.items() if name.startswith("test/")}
    assert evaluate("a", report=False) == tested
    plain = train(load_config([*TINY, "model.width=4", "run_name=b"]))
    assert plain["test/accuracy"] == scores["test/accuracy"] and "test/f1" not in plain


@pytest.mark.slow
@pytest.mark.parametrize(("monitor", "is_lower"), [("val/calibration_error", True), ("val/f1", False)])
def test_the_best_epoch_is_that_of_the_monitored_metric_in_its_direction(monitor: str, is_lower: bool) -> None:
    words = ["model.width=4", "metric=[f1,calibration_error]", f"training.monitor={monitor}", "training.epochs=4"]
    train(load_config([*TINY, *words, "run_name=a"]))
    history = load_checkpoint(Path("models/a/last.ckpt")).history
    values = [epoch[monitor] for epoch in history]
    best = values.index(min(values) if is_lower else max(values))
    assert len(load_checkpoint(Path("models/a/best.ckpt")).history) == best + 1


def test_a_metric_that_does_not_say_what_is_better_is_not_monitored() -> None:
    class Undecided(MulticlassAccuracy):
        higher_is_better = None  # type: ignore[assignment]

    metrics: dict[str, Metric] = {"undecided": Undecided(3), "calibration_error": MulticlassCalibrationError(3)}
    assert not is_higher_better("val/loss", {}) and is_higher_better("val/accuracy", {})
    assert not is_higher_better("val/calibration_error", metrics)
    with pytest.raises(UsageError, match="Undecided does not define whether a higher value is better"):
        is_higher_better("val/undecided", metrics)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["metric=[f1,f2]"], "metric: there is no f2 among accuracy, calibration_error, f1, precision, recall"),
        (["training.monitor=val/f1"], r"training.monitor=val/f1 is not computed; choose one of .* metric=\[f1\]"),
        (["training.monitor=f1", "metric=f1"], r"did you mean val/f1\?"),
        (["training.monitor=train/loss"], r"training.monitor=train/loss is not computed"),
        (["metric=f1", "metric.f1.averge=macro"], r"metric.f1.averge.*did you mean metric.f1.average"),
        (["metric=f1", "metric.f1.num_classes=3"], "metric.f1.num_classes: is set by the program"),
        (["metric.x={_target_:torch.nn.Linear}"], "must be a torchmetrics.Metric"),
        (["metric.loss={_target_:torchmetrics.classification.MulticlassRecall}"], "the loss is always computed"),
    ],
)
def test_a_mistake_is_told_with_its_key(words: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_config(["data_loading=shapes", *words])


@pytest.mark.slow
@pytest.mark.parametrize("option", options("metric"))
def test_every_option_is_a_metric_of_its_name(option: str) -> None:
    (name,) = (config := load_config(["data_loading=shapes", f"metric={option}"])).metric
    assert name == option and isinstance(build(METRIC, config.metric[name], num_classes=3), Metric)


@pytest.mark.parametrize(
    "target", ["torchmetrics.image.fid.FrechetInceptionDistance", "torchmetrics.Metric", "os.system"]
)
def test_a_stranger_s_metric_is_one_for_classes(target: str) -> None:
    with pytest.raises(BuildError, match="may not be used here"):
        build(METRIC, Component.model_validate({"_target_": target}))

"""A sweep is validated as a whole before anything starts."""

from pathlib import Path

import pytest

from cifar10.config.sweep_plan import SweepPlan, plan_sweep
from cifar10.errors import UsageError
from tests.tiny_run import TINY


def planned(*words: str, study: str | None = None, trials: int | None = None) -> SweepPlan:
    return plan_sweep([*TINY, *words], study, trials)


def refusal(*words: str, study: str | None = None, trials: int | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        planned(*words, study=study, trials=trials)
    return "\n".join(getattr(caught.value, "problems", [str(caught.value)]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizr.lr=0.1,0.2"], "optimizr: there is no such setting; did you mean optimizer?"),
        (["optimizer.lr=0.1,-2"], "the grid: optimizer.lr: must be greater than 0, not -2"),
        (["model=simple_cn,speed"], "simple_cn"),
        (["augmentation.cutout=1,2.5"], "the grid: augmentation.cutout: "),
        (["training.monitor=val/loss,val/accuracy"], "compared by different metrics"),
        (["data_loading.seed=0,1"], "compared on different images"),
        (["training.devices=1,2"], "each trial is one process"),
        (["tracking.experiment=a,b"], "tracking must be the same in all trials"),
        (["run_name=a"], "run_name=a: --study=NAME names the trials"),
        (["experiment=pooling"], ""),
        (["data_loading.validation_size=0", "seed=0,1"], "compared on validation images"),
        (["training.devices=2", "seed=0,1"], "each trial is one process"),
        (["sweep=default", "seed=0,1"], "lists of values make a grid of their own; leave out sweep=default"),
        (["sweep=default", "sweep=teaching"], "choose one"),
        (["sweep.trials=3"], "a search space is changed in its file"),
        (["seed=0", "seed=0,1"], "seed is both fixed and listed"),
        (["augmentation.mixup=0.0,0.2", "augmentation.cutmix=0.1"], "mixup and cutmix exclude each other"),
    ],
)
def test_what_cannot_be_compared_or_trained_is_refused(words: list[str], message: str) -> None:
    assert message in refusal(*words)


@pytest.mark.parametrize("study", ["../x", "a/b", "", "best", "x.ckpt"])
def test_a_study_has_the_name_of_a_folder(study: str) -> None:
    if study:
        assert f"--study={study}" in refusal("seed=0,1", study=study)


@pytest.mark.slow
def test_each_choice_of_a_group_is_validated_with_the_others(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("parameters:\n  model: {choices: [speed, simple_cnn]}\n  model.width: {low: 8, high: 64}\n")
    message = refusal(f"sweep={file}")
    assert f"sweep={file}: model.width: there is no such setting; did you mean model.widths?" in message
    file.write_text("parameters:\n  optimizer.lr: {low: 0.1, high: 1.0}\n  model: {choices: [speed, simple_cnn]}\n")
    plan = planned(f"sweep={file}")
    assert plan.study == "sweep-space"
    words = plan.trial_words({"optimizer.lr": 0.5, "model": "simple_cnn"})
    assert words[len(TINY) :] == ["model=simple_cnn", "optimizer.lr=0.5"]


def test_both_ends_of_a_range_are_validated(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("parameters:\n  training.label_smoothing: {low: 0.0, high: 1.5}\n")
    assert f"sweep={file}: training.label_smoothing: must be less than 1, not 1.5" in refusal(f"sweep={file}")


@pytest.mark.slow
def test_a_fixed_setting_leaves_the_space() -> None:
    plan = plan_sweep(["optimizer.lr=0.1"])
    assert "optimizer.lr" not in plan.space.parameters and plan.space.parameters
    assert plan.config.optimizer.arguments["lr"] == 0.1


def test_a_grid_takes_no_number_of_trials_and_a_space_does(tmp_path: Path) -> None:
    assert "a grid has as many trials as points" in refusal("seed=0,1", trials=3)
    assert planned("seed=0,1").space.trials == 2
    assert plan_sweep([], trials=3).space.trials == 3


def test_the_configuration_of_a_trial_is_that_of_an_ordinary_run() -> None:
    plan = planned("optimizer.lr=0.1,0.2", "model.width=8,16")
    config = plan.config_of({"optimizer.lr": 0.2, "model.width": 8}, "trial-0003", "models/x")
    assert config.optimizer.arguments["lr"] == 0.2 and config.model.arguments["width"] == 8
    assert (config.run_name, config.models_dir) == ("trial-0003", "models/x")
    assert config.training == plan.config.training


def test_the_metric_is_the_monitor_or_the_accuracy() -> None:
    assert planned("seed=0,1").metric == "val/loss"
    assert planned("seed=0,1", "training.monitor=null").metric == "val/accuracy"


def test_facts_name_what_must_not_change() -> None:
    facts = planned("optimizer.lr=0.1,0.2").facts()
    assert facts["search space: optimizer.lr"] == {"choices": [0.1, 0.2]}
    assert facts["training.epochs"] == 2
    assert not [key for key in facts if key.startswith(("tracking", "models_dir"))]


def test_lists_of_mappings_can_be_swept() -> None:
    plan = plan_sweep(["data_loading=shapes", "training.resizing=[],[{until: 0.5, scale: 0.75}]"])
    [parameter] = plan.space.parameters.values()
    assert parameter.choices is not None
    for choice in parameter.choices:
        config = plan.config_of({"training.resizing": choice}, "trial", "models")
        assert [stage.model_dump() for stage in config.training.resizing] == choice

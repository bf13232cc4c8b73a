"""From overrides to a Config, or to everything that is wrong with them."""

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from pydantic import ValidationError

from cifar10.config.compose import ConfigError, load_config, with_changes
from cifar10.config.conf_folder import CONF, groups, options
from cifar10.config.schema import Config

QUICK = "data_loading=shapes"


def problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config([QUICK, *overrides])
    assert all("\n" not in problem for problem in caught.value.problems)
    return caught.value.problems


def load(*overrides: str) -> Config:
    return load_config([QUICK, *overrides])


def test_without_overrides_the_defaults_of_the_files_hold() -> None:
    config = load_config()
    assert config.training.epochs == yaml.safe_load((CONF / "training" / "default.yaml").read_text())["epochs"]
    assert config.data_loading.target == "cifar10.data.cifar.cifar10"


@pytest.mark.slow
@pytest.mark.parametrize("group", groups())
def test_every_file_of_conf_is_a_valid_choice(group: str) -> None:
    for option in options(group):
        assert isinstance(load_config([f"{group}={option}"]), Config), option


def test_a_choice_and_a_value_are_overridden_as_in_hydra() -> None:
    config = load("model=resnet18", "training.epochs=5", "model.width=16", "run_name=first-try")
    assert config.model.arguments == {"depth": 18, "width": 16}
    assert (config.training.epochs, config.run_name) == (5, "first-try")


def test_the_config_is_frozen() -> None:
    with pytest.raises(ValidationError):
        load().training.epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.gradient_clip=null", None),
        ("training.gradient_clip=1e-3", 0.001),
        ("+training.gradient_clip=2", 2.0),
        ("++training.gradient_clip=2.5", 2.5),
    ],
)
def test_null_exponents_and_pluses_are_understood(override: str, expected: Any) -> None:
    assert load(override).training.gradient_clip == expected


def test_lists_and_quoted_strings_are_understood() -> None:
    config = load("model.widths=[8,16,16]", 'tracking.experiment="кот = 1 (a)"', "models_dir='my models'")
    assert config.model.arguments["widths"] == [8, 16, 16]
    assert config.tracking.experiment == "кот = 1 (a)"
    assert config.models_dir == "my models"


def test_the_last_of_two_values_holds() -> None:
    assert load("seed=1", "seed=2").seed == 2


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_an_experiment_may_be_given_with_or_without_plus(plus: str) -> None:
    name = options("experiment")[0]
    assert load_config([f"{plus}experiment={name}"]) == load_config([f"experiment={name}"])


def test_overrides_win_over_an_experiment() -> None:
    assert load_config([f"experiment={options('experiment')[0]}", "training.epochs=77"]).training.epochs == 77


def test_environment_variables_are_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker.example:1")
    assert load("tracking=server").tracking.uri == "http://tracker.example:1"


@pytest.mark.parametrize("experiment", ["${oc.env:HOME}", r"\${seed}", r"\\${", "$${a}", "a\\"])
def test_settings_of_a_checkpoint_stay_as_they_are_written(experiment: str) -> None:
    config = load()
    config = config.model_copy(update={"tracking": config.tracking.model_copy(update={"experiment": experiment})})
    changed = with_changes(config, ["training.epochs=77", "data_loading.seed=${seed}"])
    assert changed.tracking.experiment == experiment
    assert changed.training.epochs == 77 and changed.data_loading.arguments["seed"] == config.seed


def test_defaults_of_signatures_are_filled_in() -> None:
    assert load("~model.whiten_size").model.arguments["whiten_size"] == load().model.arguments["whiten_size"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.epochs=abc", "training.epochs: must be a whole number, not abc"),
        ("training.epochs=[1,2]", "training.epochs: must be a whole number, not [1, 2]"),
        ("training.epochs=true", "training.epochs: must be a whole number, not true"),
        ("training.epochs=-1", "training.epochs: must be greater than 0, not -1"),
        ("training.epochs=null", "training.epochs: must be a whole number, not null"),
        ("training.label_smoothing=1", "training.label_smoothing: must be less than 1, not 1"),
        ("training.label_smoothing=nan", "training.label_smoothing: must be a finite number, not NaN"),
        ("training.compile=yess", "training.compile: must be true or false, not yess"),
        ("training.epcohs=5", "training.epcohs: there is no such setting; did you mean training.epochs?"),
        ("+training.epcohs=5", "training.epcohs: there is no such setting; did you mean training.epochs?"),
        ("epochs=5", "epochs: there is no such setting; did you mean training.epochs?"),
        ("modle=resnet18", "modle: there is no such setting; did you mean model?"),
        ("modle.width=5", "modle: there is no such setting; did you mean model?"),
        ("model.num_classes=5", "model.num_classes: is set by the program; leave it out"),
        ("model._target_=os.system", "model._target_: os.system may not be used"),
        ("model._target_=null", "model: needs a _target_"),
        ("~model._target_", "model: needs a _target_"),
        ("~model", "model: cannot be left out; choose one of"),
        ("~training.epochs", "training.epochs: is missing"),
        ("~training.epcohs", "training.epcohs: there is no such value to leave out; did you mean training.epochs?"),
        ("optimizer.lr=fast", "optimizer.lr: must be a number, not fast"),
        ("seed.x=5", 'seed: must be a whole number, not {"x": 5}'),
        ("model.widht=[1,2,3]", "model.widht: there is no such setting; did you mean model.widths?"),
        ("run_name=../../etc/passwd", "run_name: must be a plain folder name"),
        ("run_name=2024", """run_name: must be a string, as 2024 is only in quotes: 'run_name="2024"'"""),
        ("run_name=${oc.env:NO_SUCH_VARIABLE_1}", "run_name: cannot be set to ${oc.env:NO_SUCH_VARIABLE_1}"),
        ("models_dir=${nowhere}", "models_dir: cannot be set to ${nowhere}: Interpolation key 'nowhere' not found"),
    ],
)
def test_what_cannot_be_meant_is_told_with_its_key(override: str, expected: str) -> None:
    [told] = problems(override)
    assert expected in told


def test_rules_between_settings_are_told_with_their_section() -> None:
    told = problems(
        *("training.batch_size=7", "training.accumulate=2"), *("augmentation.mixup=1", "augmentation.cutmix=0.5")
    )
    assert told[0].startswith("augmentation: mixup and cutmix exclude each other")
    assert told[1].startswith("training: batch_size=7 must be divisible")


def test_all_problems_are_told_at_once() -> None:
    told = problems(
        "training.epochs=0", "optimizer.lrr=1", "seed=-1", "schedule.warmup=x", "modle=speed", "evaluation.tta=a"
    )
    assert len(told) == 6


def test_unreadable_overrides_wrong_choices_and_wrong_values_are_told_together() -> None:
    told = problems("model=resnet1", "a", "b=#", "training=shortest", "models_dir=${nowhere}", "seed=-1", "modl=1")
    assert len(told) == 7


def test_what_follows_from_a_wrong_choice_is_not_told() -> None:
    assert len(problems("model=resnet1", "model.depth=18", "seed=-1")) == 2


@pytest.mark.slow
def test_hydra_of_a_host_program_is_left_alone() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        load()
        assert GlobalHydra.instance().hydra is hydra
        assert compose("config").seed == load().seed
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.slow
def test_threads_do_not_disturb_each_other() -> None:
    seeds: dict[int, int] = {}

    def work(seed: int) -> None:
        seeds[seed] = load(f"seed={seed}").seed

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seeds == {seed: seed for seed in range(6)}


def test_a_yaml_file_that_is_no_yaml_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cifar10.config import compose as compose_module
    from cifar10.config import conf_folder

    copy = tmp_path / "conf"
    shutil.copytree(CONF, copy)
    (copy / "model" / "broken.yaml").write_text("_target_: [\n")
    monkeypatch.setattr(conf_folder, "CONF", copy)
    monkeypatch.setattr(compose_module, "CONF", copy)
    [told] = problems("model=broken")
    assert "broken.yaml" in told

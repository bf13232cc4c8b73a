"""The configuration as YAML, each value with its origin."""

import functools
import re
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from cifar10.config.compose import ConfigError, load_config
from cifar10.config.conf_folder import CONF, options
from cifar10.config.explain import explain

QUICK = "data_loading=shapes"


@functools.cache
def origins(*overrides: str) -> dict[str, str]:
    """Return where each value came from, by its dotted key, as the text says."""
    found: dict[str, str] = {}
    outside: list[str] = []
    for line in explain([QUICK, *overrides]).splitlines():
        match = re.fullmatch(r"( *)([\w.]+):(?: .*?  # (.+)| {})?", line)
        assert match, line
        indent, key, origin = match.groups()
        outside[len(indent) // 2 :] = [key]
        if origin:
            found[".".join(outside)] = origin
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model=resnet18", "training=long", "tracking=server", "optimizer=adamw", "schedule=cosine"],
        [
            "models_dir='my: models # here'",
            'tracking.experiment="кот: \\"1\\""',
            "run_name=007",
            "model.widths=[1,2,3]",
        ],
        ["tracking.experiment='2024-11-05'", "tracking.artifacts='null'", "models_dir='1e5'", "run_name=yes.no"],
    ],
)
def test_the_text_reads_back_to_the_configuration(overrides: list[str]) -> None:
    assert yaml.safe_load(explain([QUICK, *overrides])) == load_config([QUICK, *overrides]).plain()


def test_names_beyond_ascii_stay_readable() -> None:
    assert "  experiment: кот " in explain([QUICK, 'tracking.experiment="кот"'])


def test_every_value_has_an_origin() -> None:
    assert set(origins()) == {
        f"{section}.{key}" if isinstance(values, dict) else section
        for section, values in load_config([QUICK]).plain().items()
        if values != {}
        for key in (values if isinstance(values, dict) else [None])
    }


@pytest.mark.parametrize(
    ("key", "origin"),
    [
        ("seed", "conf/config.yaml"),
        ("run_name", "command line"),
        ("model._target_", "conf/model/resnet18.yaml"),
        ("model.width", "command line"),
        ("training.epochs", "conf/training/long.yaml"),
        ("training.channels_last", "conf/training/default.yaml"),
        ("tracking.uri", "conf/tracking/server.yaml"),
        ("tracking.backend", "conf/tracking/mlflow.yaml"),
        ("optimizer.momentum", "default of cifar10.optimizers.muon.muon"),
        ("evaluation.tta", "command line"),
        ("metric.f1.average", "conf/metric/f1.yaml"),
        ("metric.f1.zero_division", "default of torchmetrics.classification.MulticlassF1Score"),
        ("evaluation.batch_size", "conf/evaluation/default.yaml"),
    ],
)
def test_a_value_is_traced_to_who_set_it_last(key: str, origin: str) -> None:
    overrides = "model=resnet18 model.width=8 training=long tracking=server run_name=x ~optimizer.momentum metric=f1"
    assert origins(*overrides.split(), "+evaluation.tta=none")[key] == origin


def test_an_experiment_is_named_for_what_it_sets() -> None:
    name = options("experiment")[0]
    content = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text())
    section, key = next((s, k) for s, values in content.items() if isinstance(values, dict) for k in values)
    found = origins(f"experiment={name}")
    assert found[f"{section}.{key}"] == f"conf/experiment/{name}.yaml"
    assert found["seed"] == "conf/config.yaml"


def test_each_file_that_is_named_holds_the_value() -> None:
    values = load_config([QUICK, "training=long"]).plain()
    for key, origin in origins("training=long").items():
        section, _, name = key.rpartition(".")
        content = yaml.safe_load((CONF.parent / origin).read_text())
        written = OmegaConf.create({"value": content[name]})["value"]  # which may name a variable of the environment
        assert written == (values[section][name] if section else values[name]), key


def test_the_origins_stand_in_one_column() -> None:
    columns = {line.index("  # ") for line in explain([QUICK]).splitlines() if "  # " in line}
    assert len(columns) == 1


def test_a_wrong_setting_is_refused_as_in_training() -> None:
    with pytest.raises(ConfigError, match=r"did you mean training\.epochs"):
        explain([QUICK, "training.epoch=3"])


def test_conf_is_beside_the_package() -> None:
    assert Path(explain.__code__.co_filename).parents[2] / "conf" == CONF

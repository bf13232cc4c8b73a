"""What each section of a configuration may build: of all that the package and its neighbours offer, the parts meant."""

import contextlib
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
import torchmetrics
import torchvision
from torchmetrics import classification

import cifar10
from cifar10.config.build import build
from cifar10.config.compose import load_config
from cifar10.config.conf_folder import options, values_of
from cifar10.config.schema import Component
from cifar10.config.targets import ENGINE, EXPORT, METRIC, MODEL, ROLES, BuildError, Role
from cifar10.errors import UsageError

MEANT = {
    "data_loading": {
        "cifar10.data.cifar.cifar10",
        "cifar10.data.cifar.cifar100",
        "cifar10.data.folder.folder",
        "cifar10.data.shapes.shapes",
    },
    "model": {
        "cifar10.networks.pretrained.TorchvisionNetwork",
        "cifar10.networks.timm_model.TimmNetwork",
        "cifar10.networks.pooling.average_pool.AveragePoolCNN",
        "cifar10.networks.pooling.max_pool.MaxPoolCNN",
        "cifar10.networks.pooling.stride.StrideCNN",
        "cifar10.networks.resnet.ResNet",
        "cifar10.networks.simple_cnn.SimpleCNN",
        "cifar10.networks.speed.SpeedNet",
    },
    "selection": {
        "cifar10.training.hard_example_mining.AllExamples",
        "cifar10.training.hard_example_mining.HardExampleMining",
    },
    "optimizer": {
        "cifar10.optimizers.direct_adam.DirectAdam",
        "cifar10.optimizers.muon.muon",
        "cifar10.optimizers.standard.adam",
        "cifar10.optimizers.standard.adamw",
        "cifar10.optimizers.standard.sgd",
    },
    "schedule": {f"cifar10.optimizers.schedules.{name}" for name in ("Constant", "Cosine", "Linear", "OneCycle")},
}
"""Section -> everything in this package that it may name."""


def modules_below(package: ModuleType) -> Iterator[ModuleType]:
    yield package
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        yield importlib.import_module(found.name)


def public_callables(package: ModuleType) -> set[str]:
    """Return the dotted name of every public function and class that can be reached in `package`, imported ones too."""
    return {
        f"{module.__name__}.{name}"
        for module in modules_below(package)
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_")
    }


def is_accepted(section: str, dotted: str) -> bool:
    return fits(ROLES[section], dotted)


def fits(role: Role, dotted: str) -> bool:
    try:
        role.locate(dotted)
    except BuildError:
        return False
    return True


@pytest.mark.parametrize("section", ROLES)
def test_of_every_public_callable_of_the_package_a_section_may_name_only_those_meant(section: str) -> None:
    names = public_callables(cifar10)
    assert len(names) > 300  # functions and classes of all modules, or the test looks at nothing
    assert {name for name in names if is_accepted(section, name)} == MEANT[section]


def test_of_torch_optim_only_optimizers_that_step_without_a_closure_are_accepted() -> None:
    names = public_callables(torch.optim)
    accepted = {name for name in names if is_accepted("optimizer", name)}
    assert {"torch.optim.SGD", "torch.optim.AdamW", "torch.optim.RMSprop"} <= accepted
    for name in accepted:
        target: Any = ROLES["optimizer"].locate(name)
        assert issubclass(target, torch.optim.Optimizer) and target not in (torch.optim.Optimizer, torch.optim.LBFGS)
    assert not any(is_accepted(section, name) for section in ROLES for name in names if section != "optimizer")


def test_of_torchvision_only_classifiers_are_accepted_and_only_as_a_model() -> None:
    names = [f"torchvision.models.{name}" for name in vars(torchvision.models) if not name.startswith("_")]
    accepted = {name for name in names if is_accepted("model", name)}
    assert accepted == {f"torchvision.models.{name}" for name in torchvision.models.list_models(torchvision.models)}
    assert not any(is_accepted(section, name) for section in ROLES for name in names if section != "model")


@pytest.mark.parametrize("section", ROLES)
def test_what_a_section_refuses_is_not_called(section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr("cifar10.data.download.download", lambda *_, **__: called.append("download"))
    monkeypatch.setattr("cifar10.demo.demo", lambda: called.append("demo"))
    for dotted in (
        "cifar10.data.download.download",
        "cifar10.demo.demo",
        "cifar10.training.checkpointing.amend_checkpoint",
    ):
        with pytest.raises(BuildError, match="may not be used here"):
            build(ROLES[section], Component.model_validate({"_target_": dotted}))
    assert called == []


def test_a_module_outside_the_packages_of_a_role_is_not_even_imported() -> None:
    with pytest.raises(BuildError):
        MODEL.locate("this.Network")  # importing `this` would print
    with pytest.raises(BuildError):
        ROLES["data_loading"].locate("cifar10.networks.speed.SpeedNet")


def test_a_metric_is_a_class_of_torchmetrics_for_several_classes() -> None:
    names = public_callables(cifar10) | {f"torchmetrics.classification.{name}" for name in vars(classification)}
    accepted = {name for name in names if fits(METRIC, name)}
    assert {"torchmetrics.classification.MulticlassF1Score", "torchmetrics.classification.MulticlassAUROC"} <= accepted
    for name in accepted:
        target: Any = METRIC.locate(name)
        assert issubclass(target, torchmetrics.Metric) and "num_classes" in inspect.signature(target).parameters


def test_a_format_is_one_of_its_package() -> None:
    accepted = {name for name in public_callables(cifar10) if fits(EXPORT, name)}
    assert {name.rpartition(".")[2] for name in accepted} == {
        str(name).rpartition(".")[2] for name in values_of("export", "_target_")
    }


def test_an_engine_is_a_function_of_its_package_that_takes_a_checkpoint() -> None:
    names = ("auto", "native", "native_int8", "onnx", "pytorch")
    meant = {f"cifar10.inference.engines.{engine}.load" for engine in names}
    accepted = set()
    for name in public_callables(cifar10):
        with contextlib.suppress(BuildError):
            ENGINE.locate(name)
            accepted.add(name)
    assert accepted == meant


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit_b_32", "googlenet", "squeezenet1_1"])
def test_a_classifier_of_torchvision_takes_pixels_and_returns_logits(name: str) -> None:
    size = 32
    with torch.device("meta"):  # shapes only
        network = build(MODEL, Component.model_validate({"_target_": f"torchvision.models.{name}"}), **sizes(5, size))
        logits = network(torch.zeros(2, 3, size, size, dtype=torch.uint8))
    assert logits.shape == (2, 5)


def sizes(num_classes: int, image_size: int) -> dict[str, int]:
    return {"num_classes": num_classes, "image_size": image_size}


def test_settings_of_torchvisions_class_are_settings_of_the_model() -> None:
    words = ["model=torchvision", "model._target_=torchvision.models.resnet50", "model.width_per_group=128"]
    config = load_config(words)
    with torch.device("meta"):
        network: Any = build(MODEL, config.model, **sizes(10, 32))
    assert network.network.layer1[0].conv2.weight.shape[0] == 128


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("weights=DEFAULT", "model.weights: there is no such setting"),
        ("num_classes=3", "model.num_classes: is set by the program"),
        ("groups=many", "model.groups: must be a whole number, not many"),
    ],
)
def test_a_wrong_setting_of_a_torchvision_model_is_one_short_line(setting: str, complaint: str) -> None:
    with pytest.raises(UsageError) as refusal:
        load_config(["model=torchvision", f"model.{setting}"])
    assert complaint in str(refusal.value)
    assert len(str(refusal.value)) < 200


def test_a_setting_that_torchvision_fixes_itself_is_refused_in_one_line() -> None:
    part: dict[str, Any] = {"_target_": "torchvision.models.densenet121", "growth_rate": 7}
    with pytest.raises(ValueError, match="growth_rate") as refusal:
        build(MODEL, Component.model_validate(part), **sizes(10, 32))
    assert len(str(refusal.value).splitlines()) == 1


def test_every_role_of_the_configuration_is_a_component_and_the_other_way_round() -> None:
    from cifar10.config.schema import Config

    components = {name for name, field in Config.model_fields.items() if field.annotation is Component}
    assert components == set(ROLES)


@pytest.mark.slow
def test_every_option_of_the_configuration_is_accepted_by_its_role() -> None:
    for section in ROLES:
        for option in options(section):
            target = getattr(load_config([f"{section}={option}"]), section).target
            assert inspect.isroutine(ROLES[section].locate(target)) or inspect.isclass(ROLES[section].locate(target))

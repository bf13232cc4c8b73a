"""What may be built, with which arguments, and what is said when it may not."""

import dataclasses
import math
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, PositiveInt

from cifar10.config.build import build, component_problems, fill_defaults, require_buildable
from cifar10.config.compose import load_config
from cifar10.config.schema import Component
from cifar10.config.targets import OPTIMIZER, ROLES, BuildError, Role


class Network:
    """A target with all the kinds of arguments that ours have."""

    def __init__(
        self,
        width: PositiveInt,
        num_classes: int,
        image_size: int,
        rates: tuple[float, float] = (0.1, 0.2),
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        stem: Literal["small", "large"] = "small",
        bias: bool = True,
        names: list[str] | None = None,
        copy: int = 1,
    ) -> None:
        self.arguments = {name: value for name, value in locals().items() if name != "self"}


def takes_anything(number, **more):  # type: ignore[no-untyped-def]
    return number, more


def not_plain(size: int = 3, activation: Any = math.tanh) -> int:
    return size


def other_names(params: list[int]) -> list[int]:
    return params


ANY = Role((f"{__name__}.", "cifar10.networks."), "a part of this test", lambda target: True)
FED = dataclasses.replace(ANY, provided=("network", "params"))
SIZED = dataclasses.replace(ANY, provided=("num_classes", "image_size"))


def component(target: str, **arguments: Any) -> Component:
    dotted = target if "." in target else f"{__name__}.{target}"
    return Component.model_validate({"_target_": dotted, **arguments})


def told(part: Component) -> list[str]:
    return [str(problem) for problem in component_problems(SIZED, part)]


def test_a_target_gets_its_arguments_and_what_the_caller_provides() -> None:
    network = build(SIZED, component("Network", width=8, stem="large"), num_classes=10, image_size=32)
    assert network.arguments["width"] == 8
    assert network.arguments["stem"] == "large"
    assert network.arguments["num_classes"] == 10


def test_a_list_arrives_as_the_tuple_that_the_hint_names() -> None:
    network = build(SIZED, component("Network", width=8, rates=[1, 0.5]), num_classes=10, image_size=32)
    assert network.arguments["rates"] == (1.0, 0.5)


def test_what_is_provided_reaches_only_those_who_have_a_parameter_for_it() -> None:
    assert build(FED, component("other_names"), network="unused", params=[1, 2]) == [1, 2]
    assert build(ANY, component("takes_anything", number=1), network="used") == (1, {"network": "used"})


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "cifar10",
        "cifar10_evil.run",
        "cifar10.config.build.importlib.import_module",
        "cifar10.config.build.inspect",
        "cifar10.config.build.Path",
        "cifar10.config.build._import",
        "torch.optim._multi_tensor.SGD",
        "torch.load",
        "",
        "...",
        "cifar10.",
    ],
)
@pytest.mark.parametrize("section", ROLES)
def test_nothing_outside_the_packages_of_a_role_is_built(section: str, target: str) -> None:
    part = Component.model_validate({"_target_": target})
    with pytest.raises(BuildError):
        build(ROLES[section], part)
    [problem] = component_problems(ROLES[section], part)
    assert problem.key == "_target_"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"width": "abc"}, "width: must be a whole number, not abc"),
        ({"width": True}, "width: must be a whole number, not true"),
        ({"width": "8"}, 'width: must be a whole number, not "8"'),
        ({"width": 2.0}, "width: must be a whole number, not 2.0"),
        ({"width": 0}, "width: must be greater than 0, not 0"),
        ({"width": None}, "width: must be a whole number, not null"),
        ({"width": 8, "dropout": 1}, "dropout: must be less than 1, not 1"),
        ({"width": 8, "dropout": False}, "dropout: must be a number, not false"),
        ({"width": 8, "dropout": math.nan}, "dropout: must be a finite number, not NaN"),
        ({"width": 8, "stem": "smal"}, "stem: must be 'small' or 'large', not smal"),
        ({"width": 8, "bias": "yes"}, "bias: must be true or false, not yes"),
        ({"width": 8, "rates": [1, 2, 3]}, "rates: must have at most 2 items, not 3"),
        ({"width": 8, "rates": [1, "x"]}, "rates.1: must be a number, not x"),
        ({"width": 8, "names": ["cat", 3]}, "names.1: must be a string, as 3 is only in quotes"),
        ({"width": 8, "copy": "x"}, "copy: must be a whole number, not x"),
        ({}, "width: is missing"),
        ({"width": 8, "widht": 3}, "widht: there is no such setting; did you mean width?"),
        ({"width": 8, "num_classes": 3}, "num_classes: is set by the program; leave it out"),
    ],
)
def test_arguments_are_held_against_the_signature(arguments: dict[str, Any], expected: str) -> None:
    assert told(component("Network", **arguments)) == [expected]


def test_every_wrong_argument_is_told_at_once() -> None:
    assert len(told(component("Network", widht=3, stem=1, dropout=-1, image_size=3))) == 5


@pytest.mark.parametrize("arguments", [{"width": 8, "rates": [1, 2]}, {"width": 8, "names": None, "dropout": 0}])
def test_right_arguments_raise_no_problem(arguments: dict[str, Any]) -> None:
    assert told(component("Network", **arguments)) == []


def test_parameters_without_hints_take_anything() -> None:
    assert component_problems(ANY, component("takes_anything", number="x")) == []


def test_build_refuses_what_does_not_fit_even_if_nobody_asked_before() -> None:
    with pytest.raises(BuildError, match=r"width: must be greater than 0, not -1"):
        build(SIZED, component("Network", width=-1), num_classes=10, image_size=32)


def test_defaults_of_the_signature_are_filled_in_as_plain_values() -> None:
    full = fill_defaults(SIZED, component("Network", width=8, bias=False))
    assert full.arguments == {
        "width": 8,
        "bias": False,
        "rates": [0.1, 0.2],
        "dropout": 0.0,
        "stem": "small",
        "names": None,
        "copy": 1,
    }


def test_a_default_that_yaml_cannot_write_stays_the_functions_own() -> None:
    full = fill_defaults(ANY, component("not_plain"))
    assert full.arguments == {"size": 3}
    assert build(ANY, full) == 3


def test_a_misspelt_function_is_told_with_the_nearest() -> None:
    [problem] = component_problems(ANY, component("Netwrok"))
    assert problem.message == f"{__name__} has no Netwrok; did you mean Network?"


def test_a_misspelt_module_is_told_with_the_nearest() -> None:
    [problem] = component_problems(ANY, component("cifar10.networks.simple_cn.SimpleCNN"))
    assert problem.message == "there is no cifar10.networks.simple_cn; did you mean simple_cnn?"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import no_such_package_at_all", r"needs the package no_such_package_at_all, which is not installed"),
        ("1 / 0", r"cannot be imported: ZeroDivisionError: division by zero \(broken.py, line 1\)"),
        ("def f(:", r"cannot be imported: SyntaxError: .*broken.py, line 1"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_in_one_line(
    source: str, expected: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "trusted_for_test"
    package.mkdir()
    (package / "broken.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    role = dataclasses.replace(ANY, packages=("trusted_for_test.",))
    [problem] = component_problems(role, component("trusted_for_test.broken.f"))
    assert problem.key == "_target_"
    assert "\n" not in problem.message
    with pytest.raises(BuildError, match=expected):
        build(role, component("trusted_for_test.broken.f"))


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_optimizers_of_torch_are_checked_by_their_own_signatures(name: str) -> None:
    assert component_problems(OPTIMIZER, component(f"torch.optim.{name}", lr=0.1)) == []
    [problem] = component_problems(OPTIMIZER, component(f"torch.optim.{name}", lr="fast"))
    assert problem.key == "lr"


def test_before_training_every_component_is_imported_and_checked() -> None:
    config = load_config(["data_loading=shapes"])
    require_buildable(config)
    wrong = {
        "schedule": component("cifar10.optimizers.schedules.Schedule"),
        "selection": component("cifar10.training.hard_example_mining.AllExamples", part=1),
    }
    with pytest.raises(BuildError) as refusal:
        require_buildable(config.model_copy(update=wrong))
    assert len(str(refusal.value).splitlines()) == len(wrong)
    assert "selection.part: there is no such setting" in str(refusal.value)
    assert "schedule._target_: cifar10.optimizers.schedules.Schedule may not be used here" in str(refusal.value)

"""The overrides that choose the data set and the network of another configuration."""

import shlex

import pytest

from cifar10.config.choices import same_data_and_network
from cifar10.config.compose import load_config


@pytest.mark.parametrize(
    "words",
    [
        "",
        "experiment=demo",
        "data_loading=shapes data_loading.image_size=16 model=resnet18",
        "data_loading=cifar100 model.widths=[8,16,16]",
        "data_loading=folder 'data_loading.root=/a b/c' model=resnet50 model.width=8",
        "data_loading.classes=[cat,dog]",
        "model=torchvision model._target_=torchvision.models.vgg11",
    ],
)
def test_they_compose_the_same_data_and_network(words: str) -> None:
    config = load_config(shlex.split(words))
    again = load_config(same_data_and_network(config.plain()))
    assert (again.data_loading, again.model) == (config.data_loading, config.model)


@pytest.mark.parametrize("section", [None, [], "shapes", {}, {"_target_": "os.system"}, {"_target_": 3}])
def test_a_section_that_names_no_part_of_the_program_gives_no_overrides(section: object) -> None:
    assert same_data_and_network({"data_loading": section, "model": section}) == []


def test_defaults_need_none_and_typed_ones_are_not_repeated() -> None:
    assert same_data_and_network(load_config().plain()) == []
    values = load_config(["data_loading=shapes", "model=resnet18"]).plain()
    assert same_data_and_network(values, {"data_loading": "data_loading=shapes"}) == ["model=resnet18"]

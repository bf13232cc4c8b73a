"""Groups of classes: sums of probabilities, checked against the classes of the network."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
import yaml

from cifar10.cli.checks import require_grouping
from cifar10.config.conf_folder import CONF, options
from cifar10.errors import UsageError
from cifar10.inference.grouping import UNSURE, ClassGroups, Grouping, read_grouping

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NAMES = ("cat", "dog", "fox", "car", "bus-2", "van")


def grouping(**values: Any) -> Grouping:
    return Grouping.model_validate({"groups": {"pet": ["cat", 1], "vehicle": ["3-5"]}, **values})


def random_probabilities(num_images: int = 50) -> "np.typing.NDArray[np.float32]":
    values = np.random.default_rng(0).dirichlet(np.ones(len(NAMES)), num_images)
    return values.astype(np.float32)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("groups: {cat: [cat], dog: [dog], cat: [ship]}", "cat is there twice"),
        ("groups: {cat: [cat]}\nthreshold: 0.1\nthreshold: 0.2", "line 3: threshold is there twice"),
        ("groups: {cat: &a [cat], dog: *a}", "aliases are not allowed"),
        ("a: &a [x]\nb: &b [*a, *a]\ngroups: {cat: *b}", "aliases are not allowed"),
        ("groups: {cat: [cat]}\nexpects: {-7: cat}", "expects"),
    ],
)
def test_a_file_that_does_not_mean_what_it_says_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_grouping(str(tmp_path / "own.yaml"))


@pytest.mark.parametrize("threshold", ["0,8", "80%", "abc", ""])
def test_a_threshold_that_is_no_number_is_named(threshold: str) -> None:
    with pytest.raises(UsageError, match=f"^grouping.threshold={threshold} is not a number"):
        read_grouping("animals", threshold)


def test_two_groupings_are_one_too_many() -> None:
    with pytest.raises(UsageError, match="grouping=animals and grouping=cats_vs_dogs: choose one"):
        require_grouping(["grouping=animals", "grouping=cats_vs_dogs"])


def test_groups_and_the_rest_sum_to_one() -> None:
    groups, probabilities = grouping().bind(NAMES), random_probabilities()
    assert groups.names == ("pet", "vehicle", "neither")
    found = groups.probabilities(probabilities)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(found[:, 0], probabilities[:, :2].sum(axis=1), atol=1e-6)
    np.testing.assert_allclose(found[:, 1], probabilities[:, 3:].sum(axis=1), atol=1e-6)
    np.testing.assert_allclose(found[:, 2], probabilities[:, 2], atol=1e-6)


def test_the_rest_is_never_below_zero() -> None:
    groups = grouping(groups={"all": ["0-5"]}).bind(NAMES)
    assert groups.probabilities(random_probabilities(1000))[:, 1].min() >= 0


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([0.4, 0.2, 0.3, 0.1, 0, 0], "pet"),
        ([0.1, 0.1, 0.6, 0.2, 0, 0], "neither"),
        ([0.4, 0.09, 0.3, 0.21, 0, 0], UNSURE),
        ([0.25, 0.25, 0.5, 0, 0, 0], "pet"),  # of equally probable groups the first
    ],
)
def test_the_most_probable_group_is_named_if_it_reaches_the_threshold(row: list[float], expected: str) -> None:
    [result] = grouping().bind(NAMES).results(np.array([row], np.float32))
    assert result.name == expected
    assert list(result.probabilities) == ["pet", "vehicle", "neither"]


def test_the_threshold_decides_what_is_unsure() -> None:
    row = np.array([[0.4, 0.3, 0.2, 0.1, 0, 0]], np.float32)
    names = {t: grouping(threshold=t).bind(NAMES).results(row)[0].name for t in (0.0, 0.69, 0.71)}
    assert names == {0.0: "pet", 0.69: "pet", 0.71: UNSURE}


def test_without_a_rest_there_is_no_column_for_it() -> None:
    groups = grouping(rest=None).bind(NAMES)
    assert groups.names == ("pet", "vehicle") and groups.outcomes == ("pet", "vehicle", UNSURE)
    assert groups.probabilities(random_probabilities(3)).shape == (3, 2)


def test_the_name_of_a_class_comes_before_a_range() -> None:
    names = [*NAMES[:5], "0-1"]
    assert grouping(groups={"one": ["0-1"], "two": ["bus-2"]}).bind(names).members == {"one": (5,), "two": (4,)}


@pytest.mark.parametrize(
    ("groups", "complaint"),
    [
        ({"a": ["0-6"]}, "0-6 is not in the ids of the network's classes, 0 to 5"),
        ({"a": [6]}, "6 is not in the ids"),
        ({"a": [-1]}, "-1 is not in the ids"),
        ({"a": ["3-1"]}, "3-1 is not in the ids"),
        ({"a": ["0-99999999999999999999"]}, "is not in the ids"),
        ({"a": [0], "b": ["cat"]}, "cat would be counted twice"),
        ({"a": ["dgo"]}, "no class dgo; did you mean dog?"),
        ({"a": ["zebra"]}, "no class zebra; its classes: cat, dog, fox and 3 more"),
    ],
)
def test_classes_that_the_network_does_not_have_are_refused(groups: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match="grouping: ") as refusal:
        grouping(groups=groups).bind(NAMES)
    assert complaint in str(refusal.value)


def test_ids_of_another_network_are_not_mistaken() -> None:
    with pytest.raises(UsageError, match="whose class 1 is wolf, not dog"):
        grouping(expects={1: "wolf"}).bind(NAMES)
    with pytest.raises(UsageError, match="whose class 151 is Chihuahua, not one of cat, dog, fox and 3 more"):
        read_grouping("cats_vs_dogs").bind(NAMES)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("groups: {cat: [1]}\nthreshhold: 1", "did you mean threshold?"),
        ("groups: {cat: [1]}\nthreshold: 2", "threshold: must be less than or equal to 1"),
        ("groups: {}", "groups: "),
        ("groups: {cat: []}", "groups.cat: "),
        ("groups: {neither: [1]}", "the name neither has another meaning"),
        ("groups: {unsure: [1]}", "the name unsure has another meaning"),
        ("[1, 2]", "must be a mapping"),
        ("groups: {cat: [1}", "line 1"),
        ("groups: {cat: [1.5]}", "groups.cat.0: "),
        ("", "must be a mapping"),
    ],
)
def test_a_wrong_file_is_refused_in_few_lines(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"grouping: .*mine\.yaml") as refusal:
        read_grouping(str(tmp_path / "mine.yaml"))
    assert complaint in str(refusal.value) and len(str(refusal.value).splitlines()) <= 3


def test_a_file_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"did you mean cats_vs_dogs\?"):
        read_grouping("cats_vs_dog")
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_grouping("mine.yaml")
    with pytest.raises(UsageError, match="there is no such grouping"):
        read_grouping("../grouping/animals")


def test_the_threshold_of_a_file_can_be_replaced() -> None:
    assert read_grouping("cats_vs_dogs", "0.7").threshold == 0.7
    for wrong in ("2", "many", "nan"):
        with pytest.raises(UsageError, match=r"^grouping"):
            read_grouping("cats_vs_dogs", wrong)


def test_cats_and_dogs_are_the_breeds_of_imagenet() -> None:
    names = torchvision.models.ResNet152_Weights.DEFAULT.meta["categories"]
    groups = read_grouping("cats_vs_dogs").bind(names)
    assert [names[i] for i in groups.members["cat"]] == [
        "tabby",
        "tiger cat",
        "Persian cat",
        "Siamese cat",
        "Egyptian cat",
    ]
    dogs = [names[i] for i in groups.members["dog"]]
    assert len(dogs) == 118 and (dogs[0], dogs[-1]) == ("Chihuahua", "Mexican hairless")
    assert {names[150], names[269], names[280], names[286]} == {"sea lion", "timber wolf", "grey fox", "cougar"}


@pytest.mark.parametrize("name", options("grouping"))
def test_each_file_fits_the_network_that_it_is_for(name: str) -> None:
    names = CIFAR10 if name == "animals" else torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"]
    groups = read_grouping(name).bind(names)
    assert isinstance(groups, ClassGroups)
    assert yaml.safe_load((CONF / "grouping" / f"{name}.yaml").read_text())["groups"].keys() == groups.members.keys()

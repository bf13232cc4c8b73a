"""What is said of an override that Hydra could not read, or that has no meaning here."""

import shlex

import pytest

from cifar10.classifier_names import classifier_names
from cifar10.config import overrides as overrides_module
from cifar10.config.overrides import parse_overrides


def told(*lines: str) -> list[str]:
    _, problems = parse_overrides(lines)
    return [str(problem) for problem in problems]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model=resnet", "model: there is no resnet among imagenet, pooling_cnn, resnet18, resnet18_imagenet, "),
        (
            "model=resnt18",
            "resnet50, simple_cnn, speed, timm, torchvision; did you mean resnet18?",
        ),
        ("model=[resnet18,speed]", "model: several are given, and a run has one"),
        ("model=null", "model: cannot be left out; choose one of"),
        ("model=5", "model: there is no 5 among"),
        ("model={width: 5}", "a value in it is set as model.KEY=VALUE"),
        ("seed=1,2", "a run has one; a fraction seed=1.2; a list is written 'seed=[1,2]'"),
        ("data_loading.classes=cat,dog", "a list is written 'data_loading.classes=[cat,dog]'"),
        ("training=long.yaml", "there is no long.yaml among default, long; did you mean long?"),
        ("model=conf/model/speed.yaml", "did you mean speed?"),
        ("seed==3", "seed==3 is not an override: write seed=3"),
        ("seed = 3", "seed = 3 is not an override: write seed=3"),
        ("training.epochs:=3", "write training.epochs=3"),
        ("training.epochs=range(1,5)", "training.epochs: several values are given"),
        ("model=resnet18,speed", "model: several are given, and a run has one"),
        ("model@net=resnet18", "model: a group has one fixed place"),
        ("model/deep=resnet18", "model/deep: there is no such group; did you mean model?"),
        ("hydra.run.dir=x", "hydra.run.dir: Hydra only composes here"),
        ("hydra/launcher=x", "hydra/launcher: Hydra only composes here"),
        ("training", "training is not an override: write KEY=VALUE"),
        ("=5", "=5 is not an override"),
        ("", "is not an override"),
        ("a b=1", "a b=1 is not an override: a b cannot be a key"),
        ("--epochs=5", "--epochs cannot be a key"),
        ("tracking.uri=\udcff", "has a character that Hydra cannot read, \\udcff; leave it out"),
    ],
)
def test_what_cannot_be_meant_is_told_in_one_line(override: str, expected: str) -> None:
    [problem] = told(override)
    assert expected in problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    "value", ["кот", "a=b.ckpt", "a(1).png", "it's", 'say "x"', "#1", "a;b", "a~/x", "{", "[", "$(x)"]
)
def test_the_advised_quotes_make_hydra_read_the_value(value: str) -> None:
    [problem] = told(f"models_dir={value}")
    [advised] = shlex.split(problem.partition("only in quotes: ")[2])
    [override], problems = parse_overrides([advised])
    assert not problems
    assert override.value() == value


@pytest.mark.parametrize("line", ["model=speed", "+model=speed"])
def test_a_choice_is_a_change_with_or_without_plus(line: str) -> None:
    [override], _ = parse_overrides([line])
    assert override.input_line == "model=speed"


@pytest.mark.parametrize("line", ["experiment=null", "+experiment=null", "~experiment"])
def test_an_experiment_can_be_left_out(line: str) -> None:
    [override], problems = parse_overrides([line])
    assert not problems
    assert override.input_line == "~experiment"


def test_the_good_ones_are_kept_beside_the_bad_ones() -> None:
    overrides, problems = parse_overrides(["seed=1", "кот", "model=speed", "model=resnt18"])
    assert [override.key_or_group for override in overrides] == ["seed", "model"]
    assert len(problems) == 2


def test_choosing_twice_from_a_group_is_refused() -> None:
    assert told("model=speed", "model=resnet18") == ["model: is chosen 2 times; choose once"]


def test_the_name_of_any_classifier_with_imagenet_is_short_for_its_settings() -> None:
    overrides, problems = parse_overrides(["model=resnet152_imagenet", "model.weights=a.pth"])
    assert not problems
    lines = [str(override.input_line) for override in overrides]
    assert lines == ["model=imagenet", 'model.name="resnet152"', "model.weights=a.pth"]


def test_a_name_that_only_timm_has_is_timms(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"torchvision": ("resnet34",), "timm": ("resnet34", "resnet34d")}
    monkeypatch.setattr(overrides_module, "classifier_names", names.get)
    for word, option, name in [("resnet34", "imagenet", "resnet34"), ("resnet34d.ra4", "timm", "resnet34d.ra4")]:
        overrides, _ = parse_overrides([f"model={word}_imagenet"])
        assert [override.value() for override in overrides] == [option, name]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("resnt152_imagenet", "did you mean resnet152_imagenet?"),
        ("zzz_imagenet", "For the networks of timm: python -m pip install timm"),
        ("resnet152", "with the weights of torchvision: model=resnet152_imagenet"),
    ],
)
def test_a_classifier_that_is_not_there_is_told_in_one_line(
    word: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = classifier_names("torchvision")
    monkeypatch.setattr(overrides_module, "classifier_names", {"torchvision": names, "timm": ()}.get)
    [problem] = told(f"model={word}")
    assert expected in problem and "\n" not in problem

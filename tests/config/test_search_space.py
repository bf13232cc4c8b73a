"""Search spaces are read with every mistake named, and lists on the command line make a grid."""

import os
from pathlib import Path

import pytest

from cifar10.config.conf_folder import options
from cifar10.config.search_space import grid_of, lists_of, read_space
from cifar10.errors import UsageError


def written(folder: Path, text: str) -> str:
    file = folder / "space.yaml"
    file.write_text(text)
    return str(file)


@pytest.mark.parametrize("name", options("sweep"))
def test_each_space_of_the_project_can_be_read(name: str) -> None:
    assert read_space(name).parameters


def test_a_file_says_only_what_differs_from_the_default(tmp_path: Path) -> None:
    space = read_space(
        written(tmp_path, "parameters:\n  optimizer.lr: {low: 1e-4, high: 1e-1, log: true}\ntrials: 7\n")
    )
    assert space.parameters["optimizer.lr"].low == 1e-4
    assert (space.trials, space.sampler) == (7, read_space("default").sampler)


def test_whole_ends_make_whole_numbers(tmp_path: Path) -> None:
    space = read_space(written(tmp_path, "parameters:\n  a: {low: 1, high: 9}\n  b: {low: 1.0, high: 9}\n"))
    assert [parameter.is_whole for parameter in space.parameters.values()] == [True, False]


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("{low: 1}", "optimizer.lr: needs either low and high, or choices"),
        ("{low: 1, high: 2, choices: [1]}", "needs either low and high, or choices"),
        ("{low: 2, high: 1}", "low must be below high, not low=2 and high=1"),
        ("{low: 0.0, high: 1.0, log: true}", "log: true needs low above 0"),
        ("{low: 0.1, high: 1.0, log: true, step: 0.1}", "log and step exclude each other"),
        ("{low: 0.1, high: 0.2, step: 5.0}", "step=5.0 is larger than the range, 0.1 to 0.2; make it smaller"),
        ("{low: 1, high: 9, step: 0.5}", "step=0.5 is a fraction, and low and high are whole"),
        ("{choices: []}", "choices: .* at least 1"),
        ("{choices: [1, 1]}", "each choice must occur once, and 1 does not"),
        ("{choices: [1, 2], log: true}", "log and step are for low and high"),
        ("{lowest: 1, high: 2}", "there is no such setting"),
        ("{low: one, high: 2}", "low: .* not one"),
        ("0.1", "optimizer.lr: must be a mapping"),
    ],
)
def test_mistakes_in_a_parameter_are_named(parameter: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        read_space(written(tmp_path, f"parameters:\n  optimizer.lr: {parameter}\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("parameters: {}\n", "parameters: .* at least 1"),
        ("trials: 3\n", "parameters: is missing"),
        ("- 1\n", "must be a mapping with the key parameters"),
        ("parameters: {a: {low: 1, high: 2}}\ntrials: 0\n", "trials: must be greater than 0"),
        ("parameters: {a: {low: 1, high: 2}}\nsampler: magic\n", "sampler: "),
        ("parameters: {a: {low: 1, high: 2}}\ntrails: 3\n", "trails: there is no such setting; did you mean trials"),
        ("parameters: {a: [}\n", r"space.yaml, line \d"),
        ("a: {b: 1}\na: {b: 2}\n", "duplicate key"),
        ("a: &a [1]\nparameters: {a: {choices: *a}}\n", "values refer to others"),
        ("parameters: {a: {low: 1, high: 2}}\nis_grid: true\n", None),
    ],
)
def test_mistakes_in_a_file_are_named(text: str, message: str | None, tmp_path: Path) -> None:
    if message is None:
        assert not read_space(written(tmp_path, text)).is_grid
        return
    with pytest.raises(UsageError, match=message) as refused:
        read_space(written(tmp_path, text))
    if "refer" in message:
        assert "\n" not in str(refused.value)


def test_a_space_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "space.yaml")
    for file in (tmp_path / "space.yaml", tmp_path):
        (tmp_path / "link.yaml").unlink(missing_ok=True)
        (tmp_path / "link.yaml").symlink_to(file)
        with pytest.raises(UsageError, match="cannot be read: ") as refused:
            read_space(str(tmp_path / "link.yaml"))
        assert "\n" not in str(refused.value)


def test_a_space_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="there is no such search space; did you mean default"):
        read_space("defautl")
    with pytest.raises(UsageError, match=r"there is no file none\.yaml"):
        read_space("none.yaml")


def test_lists_are_told_from_single_values() -> None:
    words = ["seed=1", "optimizer.lr=0.1,0.2", "model.widths=[1,2],[3,4]", "model=speed,simple_cnn", "a=range(1,4)"]
    single, lists = lists_of(words)
    assert single == ["seed=1"]
    assert lists["optimizer.lr"] == [0.1, 0.2]
    assert lists["model.widths"] == [[1, 2], [3, 4]]
    assert lists["model"] == ["speed", "simple_cnn"]
    assert lists["a"] == [1, 2, 3]


def test_lists_that_cannot_be_listed_are_refused() -> None:
    with pytest.raises(UsageError, match=r"only lists A,B,C and range\(...\) make a grid; for a range, write a: {low"):
        lists_of(["a=interval(0,1)"])
    with pytest.raises(UsageError, match="a is listed twice"):
        lists_of(["a=1,2", "a=3,4"])
    with pytest.raises(UsageError, match=r"has 1,000,000 points, at most 100,000"):
        grid_of({"a": list(range(1000)), "b": list(range(1000))})
    with pytest.raises(UsageError, match="a: each choice must occur once, and 1 does not"):
        grid_of({"a": [1, 1]})


def test_a_grid_has_each_combination_once() -> None:
    grid = grid_of({"a": [1, 2], "b": ["x", "y", "z"]})
    points = [tuple(point.values()) for point in grid.points()]
    assert len(set(points)) == grid.trials == 6
    assert points[:2] == [(1, "x"), (1, "y")]

"""Properties of the command line: what is typed is taken exactly or refused, and what is accepted is found again."""

import contextlib
import io
import math
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import commands
from cifar10.cli.command_line import main
from cifar10.cli.flags import flags_of
from cifar10.config import conf_folder
from cifar10.config.advice import setting
from cifar10.config.build import build
from cifar10.config.compose import ConfigError, load_config
from cifar10.config.explain import explain
from cifar10.config.schema import Config, flatten
from cifar10.config.targets import DATA
from cifar10.runs.checkpoint_names import find_locally
from cifar10.system.home import expanded
from tests.cli.wrong_lines import stand_ins, write_folder
from tests.malformed import encode, picture

SHAPES = "data_loading=shapes"
some = settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
few = settings(some, max_examples=5)
file_names = st.one_of(
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40),
    st.binary(min_size=1, max_size=40).map(os.fsdecode),
).filter(lambda name: not {"/", "\0"} & set(name) and name not in (".", "..") and len(os.fsencode(name)) <= 200)
"""Any name of a file, bytes that are no UTF-8 included."""
words = st.text("abcXYZ019._+- \N{CYRILLIC SMALL LETTER ZHE}\N{LATIN SMALL LETTER E WITH ACUTE}@%~,", min_size=1)


def taken(*overrides: str) -> Config | None:
    """Return the configuration, or None if the overrides are refused in words."""
    try:
        return load_config([SHAPES, *overrides])
    except ConfigError as error:
        if not error.problems or not all(line.isprintable() for line in error.problems):
            raise AssertionError(error.problems) from error
        return None


@contextlib.contextmanager
def in_new_folder() -> Iterator[list[str]]:
    """Work in a folder with some files, with stand-ins for the entry points; yield the list of those that start."""
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name), stand_ins() as started:
        write_folder(Path())
        yield started


def said(*line: str) -> tuple[int, str]:
    """Return exit code and stderr of a command line."""
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
        exit_code = main(commands.COMMANDS, "", line)
    assert "Traceback" not in stderr.getvalue()
    return exit_code, stderr.getvalue()


@pytest.mark.slow
@some
@given(st.integers())
def test_a_whole_number_is_taken_exactly_or_refused(number: int) -> None:
    config = taken(f"seed={number}")
    assert (config is not None) == (0 <= number < 2**31)
    assert config is None or config.seed == number


@pytest.mark.slow
@some
@given(st.floats())
def test_a_number_is_taken_exactly_or_refused(number: float) -> None:
    config = taken(setting("optimizer.lr", number))
    assert config is None or config.optimizer.arguments["lr"] == number
    assert (config is None) == (not 0 < number < math.inf) or not math.isfinite(number) or number > 1


@pytest.mark.slow
@some
@given(st.text(max_size=30))
def test_a_text_in_quotes_is_taken_exactly_or_refused(text: str) -> None:
    config = taken(setting("models_dir", text))
    assert config is None or config.models_dir == expanded(text)
    assert config is not None or not text.strip() or not text.isprintable() or text.startswith("~")


@pytest.mark.slow
@some
@given(words)
def test_a_plain_word_is_taken_exactly_or_refused(word: str) -> None:
    config = taken(f"run_name={word}")
    assert config is None or config.run_name == word.strip()


@pytest.mark.slow
@few
@given(
    st.sampled_from([["model=resnet18"], ["optimizer=muon", "training=long"], ["augmentation=strong", "model=speed"]]),
    st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=20),
    st.floats(1e-6, 1),
)
def test_what_config_prints_and_is_typed_again_gives_the_same_configuration(
    chosen: list[str], text: str, rate: float
) -> None:
    overrides = [SHAPES, *chosen, setting("models_dir", text), setting("optimizer.lr", rate)]
    assume(taken(*overrides[1:]) is not None)
    printed = flatten(yaml.safe_load(explain(overrides)))
    typed = [setting(key, value) for key, value in printed.items() if key not in conf_folder.groups()]
    assert load_config([SHAPES, *chosen, *typed]) == load_config(overrides)


@pytest.mark.slow
@few
@given(words | st.text(min_size=1, max_size=20))
def test_a_run_of_any_accepted_name_is_found_by_every_command(name: str) -> None:
    config = taken(setting("run_name", name))
    assume(config is not None and config.run_name == name)
    lines = [
        ["evaluate", f"--checkpoint_name={name}"],
        ["infer", "--test_dir=photos", f"--checkpoint_name={name}"],
        ["export", f"--checkpoint_name={name}"],
        ["benchmark", f"--checkpoint_name={name}"],
        ["compare", "first", f"./models/{name}"],
        ["train", f"--resume={name}"],
    ]
    with in_new_folder() as started:
        for file in ("best.ckpt", "last.ckpt"):
            Path("models", name).mkdir(exist_ok=True)
            Path("models", name, file).touch()
        assert find_locally(name) == Path("models", name, "best.ckpt")
        assert [said(*line) for line in lines] == [(0, "")] * len(lines)
        assert len(started) >= len(lines)


@settings(some, max_examples=60)
@given(file_names)
def test_a_folder_of_any_name_is_searched(name: str) -> None:
    with in_new_folder() as started:
        Path(name).mkdir(exist_ok=True)
        Path(name, "1.png").touch()
        for given_name in (f"./{name}", str(Path(name).absolute())):
            exit_code, message = said("infer", f"--test_dir={given_name}", "--checkpoint_name=first")
            if name.endswith("\r"):
                assert exit_code == 2 and "Windows line ends" in message
            else:
                assert (exit_code, message) == (0, "")
                assert started.pop() == "cifar10.infer"


@pytest.mark.slow
@few
@given(st.sets(file_names.filter(lambda name: name.isprintable() and not name.startswith(".")), min_size=2, max_size=3))
def test_classes_of_any_name_are_found_in_folders_and_can_be_chosen(names: set[str]) -> None:
    with in_new_folder():
        for index, name in enumerate(sorted(names)):
            for number in range(6):
                file = Path("classes", name, f"{number}.png")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(encode(picture(10 * index + number, 8), "PNG"))
        folder = ["data_loading=folder", "data_loading.root=classes", "data_loading.image_size=8"]
        found = build(DATA, load_config(folder).data_loading).class_names
        assume(len(found) == len(names))  # names that are equal in another Unicode form, or of a system
        chosen = [*folder, setting("data_loading.classes", list(found[:2]))]
        assert list(build(DATA, load_config(chosen).data_loading).class_names) == list(found[:2])


_SUGGESTION = re.compile(r"did you mean (.+?)\?(?:\s|$)")


@st.composite
def misspelt(draw: st.DrawFn, names: list[str]) -> str:
    """Draw one of the `names` with a letter changed, left out or doubled."""
    name = draw(st.sampled_from(names))
    at = draw(st.integers(0, len(name) - 1))
    return name[:at] + draw(st.sampled_from(["", "x", name[at] * 2, "_"])) + name[at + 1 :]


def accepted(kind: str, suggestion: str) -> bool:
    """Return whether a suggested word is one that the program knows."""
    [word, *_] = shlex.split(suggestion)
    key = word.lstrip("+~").partition("=")[0]
    if kind == "command":
        return word in commands.COMMANDS or word == "--version"
    if word.startswith("--"):
        return word[2:].partition("=")[0] in flags_of(commands.COMMANDS["infer"]) | flags_of(commands.COMMANDS["train"])
    return key in (*conf_folder.groups(), *conf_folder.settings()) or word in conf_folder.options("model")


_KINDS: dict[str, Any] = {
    "command": (sorted(commands.COMMANDS), lambda word: [word]),
    "flag": (sorted(flags_of(commands.COMMANDS["infer"])), lambda word: ["infer", "--test_dir=photos", f"--{word}=1"]),
    "setting as a flag": (sorted(conf_folder.settings()), lambda word: ["train", f"--{word}=1"]),
    "setting": (sorted(conf_folder.settings()), lambda word: ["config", SHAPES, f"{word}=1"]),
    "option": (sorted(conf_folder.options("model")), lambda word: ["config", SHAPES, f"model={word}"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", _KINDS)
@few
@given(data=st.data())
def test_whatever_is_suggested_is_known(kind: str, data: st.DataObject) -> None:
    names, line = _KINDS[kind]
    word = data.draw(misspelt(names))
    with in_new_folder():
        _, message = said(*line(word))
    assert all(accepted(kind, suggestion) for suggestion in _SUGGESTION.findall(message)), message

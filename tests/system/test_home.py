"""`~` in a path means a home folder, wherever the path comes in; no folder is ever made of that name."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from cifar10.cli.command_line import parse
from cifar10.config.compose import ConfigError, load_config
from cifar10.config.explain import explain
from cifar10.errors import UsageError
from cifar10.system.home import expanded, expanded_uri

USER = Path(os.path.expanduser("~root"))
needs_root = pytest.mark.skipif(str(USER) == "~root", reason="there is no user root")


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("~", "/home/me"),
        ("~/", "/home/me/"),
        ("~/a b", "/home/me/a b"),
        ("a/~", "a/~"),
        ("./~", "./~"),
        ("/~", "/~"),
        ("", ""),
        pytest.param("~root/x", f"{USER}/x", marks=needs_root),
    ],
)
def test_a_home_is_put_in_at_the_beginning_only(path: str, meant: str) -> None:
    assert expanded(path) == meant


@pytest.mark.parametrize("home", ["", "here"])
def test_a_home_that_is_none_is_refused(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", home)
    with pytest.raises(ValueError, match=r"no home folder is known for ~; a name that begins with ~ is written \./~/x"):
        expanded("~/x")


def test_without_a_home_in_the_environment_the_system_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    assert os.path.isabs(expanded("~/x"))


def test_an_unknown_user_is_refused_unless_there_is_a_file_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"no home folder is known for ~no-such-user"):
        expanded("~no-such-user/x")
    Path("~backup").mkdir()
    assert expanded("~backup") == "~backup"


def test_in_a_sqlite_uri_the_file_is_expanded() -> None:
    assert expanded_uri("sqlite:///~/m.db") == "sqlite:////home/me/m.db"
    assert expanded_uri("http://~/m.db") == "http://~/m.db"


@pytest.mark.parametrize("quote", ["", "'", '"'])
@pytest.mark.parametrize(
    ("key", "value", "meant"),
    [
        ("models_dir", "~/m", "/home/me/m"),
        ("models_dir", "~/my models (1)", "/home/me/my models (1)"),
        ("models_dir", "~", "/home/me"),
        ("tracking.artifacts", "~/a", "/home/me/a"),
        ("data_loading.root", "~/data", "/home/me/data"),
    ],
)
def test_settings_that_are_paths_are_expanded(key: str, value: str, meant: str, quote: str) -> None:
    config: Any = load_config([f"{key}={quote}{value}{quote}"]).plain()
    for part in key.split("."):
        config = config[part]
    assert config == meant


def test_a_store_and_lists_of_sources_are_expanded() -> None:
    config = load_config(["tracking.uri=sqlite:///~/m.db", "data_loading.sources=[~/a, '~/b',c,'https://d/~/e']"])
    assert config.tracking.uri == "sqlite:////home/me/m.db"
    assert config.data_loading.arguments["sources"] == ["/home/me/a", "/home/me/b", "c", "https://d/~/e"]


def test_what_is_no_path_stays_as_it_is() -> None:
    config = load_config(["tracking.experiment='~x'", "data_loading=folder", "data_loading.classes=['~x','~']"])
    assert config.tracking.experiment == "~x"
    assert config.data_loading.arguments["classes"] == ["~x", "~"]


def test_an_unknown_user_in_a_setting_is_told_with_its_key() -> None:
    with pytest.raises(
        ConfigError,
        match=r"data_loading\.root: cannot be set to ~no-such-user.*: no home folder is known for ~no-such-user",
    ):
        load_config(["data_loading.root=~no-such-user/x"])


def test_what_is_shown_and_saved_is_the_expanded_path() -> None:
    assert yaml.safe_load(explain(["data_loading=shapes", "models_dir=~/m"]))["models_dir"] == "/home/me/m"


def walk(test_dir: str, *, checkpoint_name: str = "best", output: str | None = None) -> None:
    """A command with paths."""


def test_flags_are_expanded() -> None:
    words = ["walk", "~/photos", "--checkpoint_name=~/best.ckpt", "--output", "~/a.csv"]
    task = parse({"walk": walk}, words)
    assert task.arguments == ("/home/me/photos",)
    assert task.flags == {
        "checkpoint_name": "/home/me/best.ckpt",
        "output": "/home/me/a.csv",
    }


def test_an_unknown_user_in_a_flag_is_told_with_its_name() -> None:
    with pytest.raises(UsageError, match=r"^--output: no home folder is known for ~no-such-user"):
        parse({"walk": walk}, ["walk", "x", "--output=~no-such-user/a.csv"])

"""The address of a store is obeyed wherever it comes from, refused in one line, and shown without its password."""

from pathlib import Path

import pytest

from cifar10.config.compose import ConfigError, load_config
from cifar10.config.mlflow_uri import absolute_uri, database_path, shown_uri, uri_problem


@pytest.mark.parametrize(
    "uri",
    ["sqlite:///mlruns/mlflow.db", "sqlite:////abs/my runs/x.db", "http://127.0.0.1:5000", "https://mlflow.example/x/"],
)
def test_these_are_possible(uri: str) -> None:
    assert uri_problem(uri) is None


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("", "is empty; it must be sqlite:///FILE or http(s)://HOST:PORT"),
        ("./mlruns", "is a folder, and MLflow keeps no runs in folders since 3.14; write sqlite:///mlruns/mlflow.db"),
        ("mlruns", "is a folder"),
        ("file:///tmp/mlruns", "is a folder"),
        ("file:mlruns", "is a folder"),
        ("localhost:5000", "is no address; write http://localhost:5000"),
        ("databricks://profile", "databricks://... is a kind of store that is not supported"),
        ("postgresql://me:secret@host/db", "postgresql://... is a kind of store that is not supported"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("http://", "names no host"),
        ("http://:5000", "names no host"),
        ("http://a b", "names no host"),
        ("http://host:99999", "is no address"),
        ("http://[::1", "is no address"),
        ("http://me:secret@host:5000", "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ("http://secret@host", "user name or password"),
        ("http://me:secret@host:x", "is no address"),
    ],
)
def test_these_are_not_and_no_password_is_repeated(uri: str, told: str) -> None:
    problem = uri_problem(uri)
    assert problem is not None
    assert told in problem
    assert "secret" not in problem


def test_user_and_password_are_not_shown() -> None:
    assert shown_uri("http://me:s@cret@host:5000/x@y") == "http://host:5000/x@y"
    assert shown_uri("Max retries: http://me:secret@host/") == "Max retries: http://host/"
    assert shown_uri("sqlite:///a@b/x.db") == "sqlite:///a@b/x.db"


def test_a_database_is_the_same_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_uri("sqlite:///mlruns/x.db?timeout=5") == f"sqlite:///{tmp_path}/mlruns/x.db?timeout=5"
    assert absolute_uri("http://host:1/") == "http://host:1"
    assert database_path("sqlite:///~/x.db") == Path.home() / "x.db"
    assert database_path("http://host") is None


@pytest.mark.parametrize("choice", ["mlflow", "server"])
def test_what_the_shell_says_is_obeyed(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker.example:1")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    tracking = load_config([f"tracking={choice}"]).tracking
    assert (tracking.uri, tracking.experiment) == ("http://tracker.example:1", "mine")
    tracking = load_config([f"tracking={choice}", "tracking.uri=sqlite:///x.db", "tracking.experiment=other"]).tracking
    assert (tracking.uri, tracking.experiment) == ("sqlite:///x.db", "other")


def test_where_the_shell_says_nothing_runs_go_to_a_file_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    tracking = load_config().tracking
    assert (tracking.uri, tracking.experiment) == ("sqlite:///mlruns/mlflow.db", "cifar10")


def test_an_address_that_cannot_be_meant_is_refused_before_anything_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    with pytest.raises(ConfigError, match=r"^tracking\.uri: \./mlruns \(from MLFLOW_TRACKING_URI\) is a folder"):
        load_config()
    assert load_config(["tracking=none"]).tracking.backend == "none"

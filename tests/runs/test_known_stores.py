"""A run's folder may be a stranger's: nothing is recorded in a store that only its files name."""

import shlex
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import commands
from cifar10.cli.command_line import parse
from cifar10.config.advice import PROGRAM
from cifar10.config.compose import load_config
from cifar10.config.schema import Config, TrackingConfig
from cifar10.errors import UsageError, UserError
from cifar10.runs.known_stores import sync_line, unknown_settings
from cifar10.sync import sync
from cifar10.train import train
from cifar10.training.interruption import going_on_line
from tests.tiny_run import TINY

MLFLOW = ("tracking.backend=mlflow", "tracking.system_metrics=false")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    torch.set_num_threads(1)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """A stranger's server: it listens, and the test looks whether anyone has called."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


def address(server: socket.socket) -> str:
    return f"http://127.0.0.1:{server.getsockname()[1]}"


def config_of(*words: str) -> Config:
    return load_config(["data_loading=shapes", *words])


def tracking_of(*words: str) -> TrackingConfig:
    return config_of(*words).tracking


def strangers_run(*words: str) -> Path:
    """Return the folder of a run that says it is recorded in another place; nobody is told of it here."""
    train(load_config([*TINY, "run_name=theirs"]))
    folder = Path("models/theirs")
    config = load_config([*TINY, "run_name=theirs", *MLFLOW, *words])
    raw = torch.load(folder / "last.ckpt", weights_only=True)
    raw["cifar10"]["config"] = config.plain()
    torch.save(raw, folder / "last.ckpt")
    text = (folder / "config.yaml").read_text()
    for key in ("backend", "uri", "artifacts"):
        old = next(line for line in text.splitlines() if line.startswith(f"  {key}:"))
        text = text.replace(old, f"  {key}: {config.plain()['tracking'][key] or 'null'}")
    (folder / "config.yaml").write_text(text)
    return folder


@pytest.mark.parametrize("choice", ["mlflow", "none", "server"])
def test_what_conf_names_is_known(choice: str) -> None:
    assert unknown_settings(tracking_of(f"tracking={choice}")) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "unknown"),
    [
        (["tracking.uri=http://a.example:1"], {"tracking.uri"}),
        (["tracking.uri=sqlite:///other.db"], {"tracking.uri"}),
        (["tracking.uri=sqlite:///mlruns/../mlruns/mlflow.db"], {"tracking.uri"}),
        (["tracking.artifacts=elsewhere"], {"tracking.artifacts"}),
        (["tracking.artifacts=mlruns/artifacts"], set()),
        (["tracking=server", "tracking.artifacts=elsewhere"], set()),  # a server has its own
        (["tracking.uri=sqlite:///x.db", "tracking.artifacts=y"], {"tracking.uri", "tracking.artifacts"}),
    ],
)
def test_what_was_only_typed_is_not(words: list[str], unknown: set[str]) -> None:
    assert set(unknown_settings(tracking_of(*words))) == unknown


def test_the_variable_counts_as_it_is_set_now(monkeypatch: pytest.MonkeyPatch) -> None:
    then = tracking_of("tracking.uri=http://a.example:1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://a.example:1/")
    assert unknown_settings(then) == {}
    assert unknown_settings(tracking_of("tracking.uri=sqlite:///mlruns/mlflow.db")) == {}
    assert unknown_settings(tracking_of("tracking.uri=http://b.example:1")) != {}


@pytest.mark.slow
def test_nobody_calls_a_strangers_server(server: socket.socket) -> None:
    strangers_run(f"tracking.uri={address(server)}")
    with pytest.raises(
        UsageError, match=f"theirs sets tracking.uri={address(server)}, which is not configured here"
    ) as told:
        sync("theirs")
    assert f"sync theirs --tracking_uri={address(server)}\n" in str(told.value)
    with pytest.raises(UserError, match="1 of 1 runs could not be recorded"):
        sync()
    with pytest.raises(
        UsageError, match=f"models/theirs says tracking.uri={address(server)}, which is not conf"
    ) as told:
        train(load_config(TINY), resume="theirs")
    assert f"train 'tracking.uri=\"{address(server)}\"' --resume=models/theirs/last.ckpt" in str(told.value)
    with pytest.raises(BlockingIOError):
        server.accept()
    assert not Path("mlruns").exists()


@pytest.mark.slow
def test_nothing_is_written_where_a_stranger_says(tmp_path: Path) -> None:
    strangers_run("tracking.uri=sqlite:///theirs/m.db", f"tracking.artifacts={tmp_path}/private")
    for attempt in (lambda: sync("theirs"), lambda: train(load_config(TINY), resume="theirs")):
        with pytest.raises(UsageError, match="is not configured here"):
            attempt()
    sync("theirs", tracking_uri="sqlite:///mine.db")
    assert Path("mine.db").exists() and any(Path("artifacts").rglob("best.ckpt"))
    assert not Path("private").exists() and not Path("theirs").exists()


@pytest.mark.slow
def test_what_is_typed_again_or_left_out_goes_on(server: socket.socket) -> None:
    strangers_run(f"tracking.uri={address(server)}")
    for word in (f"tracking.uri={address(server)}", "tracking=none", "tracking=mlflow"):
        train(load_config(["data_loading=shapes", word]), resume="theirs", changes=[word])  # finished: nothing is done


@pytest.mark.slow
def test_the_line_that_records_a_run_later_names_what_is_not_the_default() -> None:
    def words(folder: str, *overrides: str) -> list[str]:
        return shlex.split(sync_line(Path(folder), tracking_of(*overrides)).removeprefix(PROGRAM))

    assert words("models/a run") == ["sync", "a run"]
    assert words("my models/a", "tracking=server") == ["sync", "a", "--models_dir=my models"]
    named = words("models/a", "tracking.uri=http://a.example:1")
    assert named == ["sync", "a", "--tracking_uri=http://a.example:1"]
    assert parse(commands.COMMANDS, named).flags == {"tracking_uri": "http://a.example:1"}


def test_the_advised_line_names_the_store(tmp_path: Path) -> None:
    def arguments(*words: str) -> tuple[object, ...]:
        line = going_on_line(Path("models/mine"), tracking_of(*words))
        return parse(commands.COMMANDS, shlex.split(line.removeprefix(PROGRAM))).arguments

    assert arguments() == arguments("tracking=none", "tracking.uri=http://a.example:1") == ()
    assert arguments("tracking.uri=http://a.example:1") == ('tracking.uri="http://a.example:1"',)

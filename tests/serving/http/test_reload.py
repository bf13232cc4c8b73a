"""A service follows an alias in the registry without losing a request, and keeps its model while there is no other."""

import shutil
import threading
import time
from pathlib import Path

import pytest
import requests

from cifar10.config.compose import load_config
from cifar10.errors import CheckpointError
from cifar10.export import export
from cifar10.runs.registered_version import RegisteredVersion, registered_version
from cifar10.runs.registry import RegisteredName
from cifar10.train import train
from tests.malformed import encode, picture
from tests.serving.http.serving_process import Served, serving
from tests.tiny_run import TINY

NAME = "models:/shapes@champion"


def register(seed: int) -> None:
    train(load_config([*TINY, "model=simple_cnn", "model.width=8", f"seed={seed}", f"run_name=run{seed}"]))
    export(f"run{seed}", ["onnx"], registered=RegisteredName.parse("shapes@champion"))


class Client:
    """Asks in a thread as fast as it can, and notes status codes and versions."""

    def __init__(self, served: Served) -> None:
        self.statuses: list[int] = []
        self.versions: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, args=(served.url,))
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self, url: str) -> None:
        image, headers = encode(picture(), "PNG"), {"Content-Type": "image/png"}
        with requests.Session() as session:
            while not self._stop.is_set():
                answer = session.post(f"{url}/predict", data=image, headers=headers, timeout=20)
                self.statuses.append(answer.status_code)
                self.versions.append(answer.json()["model"]["version"])


def wait_for(served: Served, message: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while message not in served.messages():
        assert time.monotonic() < end, served.messages()
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_alias_that_moves_takes_all_requests_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    register(1)
    assert registered_version(NAME) == RegisteredVersion("shapes", "1")
    assert registered_version("models:/shapes/1") == RegisteredVersion("shapes", "1")
    with pytest.raises(CheckpointError, match="MLflow has no models:/shapes@nobody"):
        registered_version("models:/shapes@nobody")
    with serving(tmp_path, f"--checkpoint_name={NAME}", "serving.reload_seconds=0.5") as served:
        clients = [Client(served) for _ in range(3)]
        register(2)
        wait_for(served, "shapes version 2:")
        time.sleep(1)
        for client in clients:
            client.stop()
            assert set(client.statuses) == {200}
            assert client.versions == sorted(client.versions)  # never back
            assert {client.versions[0], client.versions[-1]} == {"1", "2"}
        store = tmp_path / "mlruns/mlflow.db"
        shutil.move(store, store.with_suffix(".away"))
        wait_for(served, " stays")
        assert requests.get(f"{served.url}/readyz", timeout=5).status_code == 200
        shutil.move(store.with_suffix(".away"), store)
        wait_for(served, "the registry answers again")
        description = requests.get(f"{served.url}/model", timeout=5).json()
        assert (description["name"], description["version"]) == ("shapes", "2")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_service_that_starts_before_its_model_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(tmp_path, f"--checkpoint_name={NAME}", "serving.reload_seconds=0.5", is_ready=False) as served:
        wait_for(served, "no model is served yet")
        assert requests.get(f"{served.url}/readyz", timeout=5).status_code == 503
        register(1)
        wait_for(served, "shapes version 1:")
        assert requests.get(f"{served.url}/readyz", timeout=5).status_code == 200

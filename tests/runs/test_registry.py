"""The model registry: a checkpoint is registered, found again, and served by MLflow with the results of `infer`."""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

import cifar10
from cifar10.cli.command_line import main
from cifar10.config.compose import load_config
from cifar10.errors import UsageError
from cifar10.export import export
from cifar10.runs.registry import RegisteredName
from cifar10.train import train
from commands import COMMANDS
from tests.conftest import SHARED_DATA
from tests.malformed import encode, malformed_images, picture
from tests.tiny_run import TINY

URI = "models:/shapes@champion"
SETTINGS = ["model=simple_cnn", "model.width=8", "run_name=run", "training.precision=fp32"]


@pytest.mark.parametrize(
    ("text", "name", "alias"),
    [("cats", "cats", None), ("cats@best", "cats", "best"), ("models:/my.cats-2@a_b-1", "my.cats-2", "a_b-1")],
)
def test_a_name_with_or_without_an_alias_is_read(text: str, name: str, alias: str | None) -> None:
    assert RegisteredName.parse(text) == RegisteredName(name, alias)


@pytest.mark.parametrize("text", ["@best", "a/b", "a:b", "cats@", "cats@latest", "cats@V12", "cats@a b", "x" * 300])
def test_names_that_mlflow_refuses_are_refused_before_any_work(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError):
        RegisteredName.parse(text)
    assert main(COMMANDS, "", ["export", f"--register={text}"]) == 2
    assert "--register" in capsys.readouterr().err


def test_a_store_that_cannot_be_written_is_found_before_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.ckpt").write_bytes(b"not read")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert main(COMMANDS, "", ["export", "--checkpoint_name=net.ckpt", "--register=cats"]) == 1
    assert "error: --register: no MLflow server responds at http://127.0.0.1:9" in capsys.readouterr().err


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a trained, tracked run that is registered in its store with its ONNX file."""
    folder = tmp_path_factory.mktemp("registered")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tracked = [word for word in TINY if word != "tracking=none"]
        train(load_config([*tracked, *SETTINGS]))
        export("run", ["onnx"], registered=RegisteredName("shapes", "champion"))
    return folder


@pytest.fixture(scope="module")
def served(registered: Path) -> Iterator[str]:
    """Serve the registered model from another folder; yield its address."""
    with serving(URI, f"sqlite:///{registered}/mlruns/mlflow.db", registered / "mlruns") as address:
        yield address


@contextlib.contextmanager
def serving(uri: str, store: str, folder: Path) -> Iterator[str]:
    """Serve a model of `store` with `mlflow models serve`, in `folder`; yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["models", "serve", "-m", uri, "--env-manager", "local", "--port", str(port)]
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": store,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # MLflow starts uvicorn by its name
    }
    environment.pop("PYTHONPATH", None)  # the code is in the model
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        address, until = f"http://127.0.0.1:{port}", time.monotonic() + 90
        while not _is_up(address):
            assert process.poll() is None and time.monotonic() < until, (folder / "serve.log").read_text()
            time.sleep(0.3)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # uvicorn is a process of its own
        process.wait(30)


def _is_up(address: str) -> bool:
    try:
        return requests.get(f"{address}/ping", timeout=5).ok
    except requests.RequestException:
        return False


def answered(address: str, images: list[bytes]) -> list[dict[str, Any]]:
    text = [[base64.b64encode(data).decode()] for data in images]
    body = {"dataframe_split": {"columns": ["image"], "data": text}}
    response = requests.post(f"{address}/invocations", json=body, timeout=60)
    assert response.status_code == 200, response.text
    predictions: list[dict[str, Any]] = response.json()["predictions"]
    return predictions


def inferred(folder: Path, images: Path) -> list[dict[str, Any]]:
    """Return the rows of `infer` for the registered model, with all probabilities."""
    words = ["infer", f"--test_dir={images}", f"--checkpoint_name={URI}", "--engine=onnx", "--top_k=10"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(COMMANDS, "", [*words, "--output=rows.jsonl"]) in (0, 3)
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def require_same(rows: list[dict[str, Any]], predictions: list[dict[str, Any]]) -> None:
    assert len(rows) == len(predictions)
    for row, prediction in zip(rows, predictions, strict=True):
        assert (row["class_name"], row["class_id"]) == (prediction["class_name"], prediction["class_id"])
        assert row["error"] == prediction["error"]
        by_id = [one["probability"] for one in sorted(row["top"], key=lambda one: one["class_id"])]
        assert (prediction["probabilities"] or []) == pytest.approx(by_id, abs=2e-6)  # six digits in the rows


@pytest.mark.slow
def test_a_registered_checkpoint_is_found_by_its_alias(registered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(registered)
    own = cifar10.load("run").provenance
    for engine in ("torch", "onnx"):
        found = cifar10.load(URI, engine=engine).provenance
        assert found["weights_digest"] == own["weights_digest"]
        assert found["engine"].startswith({"torch": "torch", "onnx": "onnxruntime"}[engine])
    assert not {"MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID"} & set(os.environ)  # a later run goes to its own store


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_mlflow_serves_what_infer_computes(served: str, registered: Path) -> None:
    folder = registered / "pictures"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes(encode(picture(number, 16 + 9 * number), "PNG"))
    for item in malformed_images()[:12]:
        (folder / item.name).write_bytes(item.data)
    rows = inferred(registered, folder)
    require_same(rows, answered(served, [(folder / row["path"]).read_bytes() for row in rows]))
    assert sum(row["error"] is None for row in rows) >= 6
    wrong = requests.post(f"{served}/invocations", json={"inputs": ["run/best.ckpt!"]}, timeout=60)
    assert wrong.status_code == 400 and "not in base64" in wrong.text


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.timeout(300)
def test_mlflow_serves_what_infer_computes_for_photos(served: str, registered: Path) -> None:
    photos = SHARED_DATA / "photos"
    if not photos.is_dir():
        pytest.skip("the photos are not in ../shared/data")
    rows = inferred(registered, photos)
    assert len(rows) >= 10
    require_same(rows, answered(served, [(photos / row["path"]).read_bytes() for row in rows]))


@pytest.mark.slow
def test_a_model_on_onnx_needs_only_the_packages_that_it_names(registered: Path) -> None:
    """The process may import nothing but the standard library and the model's requirements."""
    [requirements] = (registered / "mlruns" / "artifacts").rglob("requirements.txt")
    names = {line.partition("==")[0].lower() for line in requirements.read_text().splitlines()}
    assert "torch" not in names and "onnxruntime" in names
    code = """
import sys, importlib
before = set(sys.modules)  # what files in site-packages import when Python starts
sys.path.insert(0, sys.argv[1])
importlib.import_module("cifar10.inference.mlflow_model")._load_pyfunc(sys.argv[2]).predictor
top = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
from importlib.metadata import packages_distributions
owners = packages_distributions()
print(*sorted({owner.lower() for name in top for owner in owners.get(name, [])}))
"""
    model = requirements.parent
    words = [sys.executable, "-c", code, str(model / "code"), str(model / "data" / "model")]
    done = subprocess.run(words, cwd=registered, capture_output=True, text=True, check=True, env={"PATH": ""})
    allowed = names | {"cifar10", "pydantic_core", "annotated-types", "typing_extensions", "typing-inspection"}
    assert set(done.stdout.split()) <= allowed

"""The HTTP service as a deployment of a real Ray Serve, in a process of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import requests

from cifar10.errors import UsageError
from tests.documented import ROOT
from tests.malformed import encode
from tests.serving.http.serving_process import free_port
from tests.tiny_onnx import COLOURS, coloured, write_colour_model

_DEPLOY = """
import sys
import time

import ray
from ray import serve

from cifar10.serving.ray_application import build

ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
serve.run(build({"checkpoint_name": "models/colours/export/model.onnx", "replicas": "2", "serving.drift": "null"}))
time.sleep(600)
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("ray.serve")
    folder = tmp_path_factory.mktemp("ray")
    write_colour_model(folder / "models/colours/export/model.onnx")
    port, log = free_port(), folder / "log.txt"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "CIFAR10_API_KEY": "secret"}
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", _DEPLOY, str(port)], cwd=folder, env=environment, stdout=file, stderr=file
        )
    try:
        until = time.monotonic() + 180
        while not _is_ready(f"http://127.0.0.1:{port}"):
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def _is_ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/readyz", timeout=5).status_code == 200
    except requests.RequestException:
        return False


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_replicas_answer_as_the_service_does(url: str) -> None:
    headers = {"Content-Type": "image/png", "X-API-Key": "secret"}
    for channel, name in enumerate(COLOURS):
        for _ in range(4):  # of both replicas
            data = encode(coloured(channel), "PNG")
            answer = requests.post(f"{url}/predict", data, headers=headers, timeout=60)
            assert answer.status_code == 200, answer.text
            assert answer.json()["images"][0]["class_name"] == name
            assert answer.json()["model"]["name"] == "colours"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_limits_and_keys_are_those_of_the_service(url: str) -> None:
    assert requests.post(f"{url}/predict", b"x", timeout=60).status_code == 401
    headers = {"Content-Type": "image/png", "X-API-Key": "secret"}
    unreadable = requests.post(f"{url}/predict", b"x", headers=headers, timeout=60)
    assert unreadable.status_code == 422 and "not a PNG" in unreadable.text
    assert requests.post(f"{url}/predict", bytes(11 * 2**20), headers=headers, timeout=60).status_code == 413
    assert "cifar10_requests_total" in requests.get(f"{url}/metrics", headers=headers, timeout=60).text


@pytest.mark.parametrize(
    "arguments",
    [{"replicas": "0"}, {"threads": "many"}, {"serving.max_images": "0"}, {"checkpoint": "x"}, {"engine": "none"}],
)
def test_arguments_that_mean_nothing_are_refused(arguments: dict[str, str]) -> None:
    pytest.importorskip("ray.serve")
    from cifar10.serving.ray_application import build

    with pytest.raises(UsageError):
        build(arguments)

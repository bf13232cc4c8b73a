"""The service as a process: it withstands clients that ask for too much, and ends without losing a request."""

import concurrent.futures
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import requests

from cifar10.config.serving_settings import read_api_key
from cifar10.errors import UsageError, UserError
from cifar10.system.listening import reserve
from tests.documented import ROOT
from tests.malformed import encode
from tests.serving.http.serving_process import Served, free_port, received, serving, wait_until_ready
from tests.tiny_onnx import coloured, write_colour_model

IMAGE = encode(coloured(2), "PNG")
MODEL = "--checkpoint_name=colours/model.onnx"
QUIET = "serving.drift=null"


def head(length: int | None, *lines: str) -> bytes:
    size = [] if length is None else [f"Content-Length: {length}"]
    text = ["POST /predict HTTP/1.1", "Host: localhost", "Content-Type: image/png", *size, *lines]
    return ("\r\n".join(text) + "\r\n\r\n").encode()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("service")
    write_colour_model(folder / "colours" / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    limits = ("serving.header_seconds=2", "serving.idle_seconds=2", "serving.max_body_mb=1")
    with serving(folder, MODEL, QUIET, *limits) as served:
        yield served


def test_no_process_imports_torch_or_mlflow(served: Served) -> None:
    requests.post(f"{served.url}/predict", data=IMAGE, headers={"Content-Type": "image/png"}, timeout=10)
    parent = psutil.Process(served.process.pid)
    for process in (parent, *parent.children(recursive=True)):
        libraries = {Path(mapped.path).name for mapped in process.memory_maps()}
        assert not any("torch" in library for library in libraries)


def test_a_body_that_is_announced_too_large_is_refused_before_it_is_sent(served: Served) -> None:
    assert status(served.raw(head(20_000_000) + b"x" * 1000)) == 413


def test_a_body_that_grows_too_large_in_chunks_is_refused(served: Served) -> None:
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    assert status(served.raw(head(None, "Transfer-Encoding: chunked") + chunk * 100)) == 413


def test_a_body_in_chunks_is_classified(served: Served) -> None:
    chunks = b"%x\r\n" % len(IMAGE) + IMAGE + b"\r\n0\r\n\r\n"
    answer = served.raw(head(None, "Transfer-Encoding: chunked", "Connection: close") + chunks)
    assert status(answer) == 200
    assert b'"class_name":"blue"' in answer


@pytest.mark.slow
@pytest.mark.parametrize(
    "sent", [b"", b"POST /pre", head(1000), head(1000) + b"half", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"]
)
def test_a_connection_that_sends_no_more_is_closed(served: Served, sent: bytes) -> None:
    started = time.monotonic()
    served.raw(sent)
    assert time.monotonic() - started < 4


def test_many_such_connections_do_not_delay_others(served: Served) -> None:
    with ExitStack() as stack:
        for number in range(200):
            connection = stack.enter_context(served.connect())
            connection.sendall((b"", b"POST /pre", head(1000))[number % 3])
        started = time.monotonic()
        answer = requests.post(f"{served.url}/predict", data=IMAGE, headers={"Content-Type": "image/png"}, timeout=10)
        assert answer.status_code in (200, 503)  # bodies that do not arrive hold places, for two seconds
        assert time.monotonic() - started < 1
    time.sleep(0.2)
    answer = requests.post(f"{served.url}/predict", data=IMAGE, headers={"Content-Type": "image/png"}, timeout=10)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GARBAGE\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
        b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnot hex\r\n",
        b"GET /" + b"a" * 10**6 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10**4 + b"\r\n",
        b"GET /predict?top_k=%ff&top_k=%00 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused_and_nothing_breaks(served: Served, sent: bytes) -> None:
    answer = served.raw(sent)
    assert not answer or 400 <= status(answer) < 500
    assert requests.get(f"{served.url}/readyz", timeout=5).status_code == 200


def test_a_damaged_form_is_told_to_the_client_and_not_to_the_log(served: Served) -> None:
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    before = served.messages()
    assert requests.post(f"{served.url}/predict", data=b"no form", headers=kind, timeout=5).status_code == 400
    assert served.messages() == before


@pytest.mark.slow
def test_too_many_requests_at_once_are_told_to_come_back(folder: Path) -> None:
    with (
        serving(folder, MODEL, QUIET, "serving.max_pending=4", "serving.idle_seconds=5") as served,
        ExitStack() as stack,
    ):
        slow = [stack.enter_context(served.connect()) for _ in range(4)]
        for connection in slow:
            connection.sendall(head(len(IMAGE)))
        time.sleep(0.2)
        started = time.monotonic()
        answer = requests.post(f"{served.url}/predict", data=IMAGE, headers={"Content-Type": "image/png"}, timeout=5)
        assert time.monotonic() - started < 0.5
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        assert requests.get(f"{served.url}/readyz", timeout=5).status_code == 200
        for connection in slow:
            connection.sendall(IMAGE)
        assert [status(connection.recv(65536)) for connection in slow] == [200] * 4


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_at_the_end_all_requests_in_progress_are_answered(folder: Path, number: signal.Signals) -> None:
    with serving(folder, MODEL, QUIET) as served, ExitStack() as stack:
        connections = [stack.enter_context(served.connect()) for _ in range(20)]
        for connection in connections:  # received, and not yet complete
            connection.sendall(head(len(IMAGE), "Connection: close") + IMAGE[:50])
        time.sleep(0.3)
        served.process.send_signal(number)
        time.sleep(0.3)
        for connection in connections:
            connection.sendall(IMAGE[50:])
        assert [status(received(connection)) for connection in connections] == [200] * 20
        started = time.monotonic()
        assert served.process.wait(15) == 0
        assert time.monotonic() - started < 10
        assert "all requests are answered; stopped" in served.messages()


@pytest.mark.slow
def test_a_process_that_dies_is_replaced(folder: Path) -> None:
    with serving(folder, MODEL, QUIET) as served:
        [worker] = served.workers()
        worker.kill()
        worker.wait(10)
        wait_until_ready(served)
        assert [worker.pid] != [process.pid for process in served.workers()]
        answer = requests.post(f"{served.url}/predict", data=IMAGE, headers={"Content-Type": "image/png"}, timeout=5)
        assert answer.status_code == 200


@pytest.mark.slow
def test_killed_it_leaves_no_process_behind(folder: Path) -> None:
    with serving(folder, MODEL, QUIET) as served:
        workers = served.workers()
        served.process.kill()
        gone, alive = psutil.wait_procs(workers, timeout=10)
        assert not alive, alive
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", served.port), timeout=5)
        assert gone


@pytest.mark.slow
def test_several_processes_share_the_work_and_add_up_their_metrics(folder: Path) -> None:
    with serving(folder, MODEL, QUIET, "--workers=2") as served:
        stop = threading.Event()

        def ask() -> int:
            number = 0
            while not stop.is_set():
                answer = requests.post(
                    f"{served.url}/predict", data=IMAGE, headers={"Content-Type": "image/png"}, timeout=10
                )
                number += answer.status_code == 200
            return number

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            asking = [pool.submit(ask) for _ in range(8)]
            time.sleep(3)
            stop.set()
            total = sum(future.result() for future in asking)
        text = requests.get(f"{served.url}/metrics", timeout=5).text
        [line] = [line for line in text.splitlines() if line.startswith('cifar10_images_total{outcome="classified"}')]
        assert float(line.rpartition(" ")[2]) == total
        assert all(process.cpu_times().user > 0.3 for process in served.workers())


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        (["--checkpoint_name=none"], 2, "there is no checkpoint none"),
        ([MODEL, "--port=0"], 2, "--port=0: must be a whole number, 1 or more"),
        ([MODEL, "--workers=2000"], 2, "--workers=2000 is not possible"),
        ([MODEL, "--engine=oonx"], 2, "did you mean onnx?"),
        ([MODEL, "serving.max_bodymb=3"], 2, "did you mean serving.max_body_mb?"),
        ([MODEL, "serving.max_body_mb=-3"], 2, "serving.max_body_mb: must be greater than 0"),
        ([MODEL, "model=resnet18"], 2, "only serving=NAME and serving.KEY=VALUE can be set"),
        ([MODEL, "--host=192.0.2.7"], 1, "the service cannot listen at 192.0.2.7"),
        ([MODEL, "--host=\u00fc..x"], 1, "this is no name of a machine); choose --host=127.0.0.1"),
        (["--checkpoint_name=damaged.onnx"], 1, "cannot be read as an ONNX file"),
    ],
)
def test_a_mistake_is_told_in_a_line(
    folder: Path,
    words: list[str],
    exit_code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from cifar10.cli.command_line import main
    from commands import COMMANDS

    monkeypatch.chdir(folder)
    Path("damaged.onnx").write_bytes(b"damaged")
    port = [] if any(word.startswith("--port") for word in words) else [f"--port={free_port()}"]
    assert main(COMMANDS, "", ["serve", *words, *port]) == exit_code
    assert message in capfd.readouterr().err


def test_a_port_in_use_is_told_with_the_next_one(
    folder: Path, served: Served, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from cifar10.cli.command_line import main
    from commands import COMMANDS

    monkeypatch.chdir(folder)
    assert main(COMMANDS, "", ["serve", MODEL, f"--port={served.port}"]) == 1
    error = capfd.readouterr().err
    assert "Address already in use" in error
    assert f"--port={served.port + 1}" in error
    assert os.getcwd() == str(folder)


def test_of_two_services_that_start_together_one_gets_the_port() -> None:
    port = free_port()
    with reserve("127.0.0.1", port, "the service"), pytest.raises(UserError, match="Address already in use"):
        reserve("127.0.0.1", port, "the service")
    reserve("127.0.0.1", port, "the service").close()


@pytest.mark.parametrize("key", ["abc\n", " ", "\udcff", "gr\u00fcn"])
def test_a_key_that_no_client_can_send_is_refused(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFAR10_API_KEY", key)
    with pytest.raises(UsageError, match="printable ASCII"):
        read_api_key()


def test_advice_of_the_process_that_checks_the_model_can_be_typed(folder: Path) -> None:
    export = folder / "models" / "cut" / "export"
    export.mkdir(parents=True)
    (export / "model.onnx").write_bytes((folder / "colours" / "model.onnx").read_bytes()[:200])
    (export.parent / "best.ckpt").write_bytes(b"a checkpoint")
    line = [sys.executable, str(ROOT / "commands.py"), "serve", "--checkpoint_name=cut", f"--port={free_port()}"]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    advice = f"export it again: {sys.executable} {ROOT / 'commands.py'} export --checkpoint_name=models/cut/best.ckpt"
    assert advice in done.stderr, done.stderr

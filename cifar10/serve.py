"""Entry point of `serve`: a checkpoint -> its ONNX file -> an HTTP service, until a signal ends it.

This process starts those that answer, and starts another one if one of them dies. It imports no model.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels

from cifar10.config.advice import command_line
from cifar10.config.conf_folder import PROJECT
from cifar10.config.serving_settings import API_KEY, METRICS_FOLDER, ServingSettings, read_api_key
from cifar10.errors import UserError
from cifar10.serving.http.worker import describe_model, load_application
from cifar10.serving.model_request import ModelRequest
from cifar10.system.listening import LOOPBACK, reserve, url_of
from cifar10.system.signals import if_stopped
from cifar10.system.streams import print_message

_CONNECTIONS = 4096
"""Open at once in each process; beyond `max_pending` requests they are only told to come back."""
_LOGGING: dict[str, Any] = {
    "formatters": {"line": {"format": "%(asctime)s %(message)s", "datefmt": "%Y-%m-%d %H:%M:%S"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"}},
    "loggers": {
        "cifar10.serving": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        "_granian": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
        "granian.access": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
    },
}


@dataclass(frozen=True)
class ServeRequest:
    """What to serve, and where."""

    model: ModelRequest
    settings: ServingSettings
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    """Processes that answer."""

    @property
    def address(self) -> str:
        return url_of(self.host, self.port)


def serve(request: ServeRequest) -> None:
    """Answer HTTP requests until SIGTERM or Ctrl-C. Requests in progress are still answered.

    Raises:
        UsageError: The API key in the environment cannot be sent.
        UserError: The model cannot be loaded, or the address cannot be used.
    """
    key = read_api_key()
    multiprocessing.set_start_method("spawn", force=True)  # a copy of this process would share its threads' locks
    with reserve(request.host, request.port, "the service"), tempfile.TemporaryDirectory(prefix="cifar10-") as folder:
        with if_stopped("before the service began"):
            if not request.model.is_registered:
                _export_if_missing(request.model)
                print_message(_checked(request.model))
        if request.workers > 1:  # then metrics are added up from files
            os.environ[METRICS_FOLDER] = folder
        print_message(_greeting(request, key))
        load = partial(load_application, request.model, request.settings, key, request.workers)
        try:
            _server(request).serve(target_loader=load, wrap_loader=False)
        except SystemExit:
            raise UserError("the service has ended, since its processes died again and again; see above") from None
    print_message("all requests are answered; stopped")


def _server(request: ServeRequest) -> Any:
    settings = request.settings
    return Granian(
        "cifar10",
        address=request.host,
        port=request.port,
        interface=Interfaces.ASGI,
        workers=request.workers,
        http=HTTPModes.http1,
        websockets=False,
        backlog=_CONNECTIONS,
        backpressure=_CONNECTIONS,
        http1_settings=HTTP1Settings(header_read_timeout=int(1000 * settings.header_seconds)),
        log_level=LogLevels.warning,
        log_dictconfig=_LOGGING,
        log_access=settings.access_log,
        respawn_failed_workers=True,
        workers_kill_timeout=settings.shutdown_seconds,
    )


def _export_if_missing(model: ModelRequest) -> None:
    """Export a checkpoint that has no ONNX file, in a process of its own, so that this one needs no torch."""
    file = Path(model.checkpoint)
    if model.engine != "onnx" or file.suffix == ".onnx" or (file.parent / "export" / "model.onnx").is_file():
        return
    print_message(f"{file} has no ONNX file yet; exporting it")
    words = ["export", f"--checkpoint_name={file}", "--formats=onnx"]
    done = subprocess.run([sys.executable, str(PROJECT / "commands.py"), *words], check=False, stdout=sys.stderr)
    if done.returncode:
        again = command_line("export", checkpoint_name=str(file))
        raise UserError(f"{file} was not exported, see above; when that is mended: {again}")


def _checked(model: ModelRequest) -> str:
    """Load the model once, in a process of its own, and return a line about it.

    Raises:
        UserError: It cannot be loaded.
    """
    with ProcessPoolExecutor(max_workers=1) as pool:
        try:
            return pool.submit(describe_model, model).result()
        except BrokenProcessPool:
            raise UserError(f"the process that loaded {model.checkpoint} has died; is there enough memory?") from None


def _greeting(request: ServeRequest, key: str | None) -> str:
    about = f"; about the routes: {request.address}/docs" if request.settings.docs and key is None else ""
    lines = [f"serving at {request.address}{about}"]
    if request.model.is_registered:
        lines.append(f"looking up {request.model.checkpoint}; requests are refused with 503 until it is loaded")
    if key is None and request.host not in LOOPBACK:
        lines.append(f"warning: whoever reaches {request.address} may use it; set {API_KEY} to demand a key")
    return "\n".join(lines)

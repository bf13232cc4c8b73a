"""The HTTP service as a deployment of Ray Serve, which starts replicas on the machines of a cluster.

    python -m pip install 'ray[serve]>=2.60'
    serve run cifar10.serving.ray_application:build checkpoint_name=first replicas=2

Each replica has the routes and limits of `python commands.py serve`; Ray's proxy listens in front of them.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar10.config.serving_settings import read_api_key, read_serving_settings
from cifar10.errors import UsageError
from cifar10.inference.engines import require_engine
from cifar10.serving.model_request import ModelRequest

if TYPE_CHECKING:
    from ray import serve

    from cifar10.serving.http.guard import Application

_ARGUMENTS = ("checkpoint_name", "engine", "tta", "replicas", "threads")


def build(arguments: Mapping[str, str]) -> "serve.Application":
    """Return the application that `serve run` deploys.

    Args:
        arguments: `checkpoint_name` (best), `engine` (onnx), `tta`, `replicas` (1), `threads` of each replica (1), and
            settings `serving.KEY`. The checkpoint is looked up on the machines of the replicas, in the folder of this
            process if it is there.

    Raises:
        UsageError: An argument is not known or not valid.
    """
    from ray import serve

    settings = read_serving_settings([f"{key}={value}" for key, value in arguments.items() if key not in _ARGUMENTS])
    engine, key, folder = arguments.get("engine", "onnx"), read_api_key(), Path.cwd()
    require_engine(engine)
    model = ModelRequest(arguments.get("checkpoint_name", "best"), engine, tta=arguments.get("tta"))
    num_replicas, num_threads = (_number(arguments, name) for name in ("replicas", "threads"))

    def application() -> "Application":
        from cifar10.serving.http.application import make_application
        from cifar10.system.limits import CPUS

        os.environ[CPUS] = str(num_threads)
        if folder.is_dir():
            os.chdir(folder)
        return make_application(model, settings, key)

    ingress: Any = serve.ingress(application)()
    deployment: Any = serve.deployment(
        ingress,
        name="cifar10",
        num_replicas=num_replicas,
        max_ongoing_requests=settings.max_pending,
        ray_actor_options={"num_cpus": num_threads},
    )
    bound: serve.Application = deployment.bind()
    return bound


def _number(arguments: Mapping[str, str], name: str) -> int:
    text = arguments.get(name, "1")
    if not text.isdecimal() or not int(text):
        raise UsageError(f"{name}={text} is not possible; it must be 1 or more")
    return int(text)

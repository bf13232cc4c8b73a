"""What a process of the HTTP service runs; the first process, which only starts and watches it, imports little."""

import logging
import signal
from typing import TYPE_CHECKING

from cifar10.config.serving_settings import ServingSettings
from cifar10.serving.model_request import ModelRequest
from cifar10.system.parent import end_with_parent

if TYPE_CHECKING:
    from cifar10.serving.http.guard import Application


def load_application(
    request: ModelRequest, settings: ServingSettings, api_key: str | None, num_processes: int
) -> "Application":
    """Return the application in a process that ends with its parent; arguments of `make_application`."""
    end_with_parent(signal.SIGTERM)
    logging.getLogger("cifar10.serving").setLevel(logging.INFO)
    from cifar10.serving.http.application import make_application

    return make_application(request, settings, api_key, num_processes)


def describe_model(request: ModelRequest) -> str:
    """Load a model as the service will, and return a line about it.

    Raises:
        UserError: It cannot be loaded here.
    """
    from cifar10.serving.http.model import describe, load_served

    return describe(load_served(request))

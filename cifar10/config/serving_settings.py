"""Settings of the HTTP service: a file of `conf/serving/`, and overrides serving.KEY=VALUE."""

import os
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from cifar10.config.command_settings import read_settings
from cifar10.config.schema import Section
from cifar10.errors import UsageError
from cifar10.types import PositiveInt

Seconds = Annotated[float, Field(gt=0, le=86_400)]

API_KEY = "CIFAR10_API_KEY"
"""Environment variable with the key that clients must send; a flag would be seen by other users of the machine."""

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable of prometheus_client: the folder in which several processes count together."""

_GROUP = "serving"


class ServingSettings(Section):
    """Limits of the HTTP service, for each of its processes."""

    max_body_mb: Annotated[float, Field(gt=0, le=2048)]
    """Largest body of a request, in units of 2**20 bytes."""
    max_images: PositiveInt
    """In one request."""
    max_megapixels: Annotated[float, Field(gt=0, le=52)]
    """Largest width times height of an image, in millions."""
    max_pending: PositiveInt
    """Requests that are received or computed at the same time. Further ones are refused."""
    header_seconds: Seconds
    """Until the headers of a request have arrived; also how long a connection without a request is kept."""
    idle_seconds: Seconds
    """Between two parts of a body."""
    body_seconds: Seconds
    """Until the whole body has arrived."""
    answer_seconds: Seconds
    """Until the images of a request are computed."""
    shutdown_seconds: Annotated[int, Field(gt=0, le=3600)]
    """For requests in progress, after a signal to end."""
    batch_images: PositiveInt
    """Most images of waiting requests that are computed together; 1: each request on its own."""
    threads: Annotated[int, Field(gt=0, le=1024)] | None
    """That decode and compute. None: one for each processor, divided by the number of processes."""
    reload_seconds: Seconds
    """Between two looks at the version that an alias refers to."""
    retry_seconds: Annotated[int, Field(gt=0, le=3600)]
    """What a refused client is told to wait."""
    drift: str | None
    """SQLite file with hourly counts of brightness, confidence and classes of the images. None: nothing is counted."""
    access_log: bool
    """Whether each request is a line on stderr."""
    docs: bool
    """Whether the service describes itself at /docs and /openapi.json."""

    @property
    def max_body(self) -> int:
        """Bytes of the largest body."""
        return int(self.max_body_mb * 2**20)

    @property
    def max_pixels(self) -> int:
        """Pixels of the largest image."""
        return int(self.max_megapixels * 10**6)


def read_api_key() -> str | None:
    """Return the key that the environment demands of clients; None: none.

    Raises:
        UsageError: No client can send it.
    """
    key = os.environ.get(API_KEY, "")
    if key and not (key.isascii() and key.isprintable() and key.strip() == key):
        told = f"{API_KEY} must be printable ASCII characters without a blank or a line break at its ends"
        raise UsageError(f"{told}, since clients send it in a header")
    return key or None


def read_serving_settings(words: Sequence[str] = ()) -> ServingSettings:
    """Return the settings that the overrides describe; arguments and errors of `read_settings`."""
    return read_settings(ServingSettings, _GROUP, words)

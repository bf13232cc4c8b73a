"""Settings of the HTTP service: a file of `conf/serving/`, with overrides `serving.KEY=VALUE`. Needs no Hydra."""

from collections.abc import Sequence
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from cifar10.config import conf_folder
from cifar10.config.schema import Section
from cifar10.config.validation import problems_of, validate
from cifar10.errors import UsageError, first_line
from cifar10.types import PositiveInt

Seconds = Annotated[float, Field(gt=0, le=86_400)]

API_KEY = "CIFAR10_API_KEY"
"""Environment variable with the key that clients must send; a flag would be seen by other users of the machine."""

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


def read_serving_settings(overrides: Sequence[str] = ()) -> ServingSettings:
    """Return the settings of `conf/serving/default.yaml`, or of `serving=NAME` or `serving=FILE.yaml`, with overrides.

    Args:
        overrides: `serving=NAME` and `serving.KEY=VALUE`.

    Raises:
        UsageError: A setting is not known or not valid; the message names its key.
    """
    name, changes = "default", {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or key.partition(".")[0] != _GROUP:
            raise UsageError(f"{override}: serve takes no settings but serving=NAME and serving.KEY=VALUE")
        if key == _GROUP:
            name = value
        else:
            changes[key.removeprefix(f"{_GROUP}.")] = _scalar(override, value)
    file = conf_folder.option_file(_GROUP, name, "file of settings")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise UsageError(f"serving: {file} must be a mapping of settings, as conf/serving/default.yaml is")
        return validate(ServingSettings, values | changes)
    except OSError as error:
        raise UsageError(f"serving: {file} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        problems = problems_of(error, values | changes, list(ServingSettings.model_fields))
        raise UsageError("; ".join(str(problem.within(_GROUP)) for problem in problems)) from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"serving: {file}: {first_line(error)}") from None


def _scalar(override: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UsageError(f"{override}: the value cannot be read; give a number, true, false or null") from None

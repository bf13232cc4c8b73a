"""The temperature that `export` divides logits by: a number, or what `evaluate` has fitted."""

import json
import math
from pathlib import Path
from typing import NamedTuple

from cifar10.errors import UsageError
from cifar10.files import read_text
from cifar10.suggest import did_you_mean_path

_LEAST, _MOST = 0.01, 100.0


class Temperature(NamedTuple):
    """A number to divide logits by."""

    value: float
    weights_digest: str | None = None
    """Of the network that it was fitted for; None: it was typed."""
    fitted_on: str | None = None
    """Name of the split: val or test."""


def read_temperature(text: str) -> Temperature:
    """Return the temperature that `text` names: a number, the file `report.json` of an evaluation, or its folder.

    Raises:
        UsageError: It is not possible, or the file holds none.
    """
    try:
        value = float(text)
    except ValueError:
        return _read(text)
    if not _LEAST <= value <= _MOST:
        raise UsageError(f"--temperature={text}: must be between {_LEAST} and {_MOST:.0f}; 1 changes nothing")
    return Temperature(value)


def _read(text: str) -> Temperature:
    path = Path(text)
    path = path / "report.json" if path.is_dir() else path
    if not path.is_file():
        advice = did_you_mean_path(text) or "; name a number, or the report.json that evaluate writes"
        raise UsageError(f"--temperature: there is no file {path}{advice}")
    try:
        content = json.loads(read_text(path))
        fitted = content["calibration"]["temperature"]
        digest = str(content["weights_digest"])
        if fitted is None:
            raise UsageError(f"--temperature: {path} holds no temperature, since there was no image to fit it on")
        value, split = float(fitted["value"]), str(fitted["fitted_on"])
    except UsageError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(f"--temperature: {path} is not a report.json that evaluate writes") from None
    if not (math.isfinite(value) and _LEAST <= value <= _MOST):
        raise UsageError(f"--temperature: {path} holds {value}, which is not possible")
    return Temperature(value, digest, split)

"""Trusted MLflow stores: those that `conf/tracking` or MLFLOW_TRACKING_URI names.

A run folder, and the store in its configuration, may come from a stranger. Nothing is sent or written to such a store
unless it is also configured here or typed.
"""

import os
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from cifar10.config.advice import command_line
from cifar10.config.conf_folder import options
from cifar10.config.mlflow_uri import LOCAL_URI, absolute_uri, database_path, shown_uri
from cifar10.config.schema import TrackingConfig
from cifar10.runs.mlflow_places import artifacts_folder


class _Place(NamedTuple):
    """The absolute address of a store, and the folder of its files; None for a server."""

    uri: str
    artifacts: Path | None


def unknown_settings(tracking: TrackingConfig) -> dict[str, str]:
    """Return the settings of `tracking`, by their dotted keys, whose store or folder is not configured here."""
    place = _place(tracking.uri, tracking.artifacts)
    if place == _place(LOCAL_URI, None):
        return {}  # without composing a configuration, which takes long
    known = _configured(Path.cwd(), os.environ.get("MLFLOW_TRACKING_URI"))
    if place in known:
        return {}
    unknown = {} if place.uri in {other.uri for other in known} else {"tracking.uri": tracking.uri}
    if tracking.artifacts is not None and place.artifacts is not None:
        unknown["tracking.artifacts"] = tracking.artifacts
    return unknown


def sync_line(folder: Path, tracking: TrackingConfig) -> str:
    """Return the line to type that sends the run in `folder` to its store."""
    words = [folder.name]
    if folder.parent.absolute() != Path("models").absolute():
        words.append(f"--models_dir={folder.parent}")
    if unknown_settings(tracking):
        words.append(f"--tracking_uri={shown_uri(tracking.uri)}")
    return command_line("sync", *words)


def _place(uri: str, artifacts: str | None) -> _Place:
    path = database_path(uri)
    return _Place(absolute_uri(uri), None if path is None else artifacts_folder(path, artifacts))


@cache
def _configured(_folder: Path, _variable: str | None) -> frozenset[_Place]:  # the addresses depend on both
    from cifar10.config.compose import compose_config

    composed = (compose_config([f"tracking={option}"]).values.get("tracking") for option in options("tracking"))
    sections: list[Any] = [section for section in composed if isinstance(section, dict)]
    places = (_place(x["uri"], x.get("artifacts")) for x in sections if isinstance(x.get("uri"), str))
    return frozenset([_place(LOCAL_URI, None), *places])

"""MLflow stores that are trusted: those that `conf/tracking` or MLFLOW_TRACKING_URI names.

The folder of a run may be a stranger's, and so the store that its configuration names. Nothing is sent there, and no
file is written there, unless the same store is configured or typed.
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
    """A store as it is from any working folder, and the folder for its files; None for that of a server."""

    uri: str
    artifacts: Path | None


def unknown_settings(tracking: TrackingConfig) -> dict[str, str]:
    """Return those settings of `tracking`, by their dotted keys, that lead to a store or a folder not known here."""
    place = _place(tracking.uri, tracking.artifacts)
    if place == _place(LOCAL_URI, None) or place in (
        known := _configured(Path.cwd(), os.environ.get("MLFLOW_TRACKING_URI"))
    ):
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
def _configured(_folder: Path, _variable: str | None) -> frozenset[_Place]:  # what the addresses depend on
    from cifar10.config.compose import compose_config

    sections: list[Any] = [
        compose_config([f"tracking={option}"]).values.get("tracking") for option in options("tracking")
    ]
    return frozenset(
        {_place(LOCAL_URI, None)}
        | {
            _place(section["uri"], section.get("artifacts"))
            for section in sections
            if isinstance(section, dict) and isinstance(section.get("uri"), str)
        }
    )

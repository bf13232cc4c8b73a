"""An alias in MLflow's registry: the version that has it, and how it moves to another one.

All functions raise what MLflow, requests and SQLAlchemy raise; see `told_if_refused`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cifar10.config.mlflow_uri import database_path, default_uri
from cifar10.errors import UserError
from cifar10.runs.mlflow_store import connect, connect_for_reading, locked
from cifar10.runs.registry import RegisteredName, VersionContent, add_version, log_to_run, open_registry
from cifar10.system.signals import held, if_stopped

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from cifar10.runs.checkpoints import Checkpoint

_ATTEMPT_TAG = "promotion.begun"


@dataclass(frozen=True)
class Alias:
    """A name with an alias in an open registry.

    Args:
        client: MLflow's; None: there is no database yet, and nothing is written.
        experiment_id: Of new models; None: nothing is written.
        target: Name and alias.
    """

    client: "MlflowClient | None"
    experiment_id: str | None
    target: RegisteredName

    @classmethod
    def open_for_reading(cls, target: RegisteredName) -> "Alias":
        """Open the store to read from it; a local one need not exist."""
        uri = default_uri()
        path = database_path(uri)
        if path is not None and not path.exists():
            return cls(None, None, target)
        connect_for_reading(uri)
        return cls(connect(uri), None, target)

    @classmethod
    def open_for_writing(cls, target: RegisteredName, experiment: str, now: str) -> "Alias":
        """Open the store, and write a tag with the time `now`, so that a store which refuses that is found at once."""
        uri = default_uri()
        with locked(uri):
            client, experiment_id = open_registry(uri, experiment)
        alias = cls(client, experiment_id, target)
        if alias._versions_by_alias() is None:
            client.set_experiment_tag(experiment_id, _ATTEMPT_TAG, now)
        else:
            client.set_registered_model_tag(target.name, _ATTEMPT_TAG, now)
        return alias

    def version(self) -> str | None:
        """Return the number of the version that has the alias; None: no version has it."""
        return (self._versions_by_alias() or {}).get(str(self.target.alias))

    def version_with(self, tags: Mapping[str, str]) -> str | None:
        """Return the number of the newest version that has all these tags; None: there is none."""
        if self.client is None or self._versions_by_alias() is None:
            return None
        found = self.client.search_model_versions(f"name='{self.target.name}'")
        numbers = [int(each.version) for each in found if tags.items() <= each.tags.items()]
        return str(max(numbers)) if numbers else None

    def add(self, checkpoint: "Checkpoint", exported: Path, content: VersionContent) -> str:
        """Register a network, and return the number of its version."""
        assert self.client is not None
        assert self.experiment_id is not None
        with locked(default_uri()):
            number = add_version(self.client, self.experiment_id, checkpoint, exported, self.target.name, content)
        log_to_run(self.client, checkpoint, [file for file in content.files.values() if file.suffix == ".md"])
        return number

    def annotate(self, number: str, tags: Mapping[str, str], description: str) -> None:
        """Give a version tags and a description."""
        assert self.client is not None
        for key, value in tags.items():
            self.client.set_model_version_tag(self.target.name, number, key, value)
        self.client.update_model_version(self.target.name, number, description)

    def move(self, number: str, before: str | None) -> None:
        """Give the alias to version `number`, if version `before` still has it; None: if no version has it.

        In a SQLite store no other process can move it between the two steps. A signal waits until both are done.

        Raises:
            UserError: Another version has it now.
        """
        assert self.client is not None
        with locked(default_uri()):
            now = self.version()
            if now != before:
                has = "no version has it any more" if now is None else f"version {now} has it now"
                was = "no version" if before is None else f"version {before}"
                raise UserError(
                    f"not promoted: {self.target.alias} of {self.target.name} has moved meanwhile: this network was "
                    f"compared with {was}, and {has}; promote it again"
                )
            moved = f"after {self.target.alias} had moved to version {number} of {self.target.name}"
            with if_stopped(moved), held():
                self.client.set_registered_model_alias(self.target.name, str(self.target.alias), number)

    def _versions_by_alias(self) -> dict[str, str] | None:
        """Return alias -> version number; None: there is no model of this name."""
        from mlflow.exceptions import MlflowException

        if self.client is None:
            return None
        try:
            found = self.client.get_registered_model(self.target.name).aliases
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return {str(alias): str(number) for alias, number in found.items()}

"""Look up which version of a registered model an address such as `models:/NAME@ALIAS` refers to now."""

import re
from dataclasses import dataclass

from cifar10.errors import CheckpointError


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of a model in MLflow's registry."""

    name: str
    number: str

    @property
    def uri(self) -> str:
        """Its address, which never refers to another version."""
        return f"models:/{self.name}/{self.number}"


def registered_version(uri: str) -> RegisteredVersion:
    """Return the version that `uri` refers to in the store that `MLFLOW_TRACKING_URI` names, or the local one.

    Args:
        uri: models:/NAME@ALIAS or models:/NAME/NUMBER.

    Raises:
        CheckpointError: It is no such address, there is no such version, or the store is unavailable.
    """
    found = re.fullmatch(r"models:/([^/@]+)(?:/(\d+)|@([\w-]+))", uri)
    if found is None:
        raise CheckpointError(f"{uri[:200]} is no registered model; write models:/NAME@ALIAS or models:/NAME/NUMBER")
    name, number, alias = found.groups()
    if number is not None:
        return RegisteredVersion(name, number)
    from cifar10.config.mlflow_uri import default_uri, shown_uri
    from cifar10.runs.mlflow_store import StoreError, connect, connect_for_reading, reason_of

    store = default_uri()
    try:
        connect_for_reading(store)
        version = connect(store).get_model_version_by_alias(name, alias)
    except StoreError as error:
        raise CheckpointError(f"{uri} is to come from MLflow, but {error}") from None
    except Exception as error:  # MLflow raises its own, requests', SQLAlchemy's and OSError
        raise CheckpointError(f"MLflow has no {uri} at {shown_uri(store)}: {reason_of(error)}") from None
    return RegisteredVersion(name, str(version.version))

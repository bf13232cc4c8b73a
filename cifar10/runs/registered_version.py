"""Look up which version of a registered model an address such as `models:/NAME@ALIAS` refers to now."""

import re
from dataclasses import dataclass

from cifar10.errors import CheckpointError, UserError

_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""Codes of MLflow's errors for a model or an alias that is not there."""


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
        CheckpointError: It is no such address, or no version has the alias, or the local store does not exist yet.
        UserError: The store is unavailable.
    """
    found = re.fullmatch(r"models:/([^/@]+)(?:/(\d+)|@([\w-]+))", uri)
    if found is None:
        raise CheckpointError(f"{uri[:200]} is no registered model; write models:/NAME@ALIAS or models:/NAME/NUMBER")
    name, number, alias = found.groups()
    if number is not None:
        return RegisteredVersion(name, number)
    from cifar10.config.mlflow_uri import default_uri, shown_uri
    from cifar10.runs.mlflow_store import AbsentStoreError, StoreError, connect, connect_for_reading, reason_of

    store = default_uri()
    try:
        connect_for_reading(store)
        version = connect(store).get_model_version_by_alias(name, alias)
    except AbsentStoreError as error:
        raise CheckpointError(f"MLflow has no {uri}: {error}") from None
    except StoreError as error:
        raise UserError(f"{uri} is to come from MLflow, but {error}") from None
    except Exception as error:  # MLflow raises its own, requests', SQLAlchemy's and OSError
        if getattr(error, "error_code", None) in _ABSENT:
            raise CheckpointError(f"MLflow has no {uri} at {shown_uri(store)}: {reason_of(error)}") from None
        raise UserError(f"{uri} cannot be looked up at {shown_uri(store)}: {reason_of(error)}") from None
    return RegisteredVersion(name, str(version.version))

"""MLflow's model registry: log a checkpoint as a model of MLflow, register it under a name, and give it an alias.

The logged folder holds the checkpoint, its exported ONNX file, and the source code that computes with them, so that it
can be served where this program is not installed. `--checkpoint_name=models:/NAME@ALIAS` finds the checkpoint in it.
"""

import contextlib
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar10.config.conf_folder import CONF
from cifar10.config.mlflow_uri import absolute_uri, database_path, default_uri, shown_uri, uri_problem
from cifar10.errors import UsageError, UserError
from cifar10.files import file_sha256, link_or_copy
from cifar10.runs.checkpoint_names import BEST
from cifar10.runs.mlflow_places import artifacts_folder, mend_places
from cifar10.runs.mlflow_store import StoreError, connect, find_experiment, locked, probe, reason_of, using_store
from cifar10.runs.record import RunRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from cifar10.runs.checkpoints import Checkpoint

_PACKAGE = Path(__file__).parents[1]
_LOADER = "cifar10.inference.mlflow_model"  # MLflow imports it by its name
_ONNX_PACKAGES = ("mlflow", "numpy", "onnxruntime", "pandas", "pillow", "psutil", "pydantic", "PyYAML")
_TORCH_PACKAGES = (*_ONNX_PACKAGES, "torch", "torchvision", "llvmlite", "hydra-core", "omegaconf")


def require_name(name: str, given: str) -> None:
    """Raise UsageError, which begins with what was `given`, if MLflow does not accept the name of a model."""
    if not re.fullmatch(r"[\w.-]{1,200}", name):
        raise UsageError(f"{given}: the name of a model has letters, digits, - _ and .")


def require_alias(alias: str, given: str) -> None:
    """Raise UsageError, which begins with what was `given`, if MLflow does not accept the alias."""
    if not re.fullmatch(r"[\w-]{1,200}", alias, re.ASCII) or re.fullmatch(r"(?i)latest|v\d+", alias):
        raise UsageError(f"{given}: an alias has letters, digits, - and _, and is not latest or v1")


@dataclass(frozen=True)
class RegisteredName:
    """A name in the registry, and an alias for the new version."""

    name: str
    alias: str | None

    @classmethod
    def parse(cls, text: str) -> "RegisteredName":
        """Read NAME or NAME@ALIAS.

        Raises:
            UsageError: MLflow does not accept the name or the alias.
        """
        name, at, alias = text.removeprefix("models:/").partition("@")
        require_name(name, f"--register={text}")
        if at:
            require_alias(alias, f"--register={text}")
        return cls(name, alias or None)

    def uri(self, number: object) -> str:
        """Return the address of version `number`: by the alias, if there is one."""
        return f"models:/{self.name}@{self.alias}" if self.alias else f"models:/{self.name}/{number}"


@dataclass(frozen=True)
class VersionContent:
    """What a version holds beside its model."""

    files: Mapping[str, Path]
    """Path in the logged folder -> file."""
    tags: Mapping[str, str]
    description: str
    """Markdown."""


def name_of_data(checkpoint: "Checkpoint") -> str:
    """Return the name of the data set of a checkpoint, as MLflow accepts it for a model."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", checkpoint.metadata.data_name or "")
    return name[:100].strip("-.") or "model"


def identity_tags(checkpoint: "Checkpoint", exported: Path | None) -> dict[str, str]:
    """Return the tags by which a version with the same files is found again."""
    exported_tag = {} if exported is None else {"onnx_sha256": file_sha256(exported)}
    digests = {"weights_digest": checkpoint.weights_digest, "data_digest": checkpoint.data_digest}
    return {**digests, **exported_tag}


def require_registry(purpose: str = "--register") -> None:
    """Check that MLflow's store accepts records, before minutes are spent on an export.

    Args:
        purpose: What it is needed for, at the beginning of the message.

    Raises:
        UserError: It does not.
    """
    uri = default_uri()
    with told_if_refused(purpose):
        if (problem := uri_problem(uri)) is not None:
            raise StoreError(f"its address cannot be used: {problem}")
        probe(uri)


@contextlib.contextmanager
def told_if_refused(purpose: str) -> Iterator[None]:
    """Raise a UserError of one line in place of whatever MLflow and the connection to it raise in the block."""
    try:
        yield
    except UserError:
        raise
    except StoreError as error:
        raise UserError(f"{purpose}: {error}") from None
    except Exception as error:  # MLflow raises its own, requests', SQLAlchemy's and OSError
        place = shown_uri(default_uri())
        raise UserError(f"{purpose}: MLflow at {place} refused the model: {reason_of(error)}") from error


def register(checkpoint: "Checkpoint", exported: Path | None, target: RegisteredName) -> str:
    """Log a model and register it in the store that `MLFLOW_TRACKING_URI` names, or the local one.

    Args:
        checkpoint: Any.
        exported: An ONNX file of it, which then computes; None: PyTorch does.
        target: Name and alias.

    Returns:
        The address of the new version, which begins with models:/.

    Raises:
        UserError: The store is unavailable or refuses the model.
    """
    uri = default_uri()
    with told_if_refused("--register"), locked(uri):
        client, experiment_id = open_registry(uri, checkpoint.config.tracking.experiment)
        content = VersionContent({}, identity_tags(checkpoint, exported), "")
        number = add_version(client, experiment_id, checkpoint, exported, target.name, content)
        if target.alias:
            client.set_registered_model_alias(target.name, target.alias, number)
    return target.uri(number)


def serving_line(address: str) -> str:
    """Return the line to type that serves the model at `address`."""
    uri = default_uri()
    store = uri if database_path(uri) is None else absolute_uri(uri)
    return f"MLFLOW_TRACKING_URI={shown_uri(store)} mlflow models serve -m {address} --env-manager local"


def open_registry(uri: str, experiment: str) -> "tuple[MlflowClient, str]":
    """Return a client, and the id of the experiment; where an existing one keeps its files is not changed."""
    client, path = connect(uri), database_path(uri)
    artifacts = None if path is None else artifacts_folder(path)
    if path is not None and artifacts is not None:
        mend_places(path, artifacts)
    return client, find_experiment(client, experiment, artifacts)


def add_version(
    client: "MlflowClient",
    experiment_id: str,
    checkpoint: "Checkpoint",
    exported: Path | None,
    name: str,
    content: VersionContent,
) -> str:
    """Log the model, for the run that made the checkpoint if the store knows it, and return its version number.

    Arguments as for `register`; `content` is in the version from its beginning.
    """
    from mlflow.exceptions import MlflowException

    run_id = _known_run(client, checkpoint)
    with tempfile.TemporaryDirectory(prefix="cifar10-") as scratch, using_store(client.tracking_uri):
        folder = Path(scratch) / "model"
        files = {BEST: checkpoint.path, **content.files}
        if exported is not None:
            files[f"export/{exported.name}"] = exported
        for place, file in files.items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(file, folder / place)
        packages = _TORCH_PACKAGES if exported is None else _ONNX_PACKAGES
        model_id = _logged(experiment_id, run_id, checkpoint, folder, re.sub(r"[/:.%\"']", "-", name), packages)
        with contextlib.suppress(MlflowException):  # it exists
            client.create_registered_model(name)
        added = client.create_model_version(
            name,
            f"models:/{model_id}",
            run_id,
            tags=dict(content.tags),
            description=content.description or None,
            model_id=model_id,
        )
    return str(added.version)


def _logged(
    experiment_id: str,
    run_id: str | None,
    checkpoint: "Checkpoint",
    folder: Path,
    name: str,
    packages: Sequence[str],
) -> str:
    """Log a folder as a model of MLflow, and return its id."""
    import mlflow
    from mlflow.models import Model

    mlflow.set_experiment(experiment_id=experiment_id)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*input example")
        logged = Model.log(
            artifact_path=None,
            name=name,
            flavor=mlflow.pyfunc,
            run_id=run_id,
            metadata=_metadata(checkpoint),
            loader_module=_LOADER,
            data_path=str(folder),
            code_paths=[str(_PACKAGE), str(CONF)],
            pip_requirements=_requirements(packages),
            signature=_signature(),
        )
    return str(logged.model_id)


def log_to_run(client: "MlflowClient", checkpoint: "Checkpoint", files: Sequence[Path]) -> None:
    """Send files to the artifacts of the run that made a checkpoint, if the store knows it."""
    run_id = _known_run(client, checkpoint)
    for file in files if run_id else ():
        client.log_artifact(run_id, str(file))


def _known_run(client: "MlflowClient", checkpoint: "Checkpoint") -> str | None:
    from mlflow.exceptions import MlflowException

    run_id = checkpoint.run_id or RunRecord(checkpoint.path.parent).run_id  # if MLflow was slow at the first step
    try:
        return None if run_id is None else str(client.get_run(run_id).info.run_id)
    except MlflowException:  # it was made with another store
        return None


def _metadata(checkpoint: "Checkpoint") -> dict[str, Any]:
    return {
        "weights_digest": checkpoint.weights_digest,
        "data_digest": checkpoint.data_digest,
        "class_names": list(checkpoint.class_names),
        "image_size": checkpoint.image_size,
    }


def _requirements(packages: Sequence[str]) -> list[str]:
    """Return the packages in the versions that are installed here."""
    pinned = []
    for package in packages:
        try:
            pinned.append(f"{package}=={version(package).partition('+')[0]}")  # +cpu is not on the index
        except PackageNotFoundError:
            pinned.append(package)
    return pinned


def _signature() -> Any:
    """Return the columns of the output. Inputs are not declared, because bytes and arrays are both accepted."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    columns: dict[str, DataType | Array] = {
        "class_name": DataType.string,
        "class_id": DataType.long,
        "probability": DataType.double,
        "probabilities": Array(DataType.double),
        "error": DataType.string,
    }
    return ModelSignature(outputs=Schema([ColSpec(kind, name, required=False) for name, kind in columns.items()]))

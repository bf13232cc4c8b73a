"""Load and validate checkpoint files.

A file has Lightning's format, with an additional entry `cifar10`: configuration, class names, data digest, git commit,
versions and the epochs so far, all plain values. It may come from a stranger, so no code in it is executed, and
everything is checked before use: the outline of the file, the metadata, and the shapes of the weights.
"""

import hashlib
import math
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from cifar10.config.build import build
from cifar10.config.schema import Config, TTAMode
from cifar10.config.targets import MODEL
from cifar10.config.validation import validate
from cifar10.errors import CheckpointError
from cifar10.images.preprocessing import Preprocessing
from cifar10.runs.checkpoint_metadata import FORMAT, Metadata, TrainingState
from cifar10.runs.checkpoint_outline import OutlinedTensor, read_outline, short_reason

_NETWORK_PREFIX = "network."


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained network, its configuration and its metadata."""

    path: Path
    config: Config
    metadata: Metadata
    weights: dict[str, Tensor]
    """The network's state_dict."""
    temperature: float = 1.0
    """What the logits of the trained network have been divided by, in the weights, as an export may do."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.metadata.class_names)

    @property
    def num_classes(self) -> int:
        return len(self.metadata.class_names)

    @property
    def image_size(self) -> int:
        """Height and width in pixels that the network was trained on."""
        return self.metadata.image_size

    @property
    def preprocessing(self) -> Preprocessing:
        """How images of any size become the network's input."""
        return Preprocessing(self.image_size, self.metadata.resize_size, self.metadata.interpolation)

    @property
    def data_digest(self) -> str:
        """SHA-256 of the data set it was trained and tested on."""
        return self.metadata.data_digest

    @property
    def precision(self) -> str:
        """Precision in training and testing: fp32, bf16 or fp16."""
        return self.metadata.precision

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run that made it, if it was tracked."""
        return self.metadata.run_id

    @property
    def tta(self) -> TTAMode:
        """Test-time augmentation for testing and inference."""
        return self.metadata.tta or self.config.evaluation.tta

    @property
    def history(self) -> list[dict[str, float]]:
        """One entry of metrics per finished epoch."""
        return [dict(epoch) for epoch in self.metadata.history]

    @cached_property
    def weights_digest(self) -> str:
        """SHA-256 over names, types, shapes and bytes of the weights."""
        return digest_of(self.weights)

    def network(self) -> nn.Module:
        """Build the network with its weights, in evaluation mode.

        Raises:
            CheckpointError: The weights do not fit the configuration.
        """
        network = _build_network(self.config, self.metadata)
        try:
            network.load_state_dict(self.weights)
        except RuntimeError as error:
            detail = str(error).splitlines()[-1].strip()
            raise CheckpointError(f"{self.path}: the weights do not fit {self.config.model.target}: {detail}") from None
        return network.eval()


def digest_of(weights: dict[str, Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of `weights`."""
    sha = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return everything in the file, with tensors on the CPU, to resume a training run.

    Raises:
        CheckpointError: It cannot be read, holds more than plain values and tensors, or is not of this program.
    """
    with _opened(path) as file:
        _checked_entries(file, path)
        return dict(_loaded(file, path))


def require_training_state(path: Path) -> None:
    """Refuse a checkpoint that lacks something that is needed to resume training exactly.

    Raises:
        CheckpointError: It lacks something, or cannot be read.
    """
    with _opened(path) as file:
        outline = read_outline(file, path)
    try:
        TrainingState.model_validate(outline)
    except ValidationError as error:
        raise CheckpointError(f"{path} cannot be resumed: {_about_entry(error)}") from None
    if (misfit := _misfit(outline)) is not None:
        raise CheckpointError(f"{path} cannot be resumed: the optimizer's {misfit} is of no size that a weight has")


def _misfit(outline: Any) -> str | None:
    """Return the name of a tensor in the optimizers' state that is as large as no weight, if there is one."""
    weights = outline["state_dict"].values() if isinstance(outline.get("state_dict"), dict) else ()
    sizes = {math.prod(weight.shape) for weight in weights if isinstance(weight, OutlinedTensor)} | {1}
    for optimizer in outline["optimizer_states"]:
        states = optimizer.get("state")
        for state in states.values() if isinstance(states, dict) else ():
            for name, value in state.items() if isinstance(state, dict) else ():
                if isinstance(value, OutlinedTensor) and math.prod(value.shape) not in sizes:
                    return str(name)
    return None


def load_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint in the file at `path`.

    Raises:
        CheckpointError: It cannot be read, is not a checkpoint of this program, or its weights are not those of the
            network that its configuration describes.
    """
    with _opened(path) as file:
        config, metadata, outlined = _checked_entries(file, path)
        _refuse_unfit(outlined, config, metadata, path)
        weights = _network_weights(_loaded(file, path)["state_dict"])
    return Checkpoint(path, config, metadata, weights)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open the file once, so that the checked file is the loaded one even if another replaces it meanwhile."""
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint at {path}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or short_reason(error)}") from None


def _loaded(file: BinaryIO, path: Path) -> Any:
    file.seek(0)
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()  # PyTorch does not compare checksums
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} differs")
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(f"{path} holds more than tensors and plain values; it was not loaded") from None
    except Exception as error:  # torch raises a dozen kinds for a damaged archive
        raise CheckpointError(f"{path} is damaged: {short_reason(error)}") from None


def _checked_entries(file: BinaryIO, path: Path) -> tuple[Config, Metadata, dict[str, OutlinedTensor]]:
    """Return configuration, metadata and the outline of the network's weights, without loading a tensor."""
    outline = read_outline(file, path)
    entry = outline.get("cifar10") if isinstance(outline, dict) else None
    if not isinstance(entry, dict) or not isinstance(outline.get("state_dict"), dict):
        raise CheckpointError(f"{path} was not made by this program: it lacks the entry 'cifar10'")
    if entry.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {entry.get('format')!r:.40}; this version reads format {FORMAT}")
    try:
        metadata = Metadata.model_validate({key: value for key, value in entry.items() if key != "config"})
        if not isinstance(entry.get("config"), dict):
            raise TypeError("is missing")
        config = validate(Config, entry["config"])
    except ValidationError as error:
        raise CheckpointError(f"{path}: {_about_entry(error)}") from None
    except (TypeError, ValueError, RecursionError) as error:  # json.dumps: a value that is no plain value
        raise CheckpointError(f"{path} is damaged: its configuration: {short_reason(error)}") from None
    return config, metadata, _network_weights(outline["state_dict"])


def _about_entry(error: ValidationError) -> str:
    """Return one line on the first problem in `error`."""
    first = error.errors(include_url=False, include_input=False)[0]
    key = ".".join(map(str, first["loc"]))
    where = {Config.__name__: "its configuration does not fit this version", Metadata.__name__: "its entry cifar10"}
    return f"{where.get(error.title, 'its entries')}: {key[:80]}: {first['msg'][:120]}"


def _network_weights(state_dict: dict[Any, Any]) -> dict[str, Any]:
    return {
        name.removeprefix(_NETWORK_PREFIX): tensor
        for name, tensor in state_dict.items()
        if isinstance(name, str) and name.startswith(_NETWORK_PREFIX)
    }


def _build_network(config: Config, metadata: Metadata) -> nn.Module:
    sizes = {"num_classes": len(metadata.class_names), "image_size": metadata.image_size}
    network: nn.Module = build(MODEL, config.model, **sizes)
    return network


def _refuse_unfit(outlined: Mapping[str, Any], config: Config, metadata: Metadata, path: Path) -> None:
    """Refuse weights that do not fit the network; building it for this takes no more memory than the file."""
    num_numbers = sum(math.prod(tensor.shape) for tensor in outlined.values() if isinstance(tensor, OutlinedTensor))
    limits = (2 * len(outlined) + 100, 2 * num_numbers)  # a layer may create a parameter and replace it
    try:
        try:
            with torch.device("meta"), _at_most_parameters(*limits):
                expected = _build_network(config, metadata).state_dict()
        except NotImplementedError:  # a network that reads values of parameters while it is built
            with _at_most_parameters(*limits):
                expected = _build_network(config, metadata).state_dict()
    except Exception as error:  # a setting, sizes that overflow, or too many parts
        raise CheckpointError(f"{path}: {config.model.target} cannot be built: {short_reason(error)}") from None
    for name in [*expected, *outlined]:
        there, wanted = _described(outlined.get(name)), _described(expected.get(name))
        if there != wanted:
            raise CheckpointError(
                f"{path}: the weights do not fit {config.model.target}: {name[:80]} is {there}, and should be {wanted}"
            )


def _described(tensor: Any) -> str:
    if isinstance(tensor, OutlinedTensor | Tensor):
        return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
    return "missing" if tensor is None else "no tensor"


@contextmanager
def _at_most_parameters(limit: int, most_numbers: float = math.inf) -> Iterator[None]:
    """Raise ValueError if more than `limit` parameters, or `most_numbers` elements in all of them, are created.

    A parameter is counted before it is initialised, when even a large one has not used memory yet.
    """
    num_made = num_numbers = 0

    def count(_module: object, _name: object, parameter: nn.Parameter | None) -> None:
        nonlocal num_made, num_numbers
        num_made += 1
        num_numbers += 0 if parameter is None else parameter.numel()
        if num_made > limit or num_numbers > most_numbers:
            raise ValueError("it has more parameters than the file")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()

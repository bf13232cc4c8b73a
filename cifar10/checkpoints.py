"""What a checkpoint file says.

A file is Lightning's own, plus one entry, `cifar10`: configuration, class names, data digest, git commit, versions and
the epochs so far, all plain values, so it loads with `weights_only=True` and nothing in it can run.
"""

import hashlib
import pickle
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from cifar10.build import build
from cifar10.config import Config
from cifar10.errors import CheckpointError
from cifar10.targets import MODEL

FORMAT = 1

_NETWORK_PREFIX = "network."
_EXPECTED = {
    "class_names": list,
    "image_size": int,
    "data_digest": str,
    "precision": str,
    "config": dict,
    "history": list,
}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained network and all that is known of it."""

    path: Path
    config: Config
    identity: dict[str, Any]
    """The `cifar10` entry, without the configuration."""
    weights: dict[str, Tensor]
    """The network's state_dict."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.identity["class_names"])

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Height and width in pixels that the network was trained on."""
        return int(self.identity["image_size"])

    @property
    def data_digest(self) -> str:
        """SHA-256 of the data set it was trained and tested on."""
        return str(self.identity["data_digest"])

    @property
    def precision(self) -> str:
        """What it was trained and tested in: fp32, bf16 or fp16."""
        return str(self.identity["precision"])

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run that made it, if it was tracked."""
        run_id = self.identity.get("run_id")
        return None if run_id is None else str(run_id)

    @property
    def history(self) -> list[dict[str, float]]:
        """One entry of scores per finished epoch."""
        return list(self.identity["history"])

    @cached_property
    def weights_digest(self) -> str:
        """SHA-256 over names, types, shapes and bytes of the weights: equal if and only if they are."""
        return digest_of(self.weights)

    def network(self) -> nn.Module:
        """Build the network with its weights, in evaluation mode.

        Raises:
            CheckpointError: The weights do not fit the configuration.
        """
        network: nn.Module = build(MODEL, self.config.model, num_classes=self.num_classes, image_size=self.image_size)
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
    """Return everything in the file, its tensors on the CPU.

    Raises:
        CheckpointError: It cannot be read, holds more than plain values and tensors, or is not one of ours.
    """
    _refuse_bad_archive(path)
    try:
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(f"{path} holds more than tensors and plain values; it was not loaded") from None
    except Exception as error:  # torch raises a dozen kinds for a damaged archive
        raise CheckpointError(f"{path} is damaged: {_first_line(error)}") from None
    _refuse_foreign(path, raw)
    return dict(raw)


def load_checkpoint(path: Path) -> Checkpoint:
    """Return what the file at `path` says.

    Raises:
        CheckpointError: It cannot be read, or is not a checkpoint of this program.
    """
    raw = read_checkpoint(path)
    identity = dict(raw["cifar10"])
    try:
        config = Config.model_validate(identity.pop("config"))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{path}: its configuration does not fit this version: {key}: {first['msg']}") from None
    weights = {
        name.removeprefix(_NETWORK_PREFIX): tensor
        for name, tensor in raw["state_dict"].items()
        if name.startswith(_NETWORK_PREFIX)
    }
    return Checkpoint(path, config, identity, weights)


def _refuse_bad_archive(path: Path) -> None:
    """Look at the archive's directory before anything is unpacked: PyTorch stores, it never compresses."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint at {path}") from None
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise CheckpointError(f"{path} is not a checkpoint, or was cut off: {_first_line(error)}") from None
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(f"{path} is compressed inside, as no checkpoint of PyTorch is; it was not loaded")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise CheckpointError(f"{path} claims to hold more than its own size; it was not loaded")


def _refuse_foreign(path: Path, raw: Any) -> None:
    identity = raw.get("cifar10") if isinstance(raw, dict) else None
    if not isinstance(identity, dict) or not isinstance(raw.get("state_dict"), dict):
        raise CheckpointError(f"{path} was not made by this program: it lacks the entry 'cifar10'")
    if identity.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {identity.get('format')}; this version reads format {FORMAT}")
    for key, kind in _EXPECTED.items():
        if not isinstance(identity.get(key), kind):
            raise CheckpointError(f"{path} is damaged: its entry cifar10.{key} is missing or not a {kind.__name__}")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__

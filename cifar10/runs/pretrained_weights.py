"""Load published weights into a pretrained network: from a file, from PyTorch's cache, or downloaded into it."""

import errno
import os
import pickle
import sys
from pathlib import Path
from urllib.parse import urlsplit

import torch
from filelock import FileLock
from torch import Tensor, nn

from cifar10.config.advice import setting
from cifar10.data.download import Patience, SourceFailed, download_verified, remote_size
from cifar10.errors import UsageError, UserError, first_line
from cifar10.files import file_sha256
from cifar10.networks.pretrained_network import NO_WEIGHTS, PretrainedNetwork, PublishedWeights
from cifar10.suggest import did_you_mean_path

PATIENT = Patience()


def load_pretrained_weights(network: nn.Module, patience: Patience = PATIENT) -> Path | None:
    """Load the published weights of `network`, if it has any, and return their file.

    Raises:
        UsageError: The file `model.weights` does not exist.
        UserError: The weights cannot be downloaded or read, or are of another network.
    """
    if not isinstance(network, PretrainedNetwork) or network.weights == NO_WEIGHTS:
        return None
    path = weights_file(network.published, network.weights, patience)
    try:
        network.load_published(read_state_dict(path))
    except ValueError as error:
        raise UserError(f"the weights {path} cannot be used: {first_line(error)}") from None
    return path


def weights_file(published: PublishedWeights, weights: str | None, patience: Patience = PATIENT) -> Path:
    """Return a file that holds the weights: `weights` if given, else that in PyTorch's cache, downloaded if need be."""
    if weights is not None:
        path = Path(weights)
        if not path.is_file():
            raise UsageError(f"model.weights: there is no file {path}{did_you_mean_path(weights)}")
        if path.name == published.file_name:
            _require_published(path, published)
        return path
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / published.file_name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            with FileLock(folder / f".{path.name}.lock"):
                if not path.is_file():  # another process may have fetched it meanwhile
                    _fetch(published, path, patience)
                    return path
    except OSError as error:
        full = ": the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else f": {error.strerror or error}"
        raise UserError(f"{folder} cannot be written{full}; name another folder: TORCH_HOME=DIR") from error
    _require_published(path, published)
    return path


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file in PyTorch's or the safetensors format; no code in it is executed.

    Raises:
        UserError: It is damaged, or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{path} holds more than tensors and plain values; it was not loaded") from None
    except Exception as error:  # torch and safetensors raise a dozen kinds for a damaged file
        reason = first_line(error) if isinstance(error, OSError | RuntimeError) else "it is damaged, or another file"
        raise UserError(f"{path} cannot be read as weights: {reason}") from None
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise UserError(f"{path} is not a plain state_dict: it must map names to tensors")
    return content


def _fetch(published: PublishedWeights, path: Path, patience: Patience) -> None:
    part = path.with_name(f"{path.name}.part")
    host = urlsplit(published.url).netloc
    try:
        size = remote_size(published.url, patience)
        download_verified(published.url, part, size, published.sha256, patience, is_last=True)
    except SourceFailed as failure:
        raise UserError(
            f"the weights of {published.name} are not in {path.parent}, and {published.url}: {failure}\n"
            f"Put {path.name} there, or name a copy of it: {setting('model.weights', f'/path/to/{path.name}')}"
        ) from failure
    os.replace(part, path)
    verified = f", SHA-256 {published.sha256} as published" if published.sha256 else ""
    print(f"{path.name}: {size / 1e6:.0f} MB from {host}{verified}", file=sys.stderr, flush=True)


def _require_published(path: Path, published: PublishedWeights) -> None:
    if not (found := file_sha256(path)).startswith(published.sha256):
        raise UserError(
            f"{path} is not the published file: its SHA-256 is {found[:12]}..., not {published.sha256}...; remove it"
        )

"""Embeddings: what a network passes to its head, computed once for each picture and kept in files::

    CACHE/embeddings-0123456789abcdef/*.npz    digests (M, 16) and embeddings (M, E) of M images each

A folder is named after everything beside the pixels that embeddings depend on: weights without the head, the
architecture, the image size and the precision. In it, an image is found by a hash of its pixels.

Shapes: N images of S x S pixels, E numbers in an embedding, K classes.
"""

import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from cifar10.config.schema import Component
from cifar10.data.duplicates import pixel_digests
from cifar10.data.stored_images import Images
from cifar10.devices import prepare_network
from cifar10.errors import UserError
from cifar10.files import atomic_write, read_file
from cifar10.inference.engines.pytorch import usable_precision
from cifar10.networks.heads import embed, head_parameters
from cifar10.runs.checkpoints import Checkpoint, digest_of
from cifar10.system.array_files import DAMAGED_ARRAYS

_IN_A_FILE = 2048  # embeddings; an interruption loses those of less than one file
_LARGEST_FILE = 2**30  # bytes; those of 2,048 embeddings of 8,192 numbers are 64 MiB
_MOST_PIXELS = 2**22  # in a forward pass
_MOST_IMAGES = 256  # likewise; 4,096 of 32 x 32 pixels took more than 12 GB
_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, eq=False)
class Embedder:
    """A network without its head.

    Args:
        network: uint8 (B, 3, S, S) -> logits (B, K), in evaluation mode on `device`.
        num_classes: K.
        model: The section `model` of its configuration.
        image_size: S.
        device: Where to compute.
        precision: fp32, bf16 or fp16.
        batch_size: Images per forward pass.
        cache: Folder of the embeddings; None: they are not kept.
    """

    network: nn.Module
    num_classes: int
    model: Component
    image_size: int
    device: torch.device
    precision: str
    batch_size: int
    cache: Path | None

    def embeddings(self, images: Images, name: str) -> NDArray[np.float32]:
        """Return the embedding of each image, (N, E); compute those that are not in the cache.

        Args:
            images: uint8 (N, 3, S, S).
            name: Of the images, for the progress bar.

        Raises:
            UserError: The cache cannot be written, or an embedding is not finite.
        """
        digests = pixel_digests(images)
        folder = None if self.cache is None else self.cache / f"embeddings-{self._key()}"
        known = {} if folder is None else dict(_read(folder))
        position_of = {digest: place for place, digest in enumerate(digests) if digest not in known}
        missing = list(position_of.items())
        with tqdm(total=len(missing), desc=f"embedding {name}", unit=" images", disable=None, leave=False) as bar:
            for start in range(0, len(missing), _IN_A_FILE):
                part = missing[start : start + _IN_A_FILE]
                computed = self._compute(images, [place for _, place in part], bar)
                if not np.isfinite(computed).all():
                    raise UserError(f"the network gives no numbers for {name}: it has diverged, or is damaged")
                known |= {digest: row for (digest, _), row in zip(part, computed, strict=True)}
                if folder is not None:
                    _write(folder, [digest for digest, _ in part], computed)
        return np.stack([known[digest] for digest in digests])

    def _key(self) -> str:
        head = set(head_parameters(self.network, self.num_classes))
        body = {name: tensor for name, tensor in self.network.state_dict().items() if name not in head}
        facts = [digest_of(body), json.dumps(self.model.model_dump()), self.image_size, self.precision]
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def _compute(self, images: Images, positions: list[int], bar: "tqdm[Any]") -> NDArray[np.float32]:
        half = _HALVES.get(self.precision)
        rows: list[NDArray[np.float32]] = []
        for start in range(0, len(positions), self.batch_size):
            batch = images[torch.tensor(positions[start : start + self.batch_size])].to(self.device)
            with torch.autocast(self.device.type, dtype=half) if half else nullcontext():
                rows.append(embed(self.network, batch, self.num_classes).float().cpu().numpy())
            bar.update(len(batch))
        return np.concatenate(rows)


def embedder_of(checkpoint: Checkpoint, device: torch.device, cache: Path | None) -> Embedder:
    """Return the embedder with the checkpoint's network."""
    training, size = checkpoint.config.training, checkpoint.image_size
    network = prepare_network(checkpoint.network().to(device), training.channels_last, training.kernels)
    return Embedder(
        network=network,
        num_classes=checkpoint.num_classes,
        model=checkpoint.config.model,
        image_size=size,
        device=device,
        precision=usable_precision(checkpoint, device),
        batch_size=max(1, min(_MOST_IMAGES, _MOST_PIXELS // size**2)),
        cache=cache,
    )


def _read(folder: Path) -> Iterator[tuple[bytes, NDArray[np.float32]]]:
    """Yield digest and embedding of each image in the files of `folder`; damaged files are passed over."""
    for file in sorted(folder.glob("*.npz")):
        try:
            with np.load(io.BytesIO(read_file(file, _LARGEST_FILE)), allow_pickle=False) as arrays:
                digests, embeddings = arrays["digests"], arrays["embeddings"]
        except DAMAGED_ARRAYS:
            continue
        if len(digests) == len(embeddings) and embeddings.dtype == np.float32 and np.isfinite(embeddings).all():
            yield from zip((digest.tobytes() for digest in digests), embeddings, strict=True)


def _write(folder: Path, digests: list[bytes], embeddings: NDArray[np.float32]) -> None:
    """Write a file whose name depends on its content: several processes may write at the same time."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(b"".join(digests)).hexdigest()[:16]
        with atomic_write(folder / f"{name}.npz") as file:
            rows = np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1)
            np.savez(file, digests=rows, embeddings=embeddings)
    except OSError as error:
        raise UserError(f"embeddings cannot be kept in {folder}: {error.strerror or error}") from error

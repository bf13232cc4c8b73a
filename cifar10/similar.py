"""Entry point of `similar`: a photo and a folder -> embeddings -> the nearest images of the folder, as rows.

Nearness is the cosine of the angle between two embeddings: 1 for copies.
"""

import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cifar10.analysis.embeddings import embedder_of
from cifar10.config.schema import Component
from cifar10.data.class_names import printable
from cifar10.devices import choose_device, limit_threads
from cifar10.errors import UserError
from cifar10.images.decode import ImageError, silence_pillow
from cifar10.images.named_image import ImageSource
from cifar10.images.parallel import decode_images
from cifar10.inference.destination import Destination, open_destination
from cifar10.inference.image_inputs import square_pixels
from cifar10.inference.pretrained import pretrained_checkpoint
from cifar10.runs.checkpoint_names import resolve_checkpoint
from cifar10.runs.checkpoints import Checkpoint, load_checkpoint
from cifar10.wording import counted

_AT_ONCE = 256  # images in memory


@dataclass(frozen=True)
class SimilarImage:
    """An image of the folder, and the cosine similarity of its embedding to that of the photo, in [-1, 1]."""

    path: str
    similarity: float


def similar(
    photo: str,
    images: ImageSource,
    destination: Destination,
    checkpoint: Path | str | None = None,
    pretrained: Component | None = None,
    top_k: int = 10,
    device: str = "auto",
    cache: str | None = "data/cache",
) -> int:
    """Write the `top_k` images of the folder that are most similar to the photo; return how many cannot be read.

    Args:
        photo: An image file.
        images: Where to look.
        destination: Where the rows go.
        checkpoint: The network; None if `pretrained` names it.
        pretrained: The section `model` of a network with published weights.
        top_k: Number of images.
        device: auto, cpu, cuda or cuda:N.
        cache: Folder of the embeddings; None: they are not kept.

    Raises:
        ImageError: The photo cannot be read.
        UserError: There is no image in the folder, or the network or device is not there.
    """
    silence_pillow()
    limit_threads()
    chosen = choose_device(device)
    loaded = _loaded(checkpoint, pretrained)
    embedder, size = embedder_of(loaded, chosen, None if cache is None else Path(cache)), loaded.preprocessing
    query = _unit(embedder.embeddings(_stacked([square_pixels(photo, size)]), "the photo"))[0]  # (E,)
    paths: list[str] = []
    similarities: list[NDArray[np.float32]] = []
    failed: list[tuple[str, ImageError]] = []
    decoded = decode_images(images, size, look_ahead=_AT_ONCE)
    while part := list(islice(decoded, _AT_ONCE)):
        readable = [(image.source.name, image.pixels) for image in part if not isinstance(image.pixels, ImageError)]
        failed += [(image.source.name, image.pixels) for image in part if isinstance(image.pixels, ImageError)]
        if readable:
            found = embedder.embeddings(_stacked([pixels for _, pixels in readable]), "images")
            paths += [name for name, _ in readable]
            similarities.append(_unit(found) @ query)
    if not paths:
        raise UserError(f"{images.given}: none of the images ({len(failed):,}) can be read")
    order = np.argsort(-np.concatenate(similarities), kind="stable")[:top_k]
    rows = [SimilarImage(paths[place], float(np.concatenate(similarities)[place])) for place in order.tolist()]
    _write(rows, destination)
    for path, error in failed[:3]:
        print(f"not read: {printable(path)}: {error}", file=sys.stderr)
    print(f"{counted(len(paths), 'image')} compared with {photo}, {len(failed):,} could not be read", file=sys.stderr)
    return len(failed)


def _loaded(checkpoint: Path | str | None, pretrained: Component | None) -> Checkpoint:
    if pretrained is not None:
        return pretrained_checkpoint(pretrained)
    assert checkpoint is not None
    return load_checkpoint(checkpoint if isinstance(checkpoint, Path) else resolve_checkpoint(checkpoint))


def _stacked(pixels: Sequence[NDArray[np.uint8]]) -> torch.Tensor:  # (S, S, 3) each -> (B, 3, S, S)
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()


def _unit(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:  # (N, E)
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit: NDArray[np.float32] = embeddings / np.maximum(lengths, 1e-12)
    return unit


def _write(rows: Sequence[SimilarImage], destination: Destination) -> None:
    text = "".join(f"{line}\n" for line in _lines(rows, destination.format))
    if destination.path is None:
        print(text, end="", flush=True)
        return
    with open_destination(destination) as file:
        file.write(text.encode(errors="backslashreplace"))


def _lines(rows: Sequence[SimilarImage], format_name: str) -> Iterator[str]:
    if format_name == "jsonl":
        yield from (json.dumps({"path": _utf8(row.path), "similarity": round(row.similarity, 6)}) for row in rows)
    elif format_name == "csv":
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerows([["path", "similarity"], *([_utf8(row.path), f"{row.similarity:.6f}"] for row in rows)])
        yield from table.getvalue().splitlines()
    else:
        yield "similarity  path"
        yield from (f"{row.similarity:10.4f}  {printable(row.path)}" for row in rows)


def _utf8(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

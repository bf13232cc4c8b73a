"""Entry point of `export`: checkpoint -> files for other programs, each compared with it on the whole test split."""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cifar10.config.build import build
from cifar10.config.conf_folder import content_of
from cifar10.config.schema import Component
from cifar10.config.targets import EXPORT
from cifar10.errors import CheckpointError, UserError
from cifar10.files import sync_folder
from cifar10.formats import ExportFormat
from cifar10.formats.parity import Parity, compare
from cifar10.inference.engines.pytorch import TorchEngine
from cifar10.runs.checkpoint_names import resolve_checkpoint
from cifar10.runs.checkpoints import Checkpoint, load_checkpoint
from cifar10.runs.trained_data import load_trained_data, moved_line, relocated
from cifar10.system.memory import keep_memory_warm


def export(
    checkpoint_name: str, formats: Sequence[str], output: str | None = None, overrides: Sequence[str] = ()
) -> list[Path]:
    """Write the network of a checkpoint in other formats, and return the files.

    A file gets its name when everything that it computes for the test images is what the checkpoint computes.

    Args:
        checkpoint_name: Anything `resolve_checkpoint` knows.
        formats: Names of files in `conf/export/`.
        output: The folder of the files; None: `export` beside the checkpoint.
        overrides: Where the data are today, as for `load_trained_data`.

    Raises:
        CheckpointError: A file computes something else.
        UserError: The checkpoint, its data, a package or the folder is not as needed.
    """
    writers: dict[str, ExportFormat] = {
        name: build(EXPORT, Component.model_validate(content_of("export", name))) for name in formats
    }
    checkpoint = load_checkpoint(resolve_checkpoint(checkpoint_name))
    folder = Path(output) if output else checkpoint.path.parent / "export"
    _make_folder(folder)
    keep_memory_warm()
    data = load_trained_data(checkpoint, relocated(checkpoint.config, overrides), moved_line("export", checkpoint_name))
    images = np.ascontiguousarray(data.test.images.permute(0, 2, 3, 1).numpy())
    batch_size = checkpoint.config.evaluation.images_at_once(checkpoint.image_size)
    reference = _probabilities(checkpoint, images, batch_size)
    refused = []
    for name, writer in writers.items():
        found = _export(writer, checkpoint, folder, images, reference, batch_size)
        verdict = _verdict(found)
        if found.is_equal:
            size = (folder / writer.file_name).stat().st_size / 1e6
            print(f"{name:<12} {folder / writer.file_name}, {size:.1f} MB; {verdict}", flush=True)
        else:
            refused.append(f"{name}: {verdict}; {folder / writer.file_name} was not written")
    if refused:
        raise CheckpointError("\n".join(refused))
    return [folder / writer.file_name for writer in writers.values()]


def _export(
    writer: ExportFormat,
    checkpoint: Checkpoint,
    folder: Path,
    images: NDArray[np.uint8],
    reference: NDArray[np.float32],
    batch_size: int,
) -> Parity:
    """Write one file; give it its name if it computes what the checkpoint computes."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
        path = Path(scratch) / writer.file_name
        writer.write(checkpoint, path)
        found = compare(reference, writer.read(path, checkpoint), images, batch_size)
        if found.is_equal:
            with path.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(path, folder / writer.file_name)
            sync_folder(folder)
    return found


def _probabilities(checkpoint: Checkpoint, images: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
    """Return what the network computes in float32, without our kernels, (N, K)."""
    engine = TorchEngine(checkpoint.network(), torch.device("cpu"))
    print(f"computing {len(images):,} test images with {checkpoint.path}", file=sys.stderr, flush=True)
    parts = [engine.probabilities(images[start : start + batch_size]) for start in range(0, len(images), batch_size)]
    return np.concatenate(parts)


def _verdict(found: Parity) -> str:
    flips = "no answer differs" if not found.num_flipped else f"{found.num_flipped:,} answers differ"
    return f"{found.num_images:,} test images: {flips}, probabilities by at most {found.largest_difference:.1e}"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output: {folder} cannot be made: {error.strerror or error}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"--output: {folder} cannot be written; name another folder")

"""Entry point of `export`: checkpoint -> files for other programs, each compared with it on the whole test split."""

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cifar10.config.build import build, read_component
from cifar10.config.schema import Component
from cifar10.config.targets import EXPORT
from cifar10.config.temperature import Temperature
from cifar10.data.image_dataset import Split
from cifar10.errors import CheckpointError, UsageError
from cifar10.files import make_output_folder, sync_folder, told_if_not_written
from cifar10.formats import ExportFormat, Source
from cifar10.formats.parity import all_probabilities, compare
from cifar10.formats.temperature import tempered
from cifar10.images.decode import ImageError
from cifar10.images.named_image import ImageSource
from cifar10.images.parallel import decode_images
from cifar10.inference.engines.pytorch import TorchEngine
from cifar10.inference.finite import require_numbers
from cifar10.inference.pretrained import pretrained_checkpoint
from cifar10.runs.checkpoint_names import resolve_checkpoint
from cifar10.runs.checkpoints import Checkpoint, load_checkpoint
from cifar10.runs.registry import RegisteredName, register, require_registry, serving_line
from cifar10.runs.trained_data import load_trained_data, moved_line, relocated
from cifar10.system.memory import keep_memory_warm

_MOST_CALIBRATION = 2000
_NUM_RANDOM = 16
_MOST_DESCRIBED, _MOST_DESCRIBED_BYTES = 5000, 2**28
"""Training images that the reference of an ONNX file is made from, and bytes of their pixels."""


def export(
    checkpoint_name: str,
    formats: Sequence[str],
    output: str | None = None,
    overrides: Sequence[str] = (),
    registered: RegisteredName | None = None,
    leave_out_impossible: bool = False,
    temperature: Temperature | None = None,
) -> list[Path]:
    """Write the network of a checkpoint in other formats, and return the files.

    A file gets its name when everything that it computes for the test images is what the checkpoint computes.

    Args:
        checkpoint_name: Anything `resolve_checkpoint` knows.
        formats: Names of files in `conf/export/`.
        output: The folder of the files; None: `export` beside the checkpoint.
        overrides: Where the data are today, as for `load_trained_data`.
        registered: Also register the checkpoint under this name, with its first ONNX file, as a model of MLflow.
        leave_out_impossible: Leave out formats that this network or CPU cannot have, with a message.
        temperature: To divide the logits by, in the files.

    Raises:
        UsageError: This network or CPU cannot have a format, or the temperature is of another network.
        CheckpointError: A file computes something else.
        UserError: The checkpoint, its data, a package, the folder or MLflow's store is not as needed.
    """
    if registered is not None:
        require_registry()
    writers: dict[str, ExportFormat] = {name: build(EXPORT, read_component("export", name)) for name in formats}
    checkpoint = load_checkpoint(resolve_checkpoint(checkpoint_name))
    if temperature is not None:
        checkpoint = _with_temperature(checkpoint, temperature)
    writers = _possible(writers, checkpoint, leave_out_impossible)
    folder = Path(output) if output else checkpoint.path.parent / "export"
    make_output_folder(folder)
    keep_memory_warm()
    data = load_trained_data(checkpoint, relocated(checkpoint.config, overrides), moved_line("export", checkpoint_name))
    images, labels = data.test.arrays()
    source = Source(
        checkpoint,
        calibration=data.train.arrays(_MOST_CALIBRATION)[0],
        held_out=data.validation.arrays()[0],
        training=_spread(data.train),
    )
    files = _write_all(writers, source, folder, images, labels)
    if registered is not None:
        _register(checkpoint, files, registered)
    return files


def _spread(split: Split) -> NDArray[np.uint8]:  # (N, S, S, 3)
    """Return images from all over `split`, which may be sorted by class; those in a file are not all read."""
    num_bytes = 3 * split.images.shape[-1] ** 2
    most = max(1, min(_MOST_DESCRIBED, _MOST_DESCRIBED_BYTES // num_bytes))
    images = split.images[:: -(-len(split) // most)]
    return np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())


def _with_temperature(checkpoint: Checkpoint, temperature: Temperature) -> Checkpoint:
    if temperature.weights_digest not in (None, checkpoint.weights_digest):
        raise UsageError(
            f"--temperature was fitted for other weights ({str(temperature.weights_digest)[:12]}) than those of "
            f"{checkpoint.path} ({checkpoint.weights_digest[:12]}); evaluate this checkpoint"
        )
    on = f", fitted on {temperature.fitted_on} images" if temperature.fitted_on else ""
    print(f"logits are divided by {temperature.value:.6g}{on}", file=sys.stderr)
    return tempered(checkpoint, temperature.value)


def export_pretrained(
    component: Component, formats: Sequence[str], output: str, photos: ImageSource | None = None
) -> list[Path]:
    """Write a pretrained network in other formats, and return the files; see `export` for the other arguments.

    There is no test split, so each file is compared with the network on `photos`, or without any on random pixels.

    Args:
        component: The section `model` of a configuration, as with `model=resnet152_imagenet`.
        photos: Images of any kind.
    """
    writers: dict[str, ExportFormat] = {name: build(EXPORT, read_component("export", name)) for name in formats}
    make_output_folder(Path(output))
    keep_memory_warm()
    checkpoint = pretrained_checkpoint(component)
    size = checkpoint.image_size
    images = np.random.default_rng(0).integers(0, 256, (_NUM_RANDOM, size, size, 3), np.uint8)
    if photos is not None:
        decoded = (image.pixels for image in decode_images(photos, checkpoint.preprocessing, look_ahead=_NUM_RANDOM))
        images = np.stack([pixels for pixels in decoded if not isinstance(pixels, ImageError)] or [*images])
    compared = "random pixels" if photos is None else "the photos"
    print(f"each file is compared with the network on {compared}, as there is no test split", file=sys.stderr)
    source = Source(checkpoint, images[:0], images[:0])
    classes = _probabilities(checkpoint, images, _NUM_RANDOM).argmax(1)
    return _write_all(writers, source, Path(output), images, classes)


def _write_all(
    writers: Mapping[str, ExportFormat],
    source: Source,
    folder: Path,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
) -> list[Path]:
    """Write each format and compare it with the checkpoint on `images`, (N, S, S, 3), with `labels`, (N,)."""
    checkpoint = source.checkpoint
    batch_size = checkpoint.config.evaluation.images_at_once(checkpoint.image_size)
    reference = _probabilities(checkpoint, images, batch_size)
    refused = []
    for name, writer in writers.items():
        path = folder / writer.file_name
        with told_if_not_written(path), tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
            new = Path(scratch) / writer.file_name
            writer.write(source, new)
            engine = writer.read(new, source)
            found = compare(reference, engine, images, labels, batch_size)
            reason = writer.refusal(found, engine, source)
            if reason is None:
                _move(new, path)
                print(f"{name:<12} {path}, {path.stat().st_size / 1e6:.1f} MB; {found.describe()}", flush=True)
            else:
                refused.append(f"{name}: {path} was not written, since {reason}; {found.describe()}")
    if refused:
        raise CheckpointError("\n".join(refused))
    return [folder / writer.file_name for writer in writers.values()]


def _possible(
    writers: Mapping[str, ExportFormat], checkpoint: Checkpoint, leave_out_impossible: bool
) -> dict[str, ExportFormat]:
    """Return the formats that this network can have on this CPU."""
    possible = {}
    for name, writer in writers.items():
        obstacle = writer.obstacle(checkpoint)
        if obstacle is None:
            possible[name] = writer
        elif leave_out_impossible:
            print(f"{name} is left out: {obstacle}", file=sys.stderr, flush=True)
        else:
            raise UsageError(f"--formats={name} is not possible: {obstacle}; choose other formats, or all")
    return possible


def _register(checkpoint: Checkpoint, files: Sequence[Path], name: RegisteredName) -> None:
    exported = next((file for file in files if file.suffix == ".onnx"), None)
    address = register(checkpoint, exported, name)
    computes = f"{exported.name} computes" if exported else "PyTorch computes"
    print(f"{'registered':<12} {address}; {computes}, weights {checkpoint.weights_digest[:12]}", flush=True)
    print(f"to serve it: {serving_line(address)}", file=sys.stderr, flush=True)


def _move(file: Path, path: Path) -> None:
    with file.open("rb") as content:
        os.fsync(content.fileno())
    os.replace(file, path)
    sync_folder(path.parent)


def _probabilities(checkpoint: Checkpoint, images: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
    """Return what the network computes in float32, without our kernels, (N, K), if they are numbers."""
    engine = TorchEngine(checkpoint.network(), torch.device("cpu"))
    print(f"computing {len(images):,} images with {checkpoint.path}", file=sys.stderr, flush=True)
    probabilities = all_probabilities(engine, images, batch_size)
    require_numbers(probabilities, checkpoint.path)
    return probabilities

"""The comparison of an exported ONNX file with its checkpoint: from an earlier promotion, or measured now."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cifar10.data.image_dataset import ImageDataset
from cifar10.files import file_sha256
from cifar10.formats.parity import Parity, compare_with_checkpoint
from cifar10.inference.engines import load_model
from cifar10.runs.checkpoints import Checkpoint
from cifar10.runs.measured_files import MeasuredFiles
from cifar10.runs.provenance import processor
from cifar10.system.streams import print_message


def known_or_measured(file: Path, checkpoint: Checkpoint, data: ImageDataset) -> tuple[Parity, dict[str, Any]]:
    """Return how far a file is from its checkpoint on the test images, and what identifies the file.

    An earlier result is used if the bytes of the file, the weights, the data, ONNX Runtime and the processor are the
    same.

    Args:
        file: An ONNX file.
        checkpoint: That it was exported from.
        data: With test images.

    Raises:
        CheckpointError: The file is damaged, or the network gives NaN or infinity.
    """
    engine = load_model("onnx", file, "cpu").engine
    facts = {
        "file": file.name,
        "sha256": file_sha256(file),
        "bytes": file.stat().st_size,
        "engine": engine.describe()["engine"],
    }
    known = MeasuredFiles.of(checkpoint).promotion
    if known is not None and _is_about(known, facts, data.digest):
        print_message(f"{file} was compared with the checkpoint on {known['made']}, and has not changed")
        return Parity(**known["parity"]), facts
    return compare_with_checkpoint(checkpoint, engine, *data.test.arrays()), facts


def _is_about(known: Mapping[str, Any], facts: Mapping[str, Any], data_digest: str) -> bool:
    is_same_machine = known["machine"].get("cpu") == processor()["cpu"]
    return known["export"] == facts and known.get("data_digest") == data_digest and is_same_machine

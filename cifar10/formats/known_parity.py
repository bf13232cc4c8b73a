"""The comparison of an exported ONNX file with its checkpoint: from an earlier promotion, or measured now."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

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
    parity = None if known is None else _known_parity(known, facts, data.digest)
    if known is not None and parity is not None:
        print_message(f"{file} was compared with the checkpoint on {known['made']}, and has not changed")
        return parity, facts
    return compare_with_checkpoint(checkpoint, engine, *data.test.arrays()), facts


def _known_parity(known: Mapping[str, Any], facts: Mapping[str, Any], data_digest: str) -> Parity | None:
    """Return the parity in a promotion; None: it is about something else, or damaged."""
    try:
        is_same_machine = known["machine"].get("cpu") == processor()["cpu"]
        is_same = known["export"] == facts and known.get("data_digest") == data_digest
        return TypeAdapter(Parity).validate_python(known["parity"]) if is_same and is_same_machine else None
    except (ValueError, TypeError, AttributeError):
        return None

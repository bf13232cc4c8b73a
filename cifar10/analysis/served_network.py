"""A network as MLflow serves it, with the test images that it is compared with another one on.

Shapes: N images of S x S pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cifar10.data.class_names import few, printable
from cifar10.data.image_dataset import ImageDataset
from cifar10.data.split_digest import SplitContent
from cifar10.errors import CheckpointError, UserError, first_line
from cifar10.inference.finite import require_numbers
from cifar10.inference.predictor import Predictor
from cifar10.runs.checkpoint_names import resolve_checkpoint
from cifar10.runs.checkpoints import Checkpoint, load_checkpoint
from cifar10.runs.registry import RegisteredName
from cifar10.runs.trained_data import load_trained_data, relocated
from cifar10.system.progress import Progress
from cifar10.system.streams import print_message


@dataclass(frozen=True, eq=False)
class ServedNetwork:
    """The files of a network, of which MLflow serves the exported one if there is one."""

    name: str
    """For people."""
    checkpoint: Checkpoint
    exported: Path | None
    """An ONNX file."""

    @classmethod
    def with_alias(cls, target: RegisteredName, number: str) -> "ServedNetwork":
        """Return version `number`, which has the alias of `target`, in a folder that is removed at exit.

        Raises:
            UserError: It cannot be read.
        """
        print_message(f"fetching version {number} of {target.name}, which is {target.alias}")
        try:
            file = resolve_checkpoint(f"models:/{target.name}/{number}")
            checkpoint = load_checkpoint(file)
        except CheckpointError as error:
            was = f"version {number} of {target.name}, which is {target.alias}, cannot be read"
            raise UserError(f"{was}: {error}; delete this alias in MLflow, or choose another: --alias=NAME") from None
        exported = sorted((file.parent / "export").glob("*.onnx"))
        return cls(f"version {number}", checkpoint, exported[0] if exported else None)

    def serves(self, checkpoint: Checkpoint) -> bool:
        """Return whether it computes with an exported file of the same weights."""
        return self.exported is not None and self.checkpoint.weights_digest == checkpoint.weights_digest

    @cached_property
    def predictor(self) -> Predictor:
        """What computes, with the test-time augmentation of the checkpoint."""
        return Predictor.from_checkpoint(self.exported or self.checkpoint.path)

    def is_right(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whether each of `images`, (N, S, S, 3), is classified as its label, (N,).

        Raises:
            CheckpointError: The network gives NaN or infinity for some images.
        """
        size, parts = self.predictor.batch_size, []
        with Progress(f"test images with {self.name}", len(images)) as progress:
            for start in range(0, len(images), size):
                parts.append(self.predictor.probabilities(images[start : start + size]))
                progress.update(len(parts[-1]))
        probabilities = np.concatenate(parts)
        require_numbers(probabilities, self.checkpoint.path)
        right: NDArray[np.bool_] = probabilities.argmax(axis=1) == labels
        return right


def require_same_classes(own: Checkpoint, other: ServedNetwork) -> None:
    """Raise UserError if a network has other classes than another one, or the same in another order."""
    names, others = own.class_names, other.checkpoint.class_names
    if names == others:
        return
    added = [name for name in names if name not in others]
    missing = [name for name in others if name not in names]
    differences = [f"{few(missing)} missing" if missing else "", f"{few(added)} added" if added else ""]
    told = " and ".join(filter(None, differences)) or "the same ones in another order"
    raise UserError(f"its classes are not those of {other.name}: {told}; choose another model: --name=NAME")


def shared_test_images(own: ImageDataset, other: ServedNetwork, overrides: Sequence[str]) -> NDArray[np.uint8]:
    """Return the test images of `own` as another network takes them, (N, S, S, 3), in the order of `own`.

    They differ from those of `own` if the other network takes images of another size.

    Args:
        own: With test images.
        other: Has the same classes in the same order.
        overrides: Where the data are today, as for `relocated`.

    Raises:
        UserError: The other network's test images are others, or are not available.
    """
    if other.checkpoint.data_digest == own.digest:
        return own.test.arrays()[0]
    print_message(f"loading the data of {other.name}, to see whether its test images are the same")
    try:
        data = load_trained_data(other.checkpoint, relocated(other.checkpoint.config, overrides))
    except UserError as error:
        raise UserError(f"the test images of {other.name} cannot be loaded: {first_line(error)}") from None
    positions = SplitContent.of_test(own).positions_in(SplitContent.of_test(data))
    if positions is None:
        ours, theirs = (f"{len(each.test):,} test images of {printable(each.name)}" for each in (own, data))
        raise UserError(
            f"its {ours} are not the {theirs} of {other.name}, and accuracies on different images say little; choose "
            "another model: --name=NAME"
        )
    return data.test.arrays()[0][positions]

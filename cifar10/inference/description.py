"""What an exported file contains beside the network: everything that a `Predictor` needs, as JSON."""

import base64
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cifar10.config.schema import TTAMode
from cifar10.errors import CheckpointError, first_line
from cifar10.images.preprocessing import Interpolation, Preprocessing
from cifar10.inference.engines import Engine
from cifar10.inference.reference import FORMAT, Reference

if TYPE_CHECKING:
    from cifar10.runs.checkpoints import Checkpoint

KEY = "cifar10"
"""Of the entry in the metadata of a file."""
_TOLERANCE = 1e-3  # between processors; a wrong graph is further off


class Golden(BaseModel):
    """Images with the probabilities that the network has for them."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    pixels: str
    """uint8 (N, S, S, 3), C-contiguous, in base64."""
    probabilities: list[list[float]]
    """(N, K)."""


class ModelDescription(BaseModel):
    """Class names, inference settings and origin of an exported network."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    format: Literal[1, 2] = 2
    """Files of format 1 have no seal."""
    class_names: Annotated[list[str], Field(min_length=2, max_length=100_000)]
    image_size: Annotated[int, Field(ge=1, le=4096)]
    """Height and width in pixels of the network's input."""
    resize_size: Annotated[int, Field(ge=1, le=8192)] | None = None  # older files lack this and the next
    interpolation: Interpolation = "bicubic"
    """How images are resized to the input; see `Preprocessing`."""
    batch_size: Annotated[int, Field(ge=1)]
    tta: TTAMode
    tta_confidence: Annotated[float, Field(ge=0, le=1)]
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """What the logits of the checkpoint are divided by in this file; older files lack it."""
    weights_digest: str
    data_digest: str
    run_id: str | None = None
    git_commit: str | None = None
    code_digest: str | None = None
    golden: Golden | None = None
    file_digest: str | None = None
    """SHA-256 of the checkpoint file that was exported; older files lack it."""
    reference: Reference | None = None
    """What the training data looked like; ONNX files have one."""

    @field_validator("reference", mode="before")
    @classmethod
    def _of_this_version(cls, value: Any) -> Any:
        return value if not isinstance(value, dict) or value.get("format", FORMAT) == FORMAT else None

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        _ = self.preprocessing  # raises ValueError
        return self

    @property
    def is_sealed(self) -> bool:
        """Whether the file ends with the digest of its content: see `seal`."""
        return self.format >= 2

    @property
    def preprocessing(self) -> Preprocessing:
        """How images of any size become the network's input."""
        return Preprocessing(self.image_size, self.resize_size, self.interpolation)

    @classmethod
    def of(cls, checkpoint: "Checkpoint") -> "ModelDescription":
        """Return the description of `checkpoint`, without golden images."""
        evaluation, metadata = checkpoint.config.evaluation, checkpoint.metadata
        return cls(
            class_names=list(checkpoint.class_names),
            image_size=checkpoint.image_size,
            resize_size=checkpoint.preprocessing.resize_size,
            interpolation=checkpoint.preprocessing.interpolation,
            batch_size=evaluation.images_at_once(checkpoint.image_size),
            tta=checkpoint.tta,
            tta_confidence=evaluation.tta_confidence,
            temperature=checkpoint.temperature,
            weights_digest=checkpoint.weights_digest,
            data_digest=checkpoint.data_digest,
            run_id=metadata.run_id,
            git_commit=metadata.git_commit,
            code_digest=metadata.code_digest,
        )

    @classmethod
    def parse(cls, text: str | None, path: object) -> "ModelDescription":
        """Read the entry of the file `path`.

        Raises:
            CheckpointError: It is missing or damaged.
        """
        if text is None:
            raise CheckpointError(f"{path} was not exported by this program: it has no class names")
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise CheckpointError(f"{path}: its metadata are damaged: {first_line(error)}") from error

    def golden_images(self) -> NDArray[np.uint8] | None:
        """Return the golden images, uint8 (N, S, S, 3), or None.

        Raises:
            ValueError: They have another size.
        """
        if self.golden is None:
            return None
        pixels = np.frombuffer(base64.b64decode(self.golden.pixels, validate=True), np.uint8)
        return pixels.reshape(len(self.golden.probabilities), self.image_size, self.image_size, 3)


class LoadedModel(NamedTuple):
    """What an engine's `load` returns."""

    engine: Engine
    description: ModelDescription


def golden(images: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> Golden:
    """Return `images`, uint8 (N, S, S, 3), with their probabilities, (N, K)."""
    return Golden(pixels=base64.b64encode(images.tobytes()).decode(), probabilities=probabilities.tolist())


def require_golden(description: ModelDescription, engine: Engine, path: object) -> None:
    """Compare what `engine` computes for the golden images with what was computed at the export.

    Raises:
        CheckpointError: It differs.
    """
    try:
        images = description.golden_images()
        if images is None or description.golden is None:
            return
        difference = np.abs(
            engine.probabilities(images) - np.asarray(description.golden.probabilities, np.float32)
        ).max()
    except ValueError as error:
        raise CheckpointError(f"{path}: its golden images are damaged: {first_line(error)}") from error
    if not difference <= _TOLERANCE:
        raise CheckpointError(
            f"{path} computes other probabilities here than where it was exported (by up to {difference:.2g}): it is "
            "damaged, or this machine computes otherwise; export the checkpoint here"
        )

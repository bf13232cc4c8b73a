"""The content of a checkpoint besides weights: metadata, and the state to resume training from."""

import hashlib
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasPath, BaseModel, ConfigDict, Field, NonNegativeInt, StringConstraints

from cifar10.config.schema import TTAMode
from cifar10.images.preprocessing import Interpolation

UNKNOWN_DATA = hashlib.sha256(b"").hexdigest()
"""In place of the digest of the data set, for weights that were trained by others."""
FORMAT = 1
"""Version of the format; files of other versions are refused."""


def _each_once(names: list[str]) -> list[str]:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"{repeated[0]} occurs twice")
    return names


class Metadata(BaseModel):
    """Metadata of a checkpoint. Older files lack fields that have a default."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", protected_namespaces=())

    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)]
    class_names: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=1000)]],
        Field(min_length=2, max_length=100_000),
        AfterValidator(_each_once),
    ]
    image_size: Annotated[int, Field(ge=1, le=4096)]
    """Height and width in pixels that the network was trained on."""
    resize_size: Annotated[int, Field(ge=1, le=8192)] | None = None
    interpolation: Interpolation = "bicubic"
    """How images are resized to that size; see `Preprocessing`."""
    data_digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the data set it was trained and tested on."""
    precision: Literal["fp32", "bf16", "fp16"]
    """Precision in training and testing."""
    history: list[dict[str, int | float]]
    """One entry of metrics per finished epoch."""
    run_id: Annotated[str, StringConstraints(pattern=r"^[\w-]{1,64}$")] | None = None
    """MLflow's id of the run that made it, if it was tracked."""
    tta: TTAMode | None = None
    """Test-time augmentation to use instead of the configured one, which scored worse on the validation images."""
    initial_weights: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    """SHA-256 of the weights that the network started from, if they were those of another checkpoint."""
    program: str | None = None
    data_name: str | None = None
    git_commit: str | None = None
    git_dirty: bool | None = None
    code_digest: str | None = None
    versions: dict[str, str] = {}
    machine: dict[str, str | int | list[str] | None] = {}
    """Processor, its cores and instruction sets, and GPU."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads that computed."""
    several_origins: bool = False
    """Whether the run was resumed with other code or versions, or on another machine; those above are the last ones."""


Sums = Annotated[list[float], Field(min_length=3, max_length=3)]
"""Summed loss, correct images, and images of an epoch so far."""


class TrainingState(BaseModel):
    """The state that a resumed run needs. Lightning would ignore that some of it is missing."""

    model_config = ConfigDict(strict=True, extra="ignore", arbitrary_types_allowed=True)

    epoch: NonNegativeInt
    global_step: NonNegativeInt
    fit_loop: Annotated[dict[str, Any], Field(validation_alias=AliasPath("loops", "fit_loop"))]
    best_score: Annotated[
        float | None, Field(strict=False, validation_alias=AliasPath("callbacks", "SaveCheckpoints", "best_score"))
    ]
    optimizer_states: Annotated[list[dict[str, Any]], Field(min_length=1)]
    lr_schedulers: Annotated[list[dict[str, Any]], Field(min_length=1)]
    cifar10_tally: Sums
    cifar10_tallies: Annotated[list[Sums], Field(min_length=1)] = [[0.0, 0.0, 0.0]]  # older ones lack it
    cifar10_batches: Annotated[list[list[float]], Field(min_length=2, max_length=2)] = [[], []]  # older ones lack it

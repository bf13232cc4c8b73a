"""Inference engines: pixels -> probabilities. One file each, and one in `conf/engine/`."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from cifar10.config.conf_folder import content_of, options
from cifar10.errors import UsageError
from cifar10.suggest import did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cifar10.inference.description import LoadedModel


class Engine(Protocol):
    """Computes class probabilities.

    Shapes: B images of S x S pixels, K classes.
    """

    def probabilities(self, pixels: "NDArray[np.uint8]") -> "NDArray[np.float32]":
        """Return class probabilities, (B, K), of `pixels`, uint8 (B, S, S, 3), RGB, C-contiguous."""
        ...

    def describe(self) -> dict[str, str]:
        """Return what probabilities depend on beside the weights: engine and version, device, precision."""
        ...


@runtime_checkable
class EngineWithLogits(Engine, Protocol):
    """Computes logits as well."""

    def probabilities_and_logits(
        self, pixels: "NDArray[np.uint8]"
    ) -> "tuple[NDArray[np.float32], NDArray[np.float32]]":
        """Return class probabilities of `pixels`, and the logits that they are the softmax of, both (B, K)."""
        ...


def require_engine(name: str) -> None:
    """Raise unless there is an engine called `name`.

    Raises:
        UsageError: There is no `conf/engine/NAME.yaml`.
    """
    if name not in options("engine"):
        known = f"; choose {', '.join(options('engine'))}"
        raise UsageError(f"engine={name}: there is no such engine{did_you_mean(name, options('engine')) or known}")


def exported_files(checkpoint: Path) -> list[Path]:
    """Return the files that engines read beside `checkpoint` itself: those that `export` has written for it."""
    folder = checkpoint.parent / "export"
    return sorted(file for pattern in ("*.onnx", "*.json") for file in folder.glob(pattern) if file.is_file())


def load_model(engine: str, path: Path, device: str = "auto", batch_size: int | None = None) -> "LoadedModel":
    """Load the checkpoint or exported file at `path` with the engine that `conf/engine/NAME.yaml` describes.

    Args:
        engine: NAME.
        path: A checkpoint, or a file that `export` has written.
        device: auto, cpu, cuda or cuda:N.
        batch_size: How many images it will get at a time; None: many.

    Raises:
        UserError: The engine cannot compute this model here.
    """
    from cifar10.config.build import build, read_component
    from cifar10.config.targets import ENGINE

    if path.suffix == ".onnx" and not {"file_name", "candidates"} & content_of("engine", engine).keys():
        raise UsageError(f"engine={engine} computes checkpoints; for {path}, choose onnx, or leave engine out")
    component = read_component("engine", engine)
    model: LoadedModel = build(ENGINE, component, path=path, device=device, batch_size=batch_size)
    return model

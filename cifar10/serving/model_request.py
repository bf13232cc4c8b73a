"""Which model a service is to load, and how it computes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelRequest:
    """A model by its name; see `Predictor.from_checkpoint`."""

    checkpoint: str
    """A file, or models:/NAME@ALIAS, which is looked up again while the service runs."""
    engine: str = "onnx"
    device: str = "auto"
    tta: str | None = None

    @property
    def is_registered(self) -> bool:
        """Whether the registry has the model."""
        return self.checkpoint.startswith("models:/")

    @property
    def is_watched(self) -> bool:
        """Whether another version may take its place."""
        return self.is_registered and "@" in self.checkpoint

"""A classifier as a model of MLflow (`mlflow.pyfunc`), for `mlflow models serve` and `mlflow.pyfunc.load_model`.

MLflow calls `_load_pyfunc` with the folder that `runs/registry.py` has logged, and `predict` with what it was given.
Nothing is pickled. Images are decoded as in `infer`.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cifar10.errors import UsageError
from cifar10.inference.image_inputs import ImageInput
from cifar10.inference.prediction import ImageResult
from cifar10.inference.predictor import Predictor

if TYPE_CHECKING:
    import pandas as pd


def _load_pyfunc(data_path: str) -> "MLflowClassifier":
    """Return the model in a folder: its exported ONNX file if there is one, else its checkpoint."""
    exported = sorted(Path(data_path).glob("export/*.onnx"))
    [file] = exported or Path(data_path).glob("*.ckpt")
    return MLflowClassifier(Predictor.from_checkpoint(file))


class MLflowClassifier:
    """Predicts the classes of encoded images or arrays of pixels."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> "pd.DataFrame":
        """Return one row for each image.

        Args:
            model_input: A table with one column, a list, or an array of encoded images: bytes, or text in base64, as in
                JSON. Or uint8 pixels, RGB: (N, H, W, 3), or a list of (H, W, 3) of any sizes.
            params: Not used.

        Returns:
            Columns class_name, class_id, probability, probabilities (of all classes, in the order of their ids) and
            error. For an image that cannot be read, error is the reason and the others are None.

        Raises:
            MlflowException: `model_input` is nothing of the above.
        """
        import pandas as pd
        from mlflow.exceptions import MlflowException

        try:
            images = [_image(value, position) for position, value in enumerate(_values(model_input))]
            results = self.predictor.predict(images, top_k=self.predictor.num_classes)
        except UsageError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        return pd.DataFrame([_row(result) for result in results], dtype=object)  # keeps None, and whole numbers


def _values(model_input: Any) -> Iterable[Any]:
    """Return the images of a table, a list, an array, or a mapping with one of them."""
    if isinstance(model_input, bytes | str):
        return [model_input]
    if hasattr(model_input, "columns") or isinstance(model_input, Mapping):  # a table of pandas
        names = list(model_input.keys())
        if len(names) != 1:
            raise UsageError(f"give the images in one column; there are {len(names)}: {', '.join(map(str, names[:5]))}")
        return _values(model_input[names[0]])
    if isinstance(model_input, np.ndarray) and model_input.dtype.kind in "iuf" and model_input.ndim != 4:
        raise UsageError(f"an array of shape {model_input.shape} holds no images; give uint8 pixels (N, H, W, 3)")
    if not isinstance(model_input, Iterable):
        raise UsageError(f"{type(model_input).__name__} holds no images; give a table with one column, or a list")
    return model_input


def _image(value: Any, position: int) -> ImageInput:
    """Return encoded bytes, or pixels as uint8; numbers come from JSON as int64. Text is never taken for a path."""
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise UsageError(f"image {position} is text, but not in base64") from None
    if isinstance(value, list):
        try:
            value = np.asarray(value)
        except ValueError:
            raise UsageError(f"image {position} is a list of rows of different lengths") from None
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu" and value.dtype != np.uint8:
        if value.size and not (value.min() >= 0 and value.max() <= 255):
            raise UsageError(f"image {position} has values from {value.min()} to {value.max()}; give 0 to 255")
        return value.astype(np.uint8)
    if not isinstance(value, bytes | bytearray | memoryview | np.ndarray):
        raise UsageError(f"image {position} is of type {type(value).__name__}; give bytes, base64 or uint8 pixels")
    return value


def _row(result: ImageResult) -> dict[str, Any]:
    if not result.top:
        nothing = dict.fromkeys(("class_name", "class_id", "probability", "probabilities"))
        return {**nothing, "error": result.error}
    best, in_order = result.top[0], sorted(result.top, key=lambda one: one.class_id)
    return {
        "class_name": best.class_name,
        "class_id": best.class_id,
        "probability": best.probability,
        "probabilities": [one.probability for one in in_order],
        "error": None,
    }

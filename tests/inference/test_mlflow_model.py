"""A model of MLflow takes images as bytes, base64 and arrays, and predicts what the `Predictor` predicts."""

import base64
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from cifar10.images.preprocessing import Preprocessing
from cifar10.inference.mlflow_model import MLflowClassifier
from cifar10.inference.predictor import Predictor
from tests.malformed import encode, picture

CLASSES = ("red", "green", "blue")
SIZE = 8


class StrongestColour:
    """Probabilities in proportion to the strength of each colour."""

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        strength = pixels.reshape(len(pixels), -1, 3).mean(axis=1, dtype=np.float32)
        return strength / strength.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]

    def describe(self) -> dict[str, str]:
        return {}


@pytest.fixture
def model() -> MLflowClassifier:
    return MLflowClassifier(Predictor(StrongestColour(), CLASSES, Preprocessing(SIZE), 4, "none"))


def coloured(channel: int) -> NDArray[np.uint8]:
    pixels = picture(channel, SIZE) // 2
    pixels[:, :, channel] += 100
    return pixels


PIXELS = np.stack([coloured(channel) for channel in (2, 0, 1)])
ENCODED = [encode(pixels, "PNG") for pixels in PIXELS]
TEXT = [base64.b64encode(data).decode() for data in ENCODED]


@pytest.mark.parametrize(
    "given",
    [
        pd.DataFrame({"image": ENCODED}),
        pd.DataFrame({"any name": TEXT}),
        {"image": TEXT},
        ENCODED,
        TEXT,
        np.array(ENCODED, object),
        np.array(TEXT),
        pd.Series(ENCODED),
        PIXELS,
        PIXELS.astype(np.int64),  # as JSON gives them
        list(PIXELS),
        PIXELS.tolist(),
    ],
    ids=lambda given: type(given).__name__,
)
def test_every_form_of_the_same_images_gives_the_same_rows(model: MLflowClassifier, given: Any) -> None:
    found = model.predict(given)
    expected = model.predictor.probabilities(PIXELS)
    assert found["class_name"].tolist() == ["blue", "red", "green"]
    assert found["class_id"].tolist() == [2, 0, 1]
    assert found["probabilities"].tolist() == expected.tolist()  # in the order of the class ids
    assert found["probability"].tolist() == expected.max(axis=1).tolist()
    assert found["error"].tolist() == [None] * 3


def test_an_image_that_cannot_be_read_is_a_row_and_does_not_change_the_others(model: MLflowClassifier) -> None:
    found = model.predict([ENCODED[0], b"not an image", ENCODED[1]])
    alone = model.predict(ENCODED[:2])
    assert found.iloc[[0, 2]].to_dict("records") == alone.to_dict("records")
    bad = found.iloc[1]
    assert bad["error"].startswith("not a PNG") and bad["class_id"] is None and bad["probabilities"] is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (pd.DataFrame({"a": TEXT, "b": TEXT}), "one column; there are 2: a, b"),
        (["commands.py"], "image 0 is text, but not in base64"),  # a path is never opened
        ([ENCODED[0], None], "image 1 is of type NoneType"),
        (PIXELS[0], r"shape \(8, 8, 3\) holds no images"),
        (PIXELS.astype(np.int64) + 100, "image 0 has values from .*; give 0 to 255"),
        (PIXELS / 255, "array of float64 is not an image"),
        (PIXELS.transpose(0, 3, 1, 2), "moves the channels"),
        ([[[1, 2], [3]]], "rows of different lengths"),
        ([], "the list of images is empty"),
        (3, "int holds no images"),
    ],
)
def test_what_is_no_image_is_refused_with_the_way_out(model: MLflowClassifier, given: Any, message: str) -> None:
    with pytest.raises(MlflowException, match=message) as refused:
        model.predict(given)
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"  # HTTP status 400

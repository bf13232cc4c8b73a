"""A real ONNX file in milliseconds: a classifier that names the strongest colour of an image."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cifar10.inference.description import KEY, ModelDescription
from cifar10.inference.seal import sealed

COLOURS = ("red", "green", "blue")
SIZE = 8


def write_colour_model(
    path: Path, class_names: tuple[str, ...] = COLOURS, sharpness: float = 0.05, weights_digest: str = ""
) -> Path:
    """Write the file, and return its path. Logits are the mean levels of the channels, times `sharpness`.

    Without a `weights_digest`, one is made of the sharpness; its first digits are zeros.
    """
    nodes = [
        helper.make_node("Cast", ["pixels"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["levels", "axes"], ["means"], keepdims=0),
        helper.make_node("Mul", ["means", "sharpness"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3])],
        [
            numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
            numpy_helper.from_array(np.array(sharpness, np.float32), "sharpness"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    description = ModelDescription(
        class_names=list(class_names),
        image_size=SIZE,
        batch_size=4,
        tta="none",
        tta_confidence=0.0,
        weights_digest=weights_digest or f"{round(sharpness * 1000):064d}",
        data_digest="0" * 64,
    )
    helper.set_model_props(model, {KEY: description.model_dump_json()})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sealed(model.SerializeToString()))
    return path


def coloured(channel: int, size: int = SIZE) -> NDArray[np.uint8]:
    """Return noise in which one channel is the strongest, uint8 (size, size, 3)."""
    pixels = np.random.default_rng(channel).integers(0, 100, (size, size, 3)).astype(np.uint8)
    pixels[:, :, channel] += 120
    return pixels

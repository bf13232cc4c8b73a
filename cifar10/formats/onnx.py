"""ONNX: normalisation, resizing, network and softmax in one graph, with everything that a `Predictor` needs."""

import contextlib
import functools
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cifar10.errors import UserError
from cifar10.files import file_sha256
from cifar10.formats import ExactFormat, Source
from cifar10.formats.onnx_passes import simplify
from cifar10.formats.training_reference import reference_of
from cifar10.inference.description import KEY, ModelDescription, golden
from cifar10.inference.engines import Engine
from cifar10.inference.engines.onnx import LOGITS, PROBABILITIES, OnnxEngine, load, open_session
from cifar10.inference.engines.pytorch import TorchEngine
from cifar10.inference.seal import sealed
from cifar10.runs.checkpoints import Checkpoint

if TYPE_CHECKING:
    import onnx

_OPSET = 20
_NUM_GOLDEN = 4


class OnnxFormat(ExactFormat):
    """uint8 (B, H, W, 3) -> probabilities and logits (B, K), in float32; images of another size are resized."""

    file_name = "model.onnx"

    def write(self, source: Source, path: Path) -> None:
        model = to_onnx(source.checkpoint)
        engine = OnnxEngine(open_session(model.SerializeToString(), "the network"))
        path.write_bytes(sealed(described(model, {"reference": reference_of(engine, source)}).SerializeToString()))

    def read(self, path: Path, source: Source) -> Engine:
        return load(path).engine


class _Resized(torch.nn.Module):
    """Decoded images of any size -> class probabilities and logits.

    Args:
        network: uint8 or float (B, 3, S, S) in 0..255 -> logits (B, K).
        image_size: S.
    """

    def __init__(self, network: torch.nn.Module, image_size: int) -> None:
        super().__init__()
        self.network = network.eval()
        self.image_size = image_size

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:  # uint8 (B, H, W, 3), RGB -> both float32 (B, K)
        size = (self.image_size, self.image_size)
        images = interpolate(pixels.permute(0, 3, 1, 2).float(), size=size, mode="bilinear", antialias=True)
        logits: Tensor = self.network(images)
        return torch.softmax(logits, dim=1), logits


@functools.lru_cache(maxsize=1)  # several formats start from it
def to_onnx(checkpoint: Checkpoint) -> "onnx.ModelProto":
    """Return the ONNX model of the network of `checkpoint`, with its description.

    Raises:
        UserError: A package is not installed, or the network cannot be exported.
    """
    network, size = checkpoint.network(), checkpoint.image_size
    images = np.random.default_rng(0).integers(0, 256, (_NUM_GOLDEN, size, size, 3), np.uint8)
    known = golden(images, TorchEngine(network, torch.device("cpu")).probabilities(images))
    model: onnx.ModelProto = _exported(_Resized(network, size))
    simplify(model)
    for node in model.graph.node:
        node.ClearField("metadata_props")  # file names and lines of this machine
        node.ClearField("doc_string")
    digest = file_sha256(checkpoint.path)
    description = ModelDescription.of(checkpoint).model_copy(update={"golden": known, "file_digest": digest})
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, description.model_dump_json()
    return model


def described(model: "onnx.ModelProto", changes: Mapping[str, Any]) -> "onnx.ModelProto":
    """Return a copy of a model from `to_onnx` with changes of its description."""
    copy = type(model)()
    copy.CopyFrom(model)
    [entry] = [entry for entry in copy.metadata_props if entry.key == KEY]
    description = ModelDescription.model_validate_json(entry.value).model_copy(update=dict(changes))
    entry.value = description.model_dump_json()
    return copy


def _exported(module: _Resized) -> Any:
    try:
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ModuleNotFoundError:
        raise UserError("ONNX files need packages: python -m pip install 'onnx>=1.19' 'onnxscript>=0.6'") from None
    names = ("batch", "height", "width")
    dimensions = {axis: torch.export.Dim(name, min=1) for axis, name in enumerate(names)}
    other_size = (3, module.image_size + 3, module.image_size + 5, 3)  # no size may be taken for fixed
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            (torch.zeros(other_size, dtype=torch.uint8),),
            dynamo=True,
            dynamic_shapes=(dimensions,),
            input_names=["pixels"],
            output_names=[PROBABILITIES, LOGITS],
            opset_version=_OPSET,
            verbose=False,
        )
    assert program is not None
    return program.model_proto

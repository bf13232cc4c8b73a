"""The routes of the Open Inference Protocol, version 2, for clients of KServe, Triton, Seldon and others.

Inputs: `pixels`, UINT8 [N, S, S, 3], RGB, or `images`, BYTES [N], encoded images (in JSON, in base64).
Outputs: `probabilities`, FP32 [N, K], `class_id`, INT64 [N], and `class_name`, BYTES [N].
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from numpy.typing import NDArray
from pydantic_core import to_json

from cifar10 import __version__
from cifar10.images.decode import ImageError
from cifar10.serving.http.computing import Row
from cifar10.serving.http.errors import RequestError
from cifar10.serving.http.images_of_request import LARGE_BODY
from cifar10.serving.http.model import ServedModel
from cifar10.serving.http.openapi import INFER, PROTOCOL
from cifar10.serving.http.tensors import HEADER_LENGTH, Output, images_in, read_request, write_response

Images: TypeAlias = "Sequence[bytes] | NDArray[np.uint8]"


def protocol_routes(
    current: Callable[[], ServedModel],
    rows_of: Callable[[ServedModel, Images], Awaitable[list[Row]]],
    max_images: int,
) -> APIRouter:
    """Return the routes.

    Args:
        current: Returns the model that answers now, or raises RequestError.
        rows_of: Computes images with a model.
        max_images: In a request.
    """
    routes = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])

    def named(name: str, version: str | None) -> ServedModel:
        model = current()
        if name != model.name or version not in (None, model.version):
            asked = name if version is None else f"{name}, version {version}"
            raise RequestError(404, f"there is no model {asked[:200]}; this is {model.name}, version {model.version}")
        return model

    @routes.get("", **PROTOCOL)
    async def server() -> Response:
        return _json({"name": "cifar10", "version": __version__, "extensions": ["binary_tensor_data"]})

    @routes.get("/health/live", **PROTOCOL)
    async def live() -> Response:
        return _json({"live": True})

    @routes.get("/health/ready", **PROTOCOL)
    async def ready() -> Response:
        current()
        return _json({"ready": True})

    @routes.get("/models/{name}", **PROTOCOL)
    @routes.get("/models/{name}/versions/{version}", **PROTOCOL)
    async def metadata(name: str, version: str | None = None) -> Response:
        return _json(_metadata(named(name, version)))

    @routes.get("/models/{name}/ready", **PROTOCOL)
    @routes.get("/models/{name}/versions/{version}/ready", **PROTOCOL)
    async def model_ready(name: str, version: str | None = None) -> Response:
        model = named(name, version)
        return _json({"name": model.name, "ready": True})

    @routes.post("/models/{name}/infer", **INFER)
    @routes.post("/models/{name}/versions/{version}/infer", **INFER)
    async def infer(request: Request, name: str, version: str | None = None) -> Response:
        model = named(name, version)
        body = await request.body()
        header_length = request.headers.get(HEADER_LENGTH)

        def read() -> tuple[Any, Images]:
            parsed, binary = read_request(body, header_length)
            return parsed, images_in(parsed.inputs[0], binary, model.predictor.image_size, max_images)

        parsed, images = await asyncio.to_thread(read) if len(body) >= LARGE_BODY else read()
        rows = await rows_of(model, images)
        content, headers = write_response(parsed, (model.name, model.version), _outputs(model, rows))
        return Response(content, headers=headers)

    return routes


def _outputs(model: ServedModel, rows: Sequence[Row]) -> dict[str, Output]:
    """Return the outputs.

    Raises:
        RequestError: An image cannot be read: the protocol has no place for the reason of a single one.
    """
    found = []
    for position, row in enumerate(rows):
        if isinstance(row, ImageError):
            raise RequestError(422, f"image {position} cannot be read: {row}")
        found.append(row.probabilities)
    probabilities = np.stack(found)
    if not np.isfinite(probabilities).all():
        raise RequestError(500, "the network's output is not a number")
    class_ids = probabilities.argmax(1)
    names = [model.predictor.class_names[class_id] for class_id in class_ids.tolist()]
    return {"probabilities": probabilities, "class_id": class_ids, "class_name": names}


def _metadata(model: ServedModel) -> dict[str, Any]:
    size, num_classes = model.predictor.image_size, len(model.predictor.class_names)
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "pixels", "datatype": "UINT8", "shape": [-1, size, size, 3]},
            {"name": "images", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, num_classes]},
            {"name": "class_id", "datatype": "INT64", "shape": [-1]},
            {"name": "class_name", "datatype": "BYTES", "shape": [-1]},
        ],
    }


def _json(values: dict[str, Any]) -> Response:
    return Response(to_json(values), media_type="application/json")

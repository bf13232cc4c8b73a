"""Tensors of the Open Inference Protocol, as JSON and in its binary extension: bytes that follow the JSON.

https://github.com/kserve/open-inference-protocol and, for the extension,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import base64
import binascii
import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import to_json

from cifar10.errors import first_line
from cifar10.serving.http.errors import RequestError

HEADER_LENGTH = "inference-header-content-length"
"""Header with the number of bytes of JSON, behind which binary tensors follow."""

_NUMBER = re.compile(r"[0-9]{1,18}")
_DATATYPES = {"float32": "FP32", "int64": "INT64", "uint8": "UINT8"}


class Parameters(BaseModel):
    """What the binary extension adds to a request and to its tensors; others are ignored."""

    binary_data_size: Annotated[int, Field(ge=0)] | None = None
    binary_data: bool | None = None
    binary_data_output: bool | None = None


class InputTensor(BaseModel):
    """An input of a request."""

    name: str
    shape: Annotated[list[Annotated[int, Field(ge=0, le=2**31)]], Field(max_length=8)]
    datatype: str
    parameters: Parameters = Parameters()
    data: list[Any] | None = None


class RequestedOutput(BaseModel):
    """An output that the client wants."""

    name: str
    parameters: Parameters = Parameters()


class InferenceRequest(BaseModel):
    """The JSON of a request."""

    id: Annotated[str, Field(max_length=1000)] | None = None
    parameters: Parameters = Parameters()
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[RequestedOutput], Field(max_length=16)] | None = None

    def is_binary(self, output: str) -> bool:
        """Return whether the client wants an output in binary form."""
        for requested in self.outputs or ():
            if requested.name == output and requested.parameters.binary_data is not None:
                return requested.parameters.binary_data
        return bool(self.parameters.binary_data_output)


def read_request(body: bytes, header_length: str | None) -> tuple[InferenceRequest, bytes]:
    """Return the request in `body`, and the binary data that follow it.

    Raises:
        RequestError: It is none.
    """
    length = len(body)
    if header_length is not None:
        if not _NUMBER.fullmatch(header_length) or int(header_length) > length:
            raise RequestError(400, f"{HEADER_LENGTH} must be the number of bytes of JSON in the body")
        length = int(header_length)
    try:
        return InferenceRequest.model_validate_json(body[:length]), body[length:]
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        place = "".join(f"{step}: " for step in problem["loc"][-1:])
        raise RequestError(400, f"the request is not valid: {place}{problem['msg'][:200]}") from None


def images_in(tensor: InputTensor, binary: bytes, size: int, max_images: int) -> list[bytes] | NDArray[np.uint8]:
    """Return the images of an input: encoded ones of `images`, or pixels, uint8 (B, S, S, 3), of `pixels`.

    Args:
        tensor: The input.
        binary: What follows the JSON.
        size: S, of the network.
        max_images: Most of them.

    Raises:
        RequestError: It is no such input.
    """
    num_images = tensor.shape[0] if tensor.shape else 0
    if not 0 < num_images <= max_images:
        raise RequestError(400, f"the input has {num_images} images; send 1 to {max_images} at a time")
    expected = tensor.parameters.binary_data_size
    if expected is not None and expected != len(binary):
        raise RequestError(400, f"binary_data_size is {expected}, and {len(binary)} bytes follow the JSON")
    is_binary = expected is not None
    if tensor.data is None and not is_binary:
        raise RequestError(400, "the input has no data")
    if tensor.name == "pixels" and tensor.datatype == "UINT8":
        return _pixels(tensor, binary if is_binary else None, size)
    if tensor.name == "images" and tensor.datatype == "BYTES":
        if math.prod(tensor.shape) != num_images:
            raise RequestError(400, f"images has the shape {tensor.shape}; it must be [N] or [N, 1]")
        images = _strings(binary) if is_binary else [_decoded(text) for text in _flat(tensor.data or [])]
        if len(images) != num_images:
            raise RequestError(400, f"images holds {len(images)} values, and its shape says {num_images}")
        return images
    raise RequestError(
        400, f"there is no input {tensor.name[:80]} of {tensor.datatype[:20]}; send pixels of UINT8, or images of BYTES"
    )


def _pixels(tensor: InputTensor, binary: bytes | None, size: int) -> NDArray[np.uint8]:
    shape = tuple(tensor.shape)
    if shape[1:] != (size, size, 3):
        raise RequestError(400, f"pixels has the shape {list(shape)}; it must be [N, {size}, {size}, 3]")
    if binary is not None:
        values = np.frombuffer(binary, np.uint8)
    else:
        try:
            given = np.asarray(tensor.data)
        except ValueError:
            raise RequestError(400, "pixels holds rows of different lengths") from None
        if given.dtype.kind not in "iu" or (given.size and not 0 <= given.min() <= given.max() <= 255):
            raise RequestError(400, "pixels must hold whole numbers from 0 to 255")
        values = given.astype(np.uint8).reshape(-1)
    if values.size != math.prod(shape):
        raise RequestError(400, f"pixels holds {values.size} values, and its shape {list(shape)} {math.prod(shape)}")
    return values.reshape(shape)


def _flat(values: Sequence[Any]) -> list[Any]:
    return [entry for value in values for entry in (value if isinstance(value, list) else [value])]


def _decoded(text: object) -> bytes:
    try:
        return base64.b64decode(text, validate=True)  # type: ignore[arg-type]
    except (binascii.Error, ValueError, TypeError) as error:
        raise RequestError(400, f"images must be in base64: {first_line(error)[:80]}") from None


def _strings(binary: bytes) -> list[bytes]:
    """Return the values of a BYTES tensor: each is its length, four bytes, little-endian, and its bytes."""
    values, place = [], 0
    while place < len(binary):
        start = place + 4
        place = start + int.from_bytes(binary[place:start], "little")
        if start > len(binary) or place > len(binary):
            raise RequestError(400, "the binary data of images end within a value")
        values.append(binary[start:place])
    return values


Output = NDArray[Any] | list[str]
"""Numbers, or text: one string for each image."""


def write_response(
    request: InferenceRequest, model: tuple[str, str], outputs: dict[str, Output]
) -> tuple[bytes, dict[str, str]]:
    """Return the body of the answer and its headers.

    Args:
        request: Says which outputs are wanted, and in which form; all, if it says nothing.
        model: Name and version.
        outputs: By name.

    Raises:
        RequestError: An output that is wanted is not there.
    """
    wanted = [output.name for output in request.outputs] if request.outputs else list(outputs)
    entries, binary = [], b""
    for name in wanted:
        if name not in outputs:
            raise RequestError(400, f"there is no output {name[:80]}; choose {', '.join(outputs)}")
        entry, data = _output(name, outputs[name], request.is_binary(name))
        entries.append(entry)
        binary += data
    answer = {"model_name": model[0], "model_version": model[1], "outputs": entries}
    if request.id is not None:
        answer["id"] = request.id
    text = to_json(answer)
    if not binary:
        return text, {"content-type": "application/json"}
    return text + binary, {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(text))}


def _output(name: str, values: Output, is_binary: bool) -> tuple[dict[str, Any], bytes]:
    """Return the JSON of an output, and its binary data, which are empty if they are in the JSON."""
    if isinstance(values, list):
        datatype: str | Literal["BYTES"] = "BYTES"
        shape = [len(values)]
        encoded = [value.encode() for value in values]
        data = b"".join(len(value).to_bytes(4, "little") + value for value in encoded)
        plain: list[Any] = values
    else:
        datatype, shape = _DATATYPES[values.dtype.name], list(values.shape)
        data, plain = values.tobytes() if is_binary else b"", [] if is_binary else values.reshape(-1).tolist()
    entry: dict[str, Any] = {"name": name, "shape": shape, "datatype": datatype}
    if is_binary:
        return {**entry, "parameters": {"binary_data_size": len(data)}}, data
    return {**entry, "data": plain}, b""

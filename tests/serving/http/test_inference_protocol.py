"""The routes of the Open Inference Protocol serve its clients: Triton's own, in both of its forms, and plain JSON."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton

import cifar10
from tests.malformed import encode
from tests.serving.http.serving_process import Served, serving
from tests.tiny_onnx import SIZE, coloured, write_colour_model

PIXELS = np.stack([coloured(channel) for channel in (2, 0, 1)])
ENCODED = [encode(pixels, "PNG") for pixels in PIXELS]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("v2")
    write_colour_model(folder / "colours" / "model.onnx")
    with serving(folder, "--checkpoint_name=colours/model.onnx", "serving.drift=null") as served:
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{served.port}") as client:
        yield client


def test_the_server_and_the_model_are_live_and_ready(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("colours")
    assert not client.is_model_ready("others")


def test_metadata_name_inputs_and_outputs(client: Any) -> None:
    metadata = client.get_model_metadata("colours")
    assert metadata["inputs"][0] == {"name": "pixels", "datatype": "UINT8", "shape": [-1, SIZE, SIZE, 3]}
    assert {output["name"] for output in metadata["outputs"]} == {"probabilities", "class_id", "class_name"}
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]


@pytest.mark.parametrize("is_binary", [True, False])
def test_pixels_in_both_forms_give_the_probabilities_of_the_predictor(
    client: Any, is_binary: bool, tmp_path: Path
) -> None:
    tensor = triton.InferInput("pixels", list(PIXELS.shape), "UINT8")
    tensor.set_data_from_numpy(PIXELS, binary_data=is_binary)
    outputs = [triton.InferRequestedOutput(name, binary_data=is_binary) for name in ("probabilities", "class_id")]
    answer = client.infer("colours", [tensor], outputs=outputs, request_id="seven")
    expected = cifar10.load(write_colour_model(tmp_path / "model.onnx")).probabilities(PIXELS)
    np.testing.assert_allclose(answer.as_numpy("probabilities"), expected, rtol=1e-6)
    assert answer.as_numpy("class_id").tolist() == [2, 0, 1]
    assert answer.get_response()["id"] == "seven"


def test_encoded_images_as_bytes_are_classified(client: Any) -> None:
    tensor = triton.InferInput("images", [3], "BYTES")
    tensor.set_data_from_numpy(np.array(ENCODED, object))
    answer = client.infer("colours", [tensor])
    assert answer.as_numpy("class_name").tolist() == [b"blue", b"red", b"green"]


def test_of_several_outputs_only_those_that_are_wanted_come(client: Any) -> None:
    tensor = triton.InferInput("pixels", list(PIXELS.shape), "UINT8")
    tensor.set_data_from_numpy(PIXELS)
    answer = client.infer("colours", [tensor], outputs=[triton.InferRequestedOutput("class_name")])
    assert answer.as_numpy("probabilities") is None
    assert answer.as_numpy("class_name").tolist() == [b"blue", b"red", b"green"]


IMAGE = base64.b64encode(ENCODED[0]).decode()


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"name": "pictures"}, 400, "there is no input pictures"),
        ({"datatype": "FP32"}, 400, "there is no input images of FP32"),
        ({"shape": [2]}, 400, "holds 1 values, and its shape says 2"),
        ({"shape": [0], "data": []}, 400, "0 images; send 1 to 64"),
        ({"shape": [65], "data": [IMAGE] * 65}, 400, "65 images; send 1 to 64"),
        ({"shape": [1, 2]}, 400, "must be [N] or [N, 1]"),
        ({"shape": [-1]}, 400, "the request is not valid"),
        ({"data": ["*"]}, 400, "must be in base64"),
        ({"data": [7]}, 400, "must be in base64"),
        ({"data": None}, 400, "has no data"),
        ({"data": ["AAAA"]}, 422, "image 0 cannot be read: not a PNG"),
        ({"parameters": {"binary_data_size": 5}}, 400, "binary_data_size is 5, and 0 bytes follow"),
        ({"name": "pixels", "datatype": "UINT8", "shape": [1, 4, 4, 3], "data": [0] * 48}, 400, "[N, 8, 8, 3]"),
        ({"name": "pixels", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": [0] * 48}, 400, "48 values"),
        ({"name": "pixels", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": [256] * 192}, 400, "from 0 to 255"),
        ({"name": "pixels", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": [0.5] * 192}, 400, "whole numbers"),
        ({"name": "pixels", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": [[1], [1, 2]]}, 400, "lengths"),
        ({"name": "pixels", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": ["x"] * 192}, 400, "whole numbers"),
        ({"name": "pixels", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": [10**30] * 192}, 400, "whole numbers"),
    ],
)
def test_a_wrong_tensor_is_refused_in_words(served: Served, change: dict[str, Any], status: int, message: str) -> None:
    import requests

    tensor = {"name": "images", "shape": [1], "datatype": "BYTES", "data": [IMAGE], **change}
    answer = requests.post(f"{served.url}/v2/models/colours/infer", json={"inputs": [tensor]}, timeout=10)
    assert (answer.status_code, message in answer.json()["error"]) == (status, True), answer.text


@pytest.mark.parametrize(
    ("body", "header", "status"),
    [
        (b"{}", None, 400),
        (b"\xff", None, 400),
        (b"{}", "3", 400),
        (b"{}", "-1", 400),
        (b"{}", "9" * 5000, 400),
        (b'{"inputs": []}', None, 400),
    ],
)
def test_a_body_that_is_no_request_is_refused(served: Served, body: bytes, header: str | None, status: int) -> None:
    import requests

    headers = {} if header is None else {"Inference-Header-Content-Length": header}
    answer = requests.post(f"{served.url}/v2/models/colours/infer", data=body, headers=headers, timeout=10)
    assert answer.status_code == status
    assert answer.json()["error"]


def test_another_model_or_version_is_not_found(served: Served) -> None:
    import requests

    for path in ("others", "colours/versions/9"):
        answer = requests.post(f"{served.url}/v2/models/{path}/infer", json={"inputs": []}, timeout=10)
        assert answer.status_code == 404

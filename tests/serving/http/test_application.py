"""The routes of the service answer every well-formed image, and every malformed request, in words."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

import cifar10
from cifar10.config.serving_settings import read_serving_settings
from cifar10.serving.http.application import make_application
from cifar10.serving.model_request import ModelRequest
from tests.malformed import encode, malformed_images
from tests.tiny_onnx import COLOURS, SIZE, coloured, write_colour_model

PNGS = [encode(coloured(channel), "PNG") for channel in range(3)]
TEXTS = [base64.b64encode(data).decode() for data in PNGS]
PIXELS = np.stack([coloured(channel) for channel in range(3)])
BINARY = {"Content-Type": "application/octet-stream"}


def client_of(folder: Path, *overrides: str, api_key: str | None = None) -> TestClient:
    file = write_colour_model(folder / "colours" / "model.onnx")
    settings = read_serving_settings(["serving.drift=null", *overrides])
    return TestClient(make_application(ModelRequest(str(file)), settings, api_key))


def wait(client: TestClient) -> None:
    while client.get("/readyz").status_code != 200:
        pass


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with client_of(tmp_path_factory.mktemp("http"), "serving.max_body_mb=1", "serving.max_images=8") as client:
        wait(client)
        yield client


def classes(answer: Any) -> list[str]:
    return [image["class_name"] for image in answer.json()["images"]]


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", "IMAGE/PNG; charset=binary"])
def test_an_image_as_the_body_is_classified(client: TestClient, kind: str) -> None:
    answer = client.post("/predict", content=PNGS[1], headers={"Content-Type": kind})
    assert answer.status_code == 200
    assert classes(answer) == ["green"]


def test_files_in_a_form_are_classified_in_order_and_by_name(client: TestClient) -> None:
    files = [("images", (f"{name}.png", data, "image/png")) for name, data in zip(COLOURS, PNGS, strict=True)]
    answer = client.post("/predict", files=files)
    assert [(image["name"], image["class_name"]) for image in answer.json()["images"]] == [
        (f"{name}.png", name) for name in COLOURS
    ]


@pytest.mark.parametrize(
    "given",
    [
        {"images": TEXTS},
        {"images": [{"name": str(number), "data": text} for number, text in enumerate(TEXTS)]},
        {"images": [f"data:image/png;base64,{text}" for text in TEXTS]},
    ],
)
def test_images_in_json_are_classified(client: TestClient, given: dict[str, Any]) -> None:
    assert classes(client.post("/predict", json=given)) == list(COLOURS)


def test_one_image_in_json_is_classified(client: TestClient) -> None:
    assert classes(client.post("/predict", json={"image": TEXTS[2]})) == ["blue"]


def test_the_answers_are_those_of_the_predictor(client: TestClient, tmp_path: Path) -> None:
    predictor = cifar10.load(write_colour_model(tmp_path / "model.onnx"))
    for data, expected in zip(PNGS, predictor.predict(PNGS, top_k=3), strict=True):
        [found] = client.post("/predict", content=data, headers=BINARY).json()["images"]
        assert [one["class_name"] for one in found["top"]] == [one.class_name for one in expected.top]
        np.testing.assert_allclose(
            [one["probability"] for one in found["top"]], [one.probability for one in expected.top], rtol=1e-6
        )


def test_an_unreadable_image_among_others_has_its_reason_and_the_others_their_classes(client: TestClient) -> None:
    answer = client.post("/predict", json={"images": [TEXTS[0], base64.b64encode(b"no image").decode(), TEXTS[2]]})
    assert answer.status_code == 200
    assert classes(answer) == ["red", None, "blue"]
    assert answer.json()["images"][1]["error"].startswith("not a PNG")


@pytest.mark.parametrize(
    "file", [file for file in malformed_images() if 0 < len(file.data) < 2**20], ids=lambda file: file.name
)
def test_a_malformed_image_alone_is_refused_with_its_reason(client: TestClient, file: Any) -> None:
    answer = client.post("/predict", content=file.data, headers=BINARY)
    [image] = answer.json()["images"]
    assert answer.status_code == 422
    assert image["class_name"] is None
    assert image["error"]


def test_receipts_say_what_the_answer_depends_on_and_no_path(client: TestClient) -> None:
    answer = client.post("/predict?receipts=true", content=PNGS[0], headers=BINARY).json()
    assert len(answer["images"][0]["image_sha256"]) == 64
    assert answer["receipt"]["checkpoint"] == "colours"
    assert "/" not in json.dumps(answer)


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        ({"content": b""}, 400, "the body is empty"),
        ({"content": PNGS[0], "headers": {"Content-Type": "text/plain"}}, 415, "text/plain is not known"),
        ({"content": PNGS[0]}, 415, "(none) is not known"),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "is not JSON"),
        ({"content": b"[" * 10**5, "headers": {"Content-Type": "application/json"}}, 400, "is not JSON"),
        ({"json": []}, 422, "must have the key images"),
        ({"json": {"images": []}}, 400, "there is no image"),
        ({"json": {"images": [3]}}, 422, "image 0 is neither base64 nor"),
        ({"json": {"images": ["*"]}}, 422, "image 0 is not valid base64"),
        ({"json": {"images": TEXTS * 3}}, 413, "9 images are too many; send at most 8"),
        ({"files": [("images", PNGS[0])] * 9}, 413, "Too many"),
        ({"data": {"text": "field"}, "files": [("x", b"")]}, 422, None),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "the form cannot be read"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=a"}}, 400, "the form cannot"),
        ({"content": bytes(2**20 + 1), "headers": BINARY}, 413, "larger than 1 MB"),
        ({"content": PNGS[0], "headers": BINARY, "params": {"top_k": 0}}, 422, "top_k"),
        ({"content": PNGS[0], "headers": BINARY, "params": {"top_k": "many"}}, 422, "top_k"),
    ],
)
def test_a_request_that_cannot_be_answered_is_told_why(
    client: TestClient, request_: dict[str, Any], status: int, message: str | None
) -> None:
    answer = client.post("/predict", **request_)
    assert answer.status_code == status, answer.text
    if message is not None:
        assert message in answer.json()["error"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/predict", 405), ("GET", "/no/such/route", 404)])
def test_other_routes_and_methods_are_refused_in_json(client: TestClient, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert "see /docs" in answer.json()["error"]


def test_the_model_describes_itself_without_paths(client: TestClient) -> None:
    answer = client.get("/model").json()
    assert answer["class_names"] == list(COLOURS)
    assert answer["image_size"] == SIZE
    assert answer["limits"] == {"body_bytes": 2**20, "images": 8, "pixels": 52_000_000}
    assert "model.onnx" not in json.dumps(answer)


def test_metrics_count_requests_and_images(client: TestClient) -> None:
    def value(line: str) -> float:
        found = [text for text in client.get("/metrics").text.splitlines() if text.startswith(line)]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    lines = ('cifar10_predictions_total{class_name="blue"}', 'cifar10_requests_total{route="/predict",status="200"}')
    before = [value(line) for line in lines]
    client.post("/predict", json={"images": [TEXTS[2], TEXTS[2]]})
    assert [value(line) for line in lines] == [before[0] + 2, before[1] + 1]
    assert value('cifar10_model{name="colours",version="000000000000",weights="000000000000"}') == 1


def test_openapi_has_an_example_that_works(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    example = schema["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert client.post("/predict", json=example).status_code == 200
    tensors = schema["paths"]["/v2/models/{name}/infer"]["post"]["requestBody"]["content"]["application/json"][
        "example"
    ]
    assert client.post("/v2/models/colours/infer", json=tensors).status_code == 200
    assert client.get("/docs").status_code == 200


def test_a_small_limit_of_pixels_is_kept(tmp_path: Path) -> None:
    with client_of(tmp_path, "serving.max_megapixels=0.0001") as client:
        wait(client)
        small, large = encode(coloured(0, 8), "PNG"), encode(coloured(0, 16), "PNG")
        assert client.post("/predict", content=small, headers=BINARY).status_code == 200
        answer = client.post("/predict", content=large, headers=BINARY)
        assert answer.json()["images"][0]["error"] == "too large: the limit is 0.0001 megapixels"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"X-API-Key": "wrong"}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"X-API-Key": "secret"}, 200),
        ({"Authorization": "Bearer secret"}, 200),
    ],
)
def test_a_key_is_demanded_for_everything_but_probes(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    with client_of(tmp_path, api_key="secret") as client:
        wait(client)
        assert client.post("/predict", content=PNGS[0], headers={**BINARY, **headers}).status_code == status
        for path in ("/model", "/metrics", "/docs", "/openapi.json"):
            assert client.get(path, headers=headers).status_code == status
        for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"):
            assert client.get(path).status_code == 200


def test_before_a_model_is_there_it_lives_and_is_not_ready(tmp_path: Path) -> None:
    settings = read_serving_settings(["serving.drift=null"])
    with TestClient(make_application(ModelRequest(str(tmp_path / "none.onnx")), settings)) as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 503
        answer = client.post("/predict", content=PNGS[0], headers=BINARY)
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"


def test_incoming_images_are_counted_for_the_page_on_drift(tmp_path: Path) -> None:
    with client_of(tmp_path, f"serving.drift={tmp_path / 'incoming.db'}") as client:
        wait(client)
        client.post("/predict", json={"images": TEXTS})
    from cifar10.serving.database import reading
    from cifar10.serving.drift import LAYOUT

    with reading(tmp_path / "incoming.db", LAYOUT) as connection:
        assert connection.execute("SELECT SUM(images) FROM counts WHERE measure = 'classes'").fetchone() == (3,)


FORM = {"Content-Type": "multipart/form-data; boundary=B"}


def part(options: bytes, data: bytes, *headers: bytes) -> bytes:
    """Return a part of a form, with the end of the line before the next boundary."""
    head = b'--B\r\nContent-Disposition: form-data; name="i"' + options
    return b"\r\n".join([head, *headers, b"", data, b""])


def test_a_file_name_that_is_no_utf8_is_answered(client: TestClient) -> None:
    answer = client.post("/predict", content=part(b'; filename="\xff.png"', PNGS[0]) + b"--B--", headers=FORM)
    assert [image["name"] for image in answer.json()["images"]] == ["\xff.png"]


@pytest.mark.parametrize(
    "end",
    [b"", b"--", b"--B", b"--B-", b"--B\r\n", part(b'; filename="b.png"', PNGS[1])[:-2], part(b"", b"")[:9]],
    ids=lambda end: f"{len(end)} bytes",
)
def test_a_form_without_its_last_boundary_is_refused(client: TestClient, end: bytes) -> None:
    answer = client.post("/predict", content=part(b'; filename="a.png"', PNGS[0]) + end, headers=FORM)
    assert answer.status_code == 400 and "it ends too early" in answer.json()["error"]


@pytest.mark.parametrize(
    ("second", "name"),
    [
        (part(b"; filename*=UTF-8''%D0%BA%D0%BE%D1%82.png", PNGS[1]), "\u043a\u043e\u0442.png"),
        (part(b"; filename*=utf-8'en'b.png", PNGS[1]), "b.png"),
        (part(b'; filename*="b.png"; filename=a.png', PNGS[1]), "a.png"),
        (part(b"; filename*=", PNGS[1]), ""),
        (part(b"", PNGS[1]), ""),
    ],
)
def test_an_image_in_a_form_is_answered_whatever_its_name(client: TestClient, second: bytes, name: str) -> None:
    form = part(b'; filename="first.png"', PNGS[0]) + second + b"--B--"
    answer = client.post("/predict", content=form, headers=FORM)
    assert [image["name"] for image in answer.json()["images"]] == ["first.png", name]
    assert classes(answer) == ["red", "green"]


def test_text_fields_are_ignored_and_images_of_text_are_not(client: TestClient) -> None:
    text = part(b"", "\u043a\u043e\u0442".encode())
    pixel = part(b"", b"P3 1 1 255 255 0 0 ", b"Content-Type: image/x-portable-pixmap")
    answer = client.post("/predict", content=text + pixel + text + b"--B--", headers=FORM)
    assert classes(answer) == ["red"]


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/predict/"), ("GET", "/model/"), ("POST", "/"), ("PUT", "/predict")]
)
def test_a_route_that_does_not_exist_is_refused_in_json(client: TestClient, method: str, path: str) -> None:
    answer = client.request(method, path, follow_redirects=False)
    assert answer.status_code == (405 if path == "/predict" else 404)
    assert "see /docs" in answer.json()["error"]


@pytest.mark.parametrize("length", ["\xb2", "-1", "1e3", "0" * 5000 + "1", "9" * 18, ""])
def test_a_length_that_is_no_number_of_bytes_is_refused(client: TestClient, length: str) -> None:
    headers = {b"Inference-Header-Content-Length": length.encode("latin-1"), b"Content-Type": b"application/json"}
    answer = client.post("/v2/models/colours/infer", content=b"{}", headers=headers)
    assert answer.status_code == 400 and "must be the number of bytes" in answer.json()["error"]


def test_head_is_answered_as_get(client: TestClient) -> None:
    wait(client)
    for path in ("/healthz", "/readyz", "/model"):
        assert client.head(path).status_code == 200
    assert client.head("/predict").status_code == 405


def test_without_pages_no_message_points_to_them(tmp_path: Path) -> None:
    with client_of(tmp_path, "serving.docs=false") as client:
        assert client.get("/docs").json() == {"error": "there is no such route"}
        assert client.get("/predict").json() == {"error": "this route has another method"}


def test_a_failure_of_the_service_is_told_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with client_of(tmp_path) as client:
        wait(client)
        monkeypatch.setattr("cifar10.serving.http.application._description", lambda *_: 1 / 0)
        answer = client.get("/model")
        assert answer.status_code == 500
        assert answer.json() == {"error": "the service has failed; its log has the reason"}


def test_the_scheme_of_a_key_may_be_in_lower_case(tmp_path: Path) -> None:
    with client_of(tmp_path, api_key="secret") as client:
        wait(client)
        for scheme, status in (("bearer ", 200), ("Bearer ", 200), ("", 200), ("Basic ", 401)):
            assert client.get("/model", headers={"Authorization": f"{scheme}secret"}).status_code == status

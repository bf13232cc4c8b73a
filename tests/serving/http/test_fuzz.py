"""No request breaks the service: 1,000 made from its own schema, and 200 malformed forms."""

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import hypothesis
import psutil
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given
from schemathesis.core.result import Ok

from tests.malformed import encode, malformed_images
from tests.serving.http.serving_process import Served, serving
from tests.tiny_onnx import coloured, write_colour_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SECONDS = 5


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("fuzz")
    write_colour_model(folder / "colours" / "model.onnx")
    with serving(folder, "--checkpoint_name=colours/model.onnx", "serving.drift=null") as served:
        yield served


def memory(served: Served) -> int:
    """Bytes of the processes that answer."""
    return sum(int(child.memory_info().rss) for child in psutil.Process(served.process.pid).children())


def test_requests_from_the_schema_get_no_server_error(served: Served) -> None:
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    statuses: Counter[int] = Counter()
    operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    served_paths = {"{name}": "colours", "{version}": "000000000000"}
    for operation in operations:
        most = 420 if operation.path in ("/predict", "/v2/models/{name}/infer") else 40

        @hypothesis.settings(
            max_examples=most, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
        )
        @given(case=operation.as_strategy())
        def ask(case: "schemathesis.Case[Any]") -> None:
            for parameter in case.path_parameters or {}:
                case.path_parameters[parameter] = served_paths[f"{{{parameter}}}"]
            answer = case.call(timeout=SECONDS)
            statuses[answer.status_code] += 1
            assert answer.status_code < 500 or answer.status_code == 503, answer.text

        before = memory(served)
        ask()
        assert memory(served) - before < 50 * 2**20
    assert statuses.total() >= 1000
    assert statuses[200] > 50
    assert not statuses[503]
    assert requests.get(f"{served.url}/readyz", timeout=SECONDS).status_code == 200


def malformed_forms() -> Iterator[bytes]:
    """Yield 200 requests whose forms are damaged in various ways."""
    rng = random.Random(0)
    images = [file.data for file in malformed_images() if len(file.data) < 2**16] + [encode(coloured(0), "PNG")]
    lines = [
        b'Content-Disposition: form-data; name="images"; filename="a.png"',
        b"Content-Disposition: form-data; filename*=utf-8''%ff%fe",
        b'Content-Disposition: form-data; name="\xff\xfe"; filename="\x00"',
        b"Content-Disposition: attachment",
        b"Content-Type: image/png",
        b"Content-Transfer-Encoding: base64",
        b"X" * 3000 + b": y",
        b"no colon",
        b"",
    ]
    for _ in range(200):
        boundary = rng.choice([b"b", b"x" * 70, b"x" * 300, b'"', b"-", b"a b"])
        parts = b""
        for _ in range(rng.randrange(6)):
            headers = b"\r\n".join(rng.choices(lines, k=rng.randrange(4)))
            parts += b"--" + boundary + b"\r\n" + headers + rng.choice([b"\r\n\r\n", b"\n\n", b"\r\n"])
            parts += rng.choice(images) + rng.choice([b"\r\n", b""])
        body = bytearray(parts + rng.choice([b"--" + boundary + b"--\r\n", b"--" + boundary, b""]))
        for _ in range(rng.randrange(4)):
            if body:
                body[rng.randrange(len(body))] = rng.randrange(256)
        kind = rng.choice(
            [b"multipart/form-data; boundary=" + boundary, b"multipart/form-data", b"multipart/form-data;"]
        )
        length = max(0, len(body) + rng.choice([0, 0, 0, -10]))
        yield (
            b"POST /predict HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: " + kind + b"\r\nContent-Length: "
            b"%d\r\n\r\n" % length + bytes(body[:length])
        )


def test_malformed_forms_are_refused_and_cost_no_memory(served: Served) -> None:
    before = memory(served)
    statuses = Counter(int(served.raw(request).split(b" ", 2)[1]) for request in malformed_forms())
    assert statuses.total() == 200
    assert set(statuses) <= {200, 400, 413, 422}, statuses  # mostly 400
    assert memory(served) - before < 50 * 2**20

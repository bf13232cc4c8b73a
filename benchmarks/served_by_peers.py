"""The same ONNX file behind other servers, as their documentation shows it; started by `http_service.py`.

python benchmarks/served_by_peers.py litserve MODEL.onnx PORT
python benchmarks/served_by_peers.py ray MODEL.onnx PORT
python benchmarks/served_by_peers.py mlflow MODEL.onnx FOLDER        # writes a model of MLflow; serves nothing
"""

import base64
import importlib.util
import io
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image


def pixels_of(text: str) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Return an image in base64 as the network's input, (1, 32, 32, 3)."""
    image = Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB").resize((32, 32))
    return np.asarray(image)[None]


def answer_of(probabilities: Any) -> dict[str, Any]:
    return {"class_id": int(probabilities[0].argmax()), "probabilities": probabilities[0].tolist()}


if importlib.util.find_spec("litserve") is not None:
    import litserve

    class Classifier(litserve.LitAPI):  # type: ignore[misc]
        """At the top of the module, since LitServe starts processes that import it."""

        def setup(self, device: str) -> None:
            self.session = onnxruntime.InferenceSession(sys.argv[2], providers=["CPUExecutionProvider"])

        def decode_request(self, request: dict[str, str]) -> Any:
            return pixels_of(request["image"])

        def predict(self, pixels: Any) -> Any:
            return self.session.run(["probabilities"], {"pixels": pixels})[0]

        def encode_response(self, output: Any) -> dict[str, Any]:
            return answer_of(output)


def serve_with_litserve(model: str, port: int) -> None:
    server = litserve.LitServer(Classifier(), accelerator="cpu")
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="error")


def serve_with_ray(model: str, port: int) -> None:
    import ray
    from ray import serve
    from starlette.requests import Request

    @serve.deployment(max_ongoing_requests=100, ray_actor_options={"num_cpus": 1})
    class Classifier:
        def __init__(self) -> None:
            self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

        async def __call__(self, request: Request) -> dict[str, Any]:
            pixels = pixels_of((await request.json())["image"])
            return answer_of(self.session.run(["probabilities"], {"pixels": pixels})[0])

    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"enable_access_log": False})
    serve.run(Classifier.bind(), route_prefix="/predict")  # type: ignore[attr-defined]
    while True:
        time.sleep(1)


def save_for_mlflow(model: str, folder: str) -> None:
    """Write the model that `export --register` logs, with this file."""
    import shutil
    import tempfile

    import mlflow.pyfunc

    from cifar10.runs import registry

    with tempfile.TemporaryDirectory() as data:
        (Path(data) / "export").mkdir()
        shutil.copy(model, Path(data) / "export" / "model.onnx")
        mlflow.pyfunc.save_model(
            folder,
            loader_module="cifar10.inference.mlflow_model",
            data_path=data,
            pip_requirements=["mlflow"],
            signature=registry._signature(),
        )


if __name__ == "__main__":
    name, model, place = sys.argv[1:]
    if name == "mlflow":
        save_for_mlflow(model, place)
    else:
        {"litserve": serve_with_litserve, "ray": serve_with_ray}[name](model, int(place))

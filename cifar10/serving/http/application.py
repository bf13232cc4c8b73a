"""The HTTP service as an ASGI application: routes, and what starts and ends with a process."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from numpy.typing import NDArray
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from cifar10 import __version__
from cifar10.config.serving_settings import ServingSettings
from cifar10.images.decode import ImageError, silence_pillow
from cifar10.inference.prediction import ImageResult, image_results, most_probable
from cifar10.inference.receipts import shared_columns
from cifar10.inference.results import record_of
from cifar10.serving.http.computing import Computing, Row
from cifar10.serving.http.errors import FAILED, RequestError
from cifar10.serving.http.guard import Application, Guard
from cifar10.serving.http.images_of_request import SentImage, images_of
from cifar10.serving.http.inference_protocol import protocol_routes
from cifar10.serving.http.metrics import CONTENT_TYPE, Metrics
from cifar10.serving.http.model import ModelHolder, ServedModel
from cifar10.serving.http.openapi import DESCRIPTION, MODEL, PREDICT, PROBE
from cifar10.serving.model_request import ModelRequest
from cifar10.system.limits import num_cpus


@dataclass(eq=False)
class Service:
    """What the routes work with; one object in each process."""

    settings: ServingSettings
    holder: ModelHolder
    metrics: Metrics
    computing: Computing | None = None
    is_ending: bool = False

    def model(self) -> ServedModel:
        """Return the model that answers now.

        Raises:
            RequestError: None is loaded yet.
        """
        if self.holder.current is None or self.computing is None:
            raise self._later("no model is loaded yet; send the request again a little later")
        return self.holder.current

    async def rows(self, model: ServedModel, images: Sequence[bytes] | NDArray[np.uint8]) -> list[Row]:
        """Return what `Computing.rows` does, within the time limit.

        Raises:
            RequestError: It took longer.
        """
        assert self.computing is not None, "`model` has been called"
        try:
            async with asyncio.timeout(self.settings.answer_seconds):
                return await self.computing.rows(model, images)
        except TimeoutError:
            raise self._later("the images were not computed in time; send fewer at a time") from None

    def _later(self, message: str) -> RequestError:
        return RequestError(503, message, {"retry-after": str(self.settings.retry_seconds)})


def make_application(
    request: ModelRequest,
    settings: ServingSettings,
    api_key: str | None = None,
    num_processes: int = 1,
) -> Application:
    """Return the application; it loads its model when the server starts it, and answers 503 until then.

    Args:
        request: Which model.
        settings: Limits.
        api_key: What clients must send; None: nothing.
        num_processes: That share this machine's processors.
    """
    silence_pillow()
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # the client is told of a damaged form
    metrics = Metrics()
    service = Service(
        settings, ModelHolder(request, settings.reload_seconds, settings.drift, metrics.observe_load), metrics
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        num_threads = settings.threads or max(1, num_cpus() // num_processes)
        service.computing = Computing(num_threads, settings.batch_images, settings.max_pixels, metrics.observe_batch)
        service.holder.start()
        yield
        service.is_ending = True
        service.computing.close()
        service.holder.close()

    application = FastAPI(
        title="cifar10",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url="/docs" if settings.docs else None,
        openapi_url="/openapi.json" if settings.docs else None,
        redoc_url=None,
        redirect_slashes=False,  # a redirection would have an empty body
    )
    _add_routes(application, service)
    application.include_router(protocol_routes(service.model, service.rows, settings.max_images))
    _add_error_handlers(application, "; see /docs" if settings.docs else "")
    return Guard(application, settings, api_key, metrics)


def _add_routes(application: FastAPI, service: Service) -> None:
    @application.post("/predict", **PREDICT)
    async def predict(
        request: Request,
        top_k: Annotated[int, Query(ge=1, le=100_000, description="Classes to list for each image.")] = 5,
        receipts: Annotated[bool, Query(description="Say what the answer depends on.")] = False,
    ) -> Response:
        """Classify images."""
        model = service.model()
        body = await request.body()
        images = await images_of(request.headers, body, service.settings.max_images)
        rows = await service.rows(model, [image.data for image in images])
        answer = _answer(model, images, rows, top_k, receipts)
        num_failed = sum(isinstance(row, ImageError) for row in rows)
        if num_failed:
            service.metrics.images.labels("unreadable").inc(num_failed)
        return Response(to_json(answer), 422 if num_failed == len(rows) else 200, media_type="application/json")

    @application.get("/model", **MODEL)
    async def model() -> Response:
        """Describe the model that answers now."""
        return Response(to_json(_description(service.model(), service.settings)), media_type="application/json")

    @application.get("/healthz", **PROBE)
    async def healthz() -> Response:
        """Answer 200 as long as the process works."""
        return _plain("ok")

    @application.get("/readyz", **PROBE)
    async def readyz() -> Response:
        """Answer 200 as soon as a model is loaded and has computed an image, and 503 before and during shutdown."""
        if service.is_ending or service.holder.current is None:
            return _plain("no model is loaded yet", 503)
        return _plain("ready")

    @application.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(service.metrics.text(), headers=dict(CONTENT_TYPE))


def _plain(text: str, status: int = 200) -> Response:
    return Response(f"{text}\n", status, media_type="text/plain")


def _answer(
    model: ServedModel, images: Sequence[SentImage], rows: Sequence[Row], top_k: int, receipts: bool
) -> dict[str, Any]:
    """Return one entry for each image: its classes, or why it cannot be read."""
    predictor = model.predictor
    computed = [row for row in rows if not isinstance(row, ImageError)]
    probabilities = np.stack([row.probabilities for row in computed]) if computed else np.empty((0, 1), np.float32)
    tops = most_probable(probabilities, predictor.class_names, top_k)
    answers = ((top, None, row.unlike) for top, row in zip(tops, computed, strict=True))
    results = image_results([image.name for image in images], rows, [None] * len(rows), answers, {})
    entries = []
    for image, result in zip(images, results, strict=True):
        entry = _entry(result)
        if receipts:
            entry["image_sha256"] = hashlib.sha256(image.data).hexdigest()
        entries.append(entry)
    answer = {"model": {"name": model.name, "version": model.version}, "images": entries}
    if receipts:
        answer["receipt"] = shared_columns({**predictor.provenance, "checkpoint": model.name}, None)
    return answer


def _entry(result: ImageResult) -> dict[str, Any]:
    """Return what an answer says of an image: the columns of `infer`, without those of its folder."""
    entry = record_of(result)
    del entry["label"]
    return {"name": entry.pop("path"), **entry, "unlike_training_data": result.unlike}


def _description(model: ServedModel, settings: ServingSettings) -> dict[str, Any]:
    predictor = model.predictor
    hidden = ("checkpoint",)  # a path on this machine
    return {
        "name": model.name,
        "version": model.version,
        "class_names": predictor.class_names,
        "image_size": predictor.image_size,
        "preprocessing": predictor.preprocessing.describe(),
        "provenance": {key: value for key, value in predictor.provenance.items() if key not in hidden},
        "limits": {
            "body_bytes": settings.max_body,
            "images": settings.max_images,
            "pixels": settings.max_pixels,
        },
        "program": f"cifar10 {__version__}",
    }


def _add_error_handlers(application: FastAPI, advice: str) -> None:
    """Let every refusal be JSON. `advice` says where the routes are described."""

    @application.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> Response:
        return error.response()

    @application.exception_handler(HTTPException)
    async def unknown(_: Request, error: HTTPException) -> Response:
        messages = {404: f"there is no such route{advice}", 405: f"this route has another method{advice}"}
        return RequestError(
            error.status_code, messages.get(error.status_code, str(error.detail)), error.headers
        ).response()

    @application.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return RequestError(500, FAILED).response()  # it is raised again, and logged

    @application.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        problems = [f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors()]
        return RequestError(422, "; ".join(problems)[:500]).response()

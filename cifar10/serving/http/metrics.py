"""Metrics of the HTTP service for Prometheus; several processes write to files that any of them can add up."""

import os
from collections import Counter as Tally
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

from cifar10.config.serving_settings import METRICS_FOLDER
from cifar10.serving.http.model import ServedModel

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_CONFIDENCES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)
_BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """What the service counts; one object in each process."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter(
            "cifar10_requests", "Requests by route and HTTP status", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "cifar10_request_seconds",
            "Time from the headers of a request to its answer",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.pending = Gauge(
            "cifar10_pending_requests",
            "Requests that are received or computed now",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.images = Counter(
            "cifar10_images", "Images by outcome: classified, unreadable", ["outcome"], registry=registry
        )
        self.classes = Counter("cifar10_predictions", "Most probable classes", ["class_name"], registry=registry)
        self.unlike = Counter("cifar10_unlike_images", "Images that are unlike the training data", registry=registry)
        self.confidence = Histogram(
            "cifar10_confidence", "Probability of the most probable class", buckets=_CONFIDENCES, registry=registry
        )
        self.batches = Histogram(
            "cifar10_batch_images", "Images that were computed together", buckets=_BATCHES, registry=registry
        )
        self.loads = Counter("cifar10_model_loads", "Models by outcome: loaded, failed", ["outcome"], registry=registry)
        self.model = Gauge(
            "cifar10_model",
            "1 for the model that answers",
            ["name", "version", "weights"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._labels: tuple[str, str, str] | None = None

    def observe_batch(
        self,
        model: ServedModel,
        pixels: NDArray[np.uint8],
        probabilities: NDArray[np.float32],
        unlike: NDArray[np.bool_] | None,
    ) -> None:
        """Count a batch of classified images; arguments of an `Observer`."""
        names = model.predictor.class_names
        if model.drift is not None:
            model.drift.add(pixels, probabilities, unlike)
        if unlike is not None:
            self.unlike.inc(int(unlike.sum()))
        self.batches.observe(len(probabilities))
        self.images.labels("classified").inc(len(probabilities))
        for class_id, count in Tally(probabilities.argmax(1).tolist()).items():
            self.classes.labels(names[class_id]).inc(count)
        for confidence in probabilities.max(1).tolist():
            self.confidence.observe(confidence)

    def observe_load(self, model: ServedModel | None) -> None:
        """Count a model that has been loaded, or with None one that could not be."""
        self.loads.labels("failed" if model is None else "loaded").inc()
        if model is None:
            return
        labels = (model.name, model.version, model.weights_digest[:12])
        if self._labels not in (None, labels):
            self.model.labels(*self._labels).set(0)
        self.model.labels(*labels).set(1)
        self._labels = labels

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format, of all processes."""
        if METRICS_FOLDER not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)


CONTENT_TYPE: Mapping[str, str] = {"content-type": CONTENT_TYPE_LATEST}

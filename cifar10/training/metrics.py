"""Loss and metrics of the validation and test images: torchmetrics' classes, computed in double precision.

Shapes: B images in a batch, K classes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from cifar10.errors import UsageError
from cifar10.training.running_metrics import RunningMetrics
from cifar10.types import Metrics


class MetricSet(nn.Module):
    """The loss and several metrics of the same predictions.

    Args:
        metrics: Name -> metric; each is copied.
    """

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        super().__init__()
        self.loss = RunningMetrics()
        self.names = list(metrics)
        self.metrics = nn.ModuleList(metric.clone() for metric in metrics.values())

    def update(self, loss: Tensor, predictions: Tensor, targets: Tensor) -> None:
        """Add a batch: its mean loss, logits or probabilities (B, K), and class ids (B,)."""
        self.loss.add(loss, predictions, targets)
        for metric in self.metrics:
            metric.update(predictions, targets)  # type: ignore[operator]

    def compute(self, strategy: Any) -> Metrics:
        """Return the loss and each metric over all batches and processes since the last call."""
        loss = self.loss.means(strategy)["loss"]
        self.loss.clear()
        return {"loss": loss, **{name: _value(metric) for name, metric in zip(self.names, self.metrics, strict=True)}}  # type: ignore[arg-type]


def is_higher_better(monitor: str, metrics: Mapping[str, Metric]) -> bool:
    """Return whether a higher value of `monitor`, such as `val/f1`, is better.

    Args:
        monitor: val/loss, val/accuracy, or val/NAME of one of `metrics`.
        metrics: Name -> metric.

    Raises:
        UsageError: The metric does not define it.
    """
    name = monitor.removeprefix("val/")
    if name == "loss":
        return False
    is_higher = True if name == "accuracy" else metrics[name].higher_is_better
    if is_higher is None:
        kind = type(metrics[name]).__name__
        raise UsageError(
            f"training.monitor={monitor}: {kind} does not say whether a higher value is better; set its "
            "higher_is_better, or choose another metric"
        )
    return is_higher


def default_metrics(num_classes: int) -> dict[str, Metric]:
    """Return the metrics that are always computed."""
    return {"accuracy": MulticlassAccuracy(num_classes, average="micro", validate_args=False)}


def _value(metric: Metric) -> float:
    for name, state in metric.metric_state.items():  # counts are int64, and quotients would be float32
        if isinstance(state, Tensor) and not state.is_floating_point():
            setattr(metric, name, state.to(torch.float64))
    value = float(metric.compute())
    metric.reset()
    return value

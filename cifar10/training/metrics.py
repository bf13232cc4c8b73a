"""Running loss and accuracy of training; loss and torchmetrics' metrics of other images; all in double precision.

Shapes: B images in a batch, K classes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from cifar10.errors import UsageError
from cifar10.types import Metrics

_MOST_PENDING = 64  # batches


class RunningMetrics:
    """Sums over the images since the last `clear`, in double precision, batch by batch.

    On a CPU, where counting takes a tenth of a millisecond, batches are kept and many are counted at a time. A GPU
    counts each batch at once: the next batch overwrites the output of a captured graph.

    The sums are no buffers: data-parallel training overwrites those with the ones of process zero.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self._sums = torch.zeros(2, dtype=torch.float64)  # losses, correct images
        self._images = 0

    def add(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: its mean `loss`, `logits` (B, K), and `targets`, (B,) or (B, K)."""
        self._pending.append((loss.detach(), logits.detach(), targets))
        if len(self._pending) >= _MOST_PENDING or loss.is_cuda:
            self._count()

    def sums(self) -> list[float]:
        """Return summed loss, correct images, and images. Synchronises with the device."""
        self._count()
        return [*self._sums.tolist(), float(self._images)]

    def restore(self, sums: list[float]) -> None:
        """Continue from the return value of `sums`."""
        self.clear()
        self._sums, self._images = torch.tensor(sums[:2], dtype=torch.float64), int(sums[2])

    def means(self, strategy: Any = None) -> Metrics:
        """Return loss and accuracy over all processes of Lightning's `strategy`; None: of this process."""
        sums = self.sums()
        if strategy is not None:
            tensor = torch.tensor(sums, dtype=torch.float64, device=strategy.root_device)
            sums = strategy.reduce(tensor, reduce_op="sum").tolist()
        loss, correct, images = sums
        return {"loss": loss / max(images, 1), "accuracy": correct / max(images, 1)}

    def _count(self) -> None:
        if not self._pending:
            return
        losses = [loss.double() * len(logits) for loss, logits, _ in self._pending]
        predicted = torch.cat([logits.argmax(dim=1) for _, logits, _ in self._pending])
        labels = torch.cat([y if y.ndim == 1 else y.argmax(dim=1) for _, _, y in self._pending])
        if self._sums.device != predicted.device:  # once after `clear`
            self._sums = self._sums.to(predicted.device)
        for loss in losses:
            self._sums[0].add_(loss)
        self._sums[1].add_((predicted == labels).sum())
        self._images += len(predicted)
        self._pending = []


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
            f"training.monitor={monitor}: {kind} does not define whether a higher value is better; set its "
            "higher_is_better, or choose another metric"
        )
    return is_higher


def _value(metric: Metric) -> float:
    for name, state in metric.metric_state.items():  # counts are int64, and quotients would be float32
        if isinstance(state, Tensor) and not state.is_floating_point():
            setattr(metric, name, state.to(torch.float64))
    value = float(metric.compute())
    metric.reset()
    return value

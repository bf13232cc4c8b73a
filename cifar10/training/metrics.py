"""Running loss and accuracy of training; loss and torchmetrics' metrics of other images; all in double precision.

Shapes: B images in a batch, K classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from cifar10.errors import UsageError
from cifar10.types import QUARTILES, Metrics

_MOST_PENDING = 64  # batches
_NAMES = ("loss", "accuracy")


class RunningMetrics:
    """Sums over the images since the last `clear`, in double precision, batch by batch.

    On a CPU, where counting takes a tenth of a millisecond, batches are kept and many are counted at a time. A GPU
    counts each batch at once: the next batch overwrites the output of a captured graph.

    The sums are no buffers: data-parallel training overwrites those with the ones of process zero.

    Args:
        keeps_batches: Also keep the loss and accuracy of each batch, for `quartiles`.
    """

    def __init__(self, keeps_batches: bool = False) -> None:
        self.keeps_batches = keeps_batches
        self.clear()

    def clear(self) -> None:
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self._sums = torch.zeros(2, dtype=torch.float64)  # losses, correct images
        self._images = 0
        self._batches: list[Tensor] = []

    def add(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: its mean `loss`, `logits` (B, K), and `targets`, (B,) or (B, K)."""
        self._pending.append((loss.detach(), logits.detach(), targets))
        if len(self._pending) >= _MOST_PENDING or loss.is_cuda:
            self._count()

    def sums(self) -> list[float]:
        """Return summed loss, correct images, and images. Synchronises with the device."""
        self._count()
        return [*self._sums.tolist(), float(self._images)]

    def batches(self) -> Tensor:
        """Return loss and accuracy of each batch that was kept, float64 (2, batches)."""
        self._count()
        return torch.cat([torch.zeros(2, 0, dtype=torch.float64), *(part.cpu() for part in self._batches)], dim=1)

    def restore(self, sums: list[float], batches: Sequence[Sequence[float]] = ((), ())) -> None:
        """Continue from the return values of `sums` and `batches`."""
        self.clear()
        self._sums, self._images = torch.tensor(sums[:2], dtype=torch.float64), int(sums[2])
        self._batches = [torch.tensor(batches, dtype=torch.float64)]

    def quartiles(self) -> Metrics:
        """Return the quartiles of loss and accuracy over the batches of this process: `loss_25`, `loss_50`, ...

        An empty dictionary if no batch was kept.
        """
        batches = self.batches()
        if not batches.shape[1]:
            return {}
        parts = torch.tensor(QUARTILES, dtype=torch.float64) / 100
        of_each = batches.quantile(parts, dim=1).T.tolist()  # (2, quartiles)
        return {
            f"{name}_{percent}": value
            for name, values in zip(_NAMES, of_each, strict=True)
            for percent, value in zip(QUARTILES, values, strict=True)
        }

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
        is_right = predicted == labels
        if self.keeps_batches:
            means = [part.double().mean() for part in is_right.split([len(logits) for _, logits, _ in self._pending])]
            each = [loss.double() for loss, _, _ in self._pending]
            self._batches.append(torch.stack([torch.stack(each), torch.stack(means)]))
        if self._sums.device != predicted.device:  # once after `clear`
            self._sums = self._sums.to(predicted.device)
        for loss in losses:
            self._sums[0].add_(loss)
        self._sums[1].add_(is_right.sum())
        self._images += len(predicted)
        self._pending = []


class MetricSet(nn.Module):
    """Loss, accuracy and further metrics of the same predictions.

    Args:
        metrics: Name -> further metric; each is copied.
        keeps_batches: Also return the quartiles of loss and accuracy over the batches.
    """

    def __init__(self, metrics: Mapping[str, Metric], keeps_batches: bool = False) -> None:
        super().__init__()
        self.sums = RunningMetrics(keeps_batches)
        self.names = list(metrics)
        self.metrics = nn.ModuleList(metric.clone() for metric in metrics.values())

    def update(self, loss: Tensor, predictions: Tensor, targets: Tensor) -> None:
        """Add a batch: its mean loss, logits or probabilities (B, K), and class ids (B,)."""
        self.sums.add(loss, predictions, targets)
        for metric in self.metrics:
            metric.update(predictions, targets)  # type: ignore[operator]

    def compute(self, strategy: Any) -> Metrics:
        """Return loss, accuracy and each metric over all batches and processes since the last call."""
        means, quartiles = self.sums.means(strategy), self.sums.quartiles()
        self.sums.clear()
        values = {name: _value(metric) for name, metric in zip(self.names, self.metrics, strict=True)}  # type: ignore[arg-type]
        return {**means, **values, **quartiles}


def own_sums(of_processes: Sequence[list[float]], rank: int, num_processes: int) -> list[float]:
    """Return the sums that a process goes on from, so that every image of an interrupted epoch is counted once.

    Args:
        of_processes: Return values of `RunningMetrics.sums` in the processes that were interrupted.
        rank: Number of this process.
        num_processes: Their number now. If there were as many, each has its own sums again, else the first has all.
    """
    if len(of_processes) == num_processes:
        return of_processes[rank]
    return [sum(values) if rank == 0 else 0.0 for values in zip(*of_processes, strict=True)]


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

"""One training step: resize, select examples, forward, loss; after the backward pass clip, optimizer and schedule.

Imports torch only, so that a plain training loop can use it as well as the Lightning module.
Shapes: B images in a micro-batch, b of them selected, K classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR

from cifar10.devices import cross_entropy_on_gpu, has_gpu_kernels
from cifar10.training.batches import Batch
from cifar10.training.freezing import Freezing
from cifar10.training.hard_example_mining import AllExamples, ExampleSelection
from cifar10.training.resizing import pixels_at, resize

if TYPE_CHECKING:
    from cifar10.config.schema import ResizingStage


class Forward(NamedTuple):
    """The result of a forward pass for training."""

    loss: Tensor
    """The mean over the selected images, ()."""
    logits: Tensor
    """float32 (b, K)."""
    targets: Tensor
    """int64 (b,), or float (b, K)."""


@dataclass(frozen=True, eq=False)
class TrainingStep:
    """The forward half of a training step.

    Args:
        network: (B, 3, H, W) -> logits (B, K).
        selection: Selects the images of a micro-batch to train on.
        resizing: Stages of training with smaller images.
        label_smoothing: In [0, 1].
        freezing: Freezes a part of the network for some of the steps; None: nothing is frozen.
    """

    network: Callable[[Tensor], Tensor]
    selection: ExampleSelection
    resizing: "Sequence[ResizingStage]"
    label_smoothing: float
    freezing: Freezing | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the loss is the mean cross-entropy of all images as they are, and the whole network learns."""
        adds = self.resizing or self.label_smoothing or self.freezing is not None
        return isinstance(self.selection, AllExamples) and isinstance(self.network, nn.Module) and not adds

    def set_progress(self, progress: float) -> None:
        """Set what depends on `progress` of all steps, in [0, 1], and is no operation on the device."""
        self.selection.set_progress(progress)
        if self.freezing is not None:
            self.freezing.set_progress(progress)

    def forward(self, batch: Batch, number: int, progress: float) -> Forward:
        """Return the loss of micro-batch `number` of the epoch. Call `set_progress` with `progress` before."""
        images, targets = batch
        has_programs = isinstance(self.network, nn.Module) and has_gpu_kernels(self.network)
        images = resize(images, pixels_at(progress, self.resizing, images.shape[-1]), has_programs)
        images, targets = self.selection.choose((images, targets), number, self.label_smoothing)
        logits = self.network(images).float()
        if logits.is_cuda and targets.ndim == 1 and has_programs:
            loss = cross_entropy_on_gpu(logits, targets, self.label_smoothing)
        else:
            loss = cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        return Forward(loss, logits, targets)


def make_scheduler(optimizer: torch.optim.Optimizer, schedule: Callable[[float], float], num_steps: int) -> LambdaLR:
    """Return a scheduler that multiplies the learning rate of each of `num_steps` steps by `schedule`."""
    return LambdaLR(optimizer, lambda step: schedule(min(step / num_steps, 1.0)))


def update(optimizer: torch.optim.Optimizer, scheduler: LambdaLR, gradient_clip: float | None = None) -> None:
    """Update the weights by the accumulated gradients: the second half of a training step.

    Args:
        optimizer: Optimizer of the network.
        scheduler: Scheduler of its learning rate.
        gradient_clip: Largest 2-norm of the whole gradient; None: no limit.
    """
    apply_gradients(optimizer, gradient_clip)
    scheduler.step()


def apply_gradients(optimizer: torch.optim.Optimizer, gradient_clip: float | None = None) -> None:
    """Update the weights and drop the gradients. Launches the same operations each time, as a CUDA graph needs."""
    if gradient_clip is not None:
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], gradient_clip)
    optimizer.step()
    optimizer.zero_grad()

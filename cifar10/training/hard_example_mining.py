"""Hard-example mining: train on all images of a micro-batch, or on those with the largest loss in a small network.

Images that are already classified well contribute little and cost as much. A much smaller network finds the hard ones,
without a forward pass of the main network, and is trained only every few micro-batches. Sources: Keller Jordan's
airbench96_faster (https://github.com/KellerJordan/cifar10-airbench); "Selection via Proxy",
https://arxiv.org/abs/1906.11829.

Shapes: B images in a micro-batch, K classes.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Annotated, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cifar10.networks.speed import SpeedNet
from cifar10.training.batches import Batch
from cifar10.types import Length, PositiveInt, Range

_LOSS_SCALE = 1024.0  # keeps gradients in float16 from vanishing; a power of two changes no bit of larger types

State = dict[str, Any]
MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]
"""Network -> optimizer of its parameters."""


class ExampleSelection(Protocol):
    """Selects the images to train on; may itself be trained."""

    networks: Sequence[nn.Module]
    """Its networks, which are calibrated and compiled like the main network."""
    optimizers: Sequence[torch.optim.Optimizer]
    """Those of its networks; empty before `begin`."""

    def begin(self, device: torch.device, make_optimizer: MakeOptimizer, schedule: Callable[[float], float]) -> None:
        """Prepare for training on `device`, with the optimizer and schedule of the main network."""

    def set_progress(self, progress: float) -> None:
        """Set learning rates for a step at `progress` of all steps in [0, 1]. Call it before `choose`."""

    def choose(self, batch: Batch, number: int, label_smoothing: float) -> Batch:
        """Return the selected part of micro-batch `number` of an epoch."""

    def phase(self, number: int) -> int:
        """Return which sequence of operations `choose` makes of micro-batch `number`."""

    def state_dict(self) -> State:
        """Return the state from which a resumed run selects the same; tensors and plain values."""

    def load_state_dict(self, state: State) -> None:
        """Restore a return value of `state_dict`; call it after `begin`."""


class AllExamples:
    """Train on every image."""

    networks: Sequence[nn.Module] = ()
    optimizers: Sequence[torch.optim.Optimizer] = ()

    def begin(self, device: torch.device, make_optimizer: MakeOptimizer, schedule: Callable[[float], float]) -> None:
        pass

    def set_progress(self, progress: float) -> None:
        pass

    def choose(self, batch: Batch, number: int, label_smoothing: float) -> Batch:
        return batch

    def phase(self, number: int) -> int:
        return 0

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        pass


class HardExampleMining:
    """Train on the images of each micro-batch with the largest loss in a small network.

    The small network is a separate `SpeedNet`. It is trained on the selected images of every few micro-batches, with an
    optimizer and a schedule like the main network's. Several processes select from their own shares and average its
    gradients.

    Args:
        num_classes: K.
        image_size: H = W in pixels.
        part: Fraction of each micro-batch to select.
        every: Train the small network on every `every`-th micro-batch.
        widths: Channels of its three groups.
    """

    def __init__(
        self,
        num_classes: PositiveInt,
        image_size: PositiveInt,
        part: Annotated[float, Range(gt=0, lt=1)] = 0.5,
        every: PositiveInt = 4,
        widths: Annotated[list[PositiveInt], Length(3, 3)] = [32, 64, 64],  # noqa: B006
    ) -> None:
        self.network = SpeedNet(num_classes, image_size, widths)
        self.networks: Sequence[nn.Module] = [self.network]
        self.optimizers: Sequence[torch.optim.Optimizer] = ()
        self.part = part
        self.every = every

    def begin(self, device: torch.device, make_optimizer: MakeOptimizer, schedule: Callable[[float], float]) -> None:
        self.network.to(device).train()
        self._optimizer, self._schedule = make_optimizer(self.network), schedule
        self.optimizers = [self._optimizer]
        self._highest_rates = [group["lr"] for group in self._optimizer.param_groups]

    def set_progress(self, progress: float) -> None:
        for group, highest in zip(self._optimizer.param_groups, self._highest_rates, strict=True):
            group["lr"] = highest * self._schedule(progress)

    def choose(self, batch: Batch, number: int, label_smoothing: float) -> Batch:
        images, targets = batch
        with torch.no_grad():
            logits = self.network(images).float()
            losses = cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)  # (B,)
        hardest = losses.topk(self.num_chosen(len(images))).indices.sort().values
        images, targets = images[hardest], targets[hardest]
        if self.phase(number):
            self._train(images, targets, label_smoothing)
        return images, targets

    def phase(self, number: int) -> int:
        """Return 1 if the small network is trained on micro-batch `number`, else 0."""
        return int(number % self.every == 0)

    def num_chosen(self, num_images: int) -> int:
        """Return how many of `num_images` are selected."""
        return max(1, round(self.part * num_images))

    def state_dict(self) -> State:
        return {"network": self.network.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: State) -> None:
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _train(self, images: Tensor, targets: Tensor, label_smoothing: float) -> None:
        loss = cross_entropy(self.network(images).float(), targets, label_smoothing=label_smoothing)
        (_LOSS_SCALE * loss).backward()
        gradients = [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]
        torch._foreach_div_(gradients, _LOSS_SCALE)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for gradient in gradients:
                torch.distributed.all_reduce(gradient)
            torch._foreach_div_(gradients, float(torch.distributed.get_world_size()))
        device_type = images.device.type
        is_known = torch.amp.is_autocast_available(device_type)  # "meta" is not, which counts costs
        with torch.autocast(device_type, enabled=False) if is_known else nullcontext():
            self._optimizer.step()
        self._optimizer.zero_grad()

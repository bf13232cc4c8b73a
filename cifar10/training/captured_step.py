"""A whole optimizer step on a GPU as one CUDA graph: resize, forward, loss, backward, optimizer.

A step of a small network is some hundred kernels of a few microseconds each. A GPU computes them faster than Python
launches them. A graph is captured once for each size of images and each phase of the selection of examples, and
launched as a whole after that.

Shapes: B images in a batch, b of them selected, K classes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cifar10.devices import gpu_optimizer, kernels_for_gpu
from cifar10.training.batches import Batch
from cifar10.training.resizing import pixels_at
from cifar10.training.step import Forward, TrainingStep, apply_gradients

_WARM_UPS = 3  # steps in which PyTorch compiles, cuDNN chooses its kernels, and the optimizer makes its state


def can_capture(step: TrainingStep, optimizer: torch.optim.Optimizer, micro_batches: int) -> bool:
    """Whether a step of a size of images and a phase of the selection does the same operations every time.

    Args:
        step: The forward half of a step.
        optimizer: Sets `is_capturable` if it reads learning rates from tensors on the device, and uses `programs`.
        micro_batches: Per optimizer step.
    """
    optimizers = [optimizer, *step.selection.optimizers]
    are_capturable = all(getattr(each, "is_capturable", False) for each in optimizers)
    return are_capturable and step.freezing is None and micro_batches == 1


class CapturedStep:
    """Makes optimizer steps on batches of one shape by launching CUDA graphs.

    Args:
        step: The forward half of a step; see `can_capture`. Its selection has begun.
        network: The module that it trains.
        optimizer: Its optimizer. Learning rates are read from its groups at each step, everything else when a graph is
            captured.
        forward_context: Makes the context of the forward pass, for mixed precision. Must not cache converted weights.
        gradient_clip: Largest 2-norm of the whole gradient; None: no limit.
    """

    def __init__(
        self,
        step: TrainingStep,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        forward_context: Callable[[], AbstractContextManager[None]],
        gradient_clip: float | None = None,
    ) -> None:
        self.step = step
        self.network = network
        self.optimizer = optimizer
        self.forward_context = forward_context
        self.gradient_clip = gradient_clip
        self._networks = [network, *step.selection.networks]
        self._optimizers = [optimizer, *step.selection.optimizers]
        if kernels_for_gpu():
            for each in self._optimizers:
                each.programs = gpu_optimizer()  # type: ignore[attr-defined]
        self._rates: list[Tensor] = []
        self._inputs: Batch | None = None
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Forward]] = {}

    def __call__(self, batch: Batch, number: int, progress: float) -> Forward:
        """Train on `batch`, the micro-batch `number` of the epoch, at `progress` of all steps in [0, 1].

        Returns:
            Its result, in tensors that a later call overwrites.
        """
        images, targets = batch
        if self._inputs is None:
            self._inputs = _like(images), _like(targets)
            self._rates = [torch.zeros((), device=images.device) for _ in self._groups()]
        for own, given in zip(self._inputs, batch, strict=True):
            own.copy_(given)
        self.step.set_progress(progress)
        for rate, group in zip(self._rates, self._groups(), strict=True):
            rate.fill_(group["lr"])
        kind = pixels_at(progress, self.step.resizing, images.shape[-1]), self.step.selection.phase(number)
        if kind not in self._graphs:
            self._graphs[kind] = self._capture(self._inputs, number, progress)
        graph, forward = self._graphs[kind]
        graph.replay()
        return forward

    def _capture(self, inputs: Batch, number: int, progress: float) -> tuple[torch.cuda.CUDAGraph, Forward]:
        """Return a graph of a step on `inputs`, and where it leaves its result; the weights stay as they are."""
        pool = next((graph.pool() for graph, _ in self._graphs.values()), None)
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with self._rates_on_device():
            with self._undone(), torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    self._make_step(inputs, number, progress)
            with torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
                forward = self._make_step(inputs, number, progress)
        return graph, forward

    def _make_step(self, inputs: Batch, number: int, progress: float) -> Forward:
        with self.forward_context():
            forward = self.step.forward(inputs, number, progress)
        forward.loss.backward()
        apply_gradients(self.optimizer, self.gradient_clip)
        return Forward(*(tensor.detach() for tensor in forward))

    @contextmanager
    def _rates_on_device(self) -> Iterator[None]:
        """Let the optimizers read their learning rates on the device."""
        groups = self._groups()
        rates = [group["lr"] for group in groups]
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate
        try:
            yield
        finally:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """Restore networks and optimizers at the end. New state of an optimizer becomes zero, which it starts with."""
        torch.cuda.synchronize()
        before = {tensor: tensor.detach().clone() for tensor in self._state()}
        yield
        torch.cuda.synchronize()
        with torch.no_grad():
            for tensor in self._state():
                if tensor in before:
                    tensor.copy_(before[tensor])
                else:
                    tensor.zero_()

    def _groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups of all optimizers, which a restored state exchanges."""
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]

    def _state(self) -> Sequence[Tensor]:
        tensors: list[Any] = []
        for network in self._networks:
            tensors += [*network.parameters(), *network.buffers()]
        for optimizer in self._optimizers:
            tensors += [value for state in optimizer.state.values() for value in state.values()]
        return [tensor for tensor in tensors if isinstance(tensor, Tensor)]


def _like(tensor: Tensor) -> Tensor:
    """Return a tensor like `tensor`, without gaps; images are laid out as channels_last."""
    memory_format = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
    return torch.empty_like(tensor, memory_format=memory_format)

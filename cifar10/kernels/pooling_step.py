"""Loss and gradients of a network of the pooling laboratory without autograd, for training steps of a millisecond.

The kernels and operators are those that autograd calls, with the same arguments, so loss and gradients are the same bit
by bit. What is left out is the work around them: a graph, modules, contexts, and new memory for each result.

Shapes: B images, K classes, E numbers behind the last convolution.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from cifar10.kernels.jit import PreparedCall
from cifar10.kernels.pooling_backward import backward_kernel
from cifar10.kernels.pooling_forward import forward_kernel
from cifar10.kernels.pooling_network import (
    PACKED,
    FusedAveragePoolCNN,
    FusedMaxPoolCNN,
    FusedPoolingCNN,
    FusedStrideCNN,
    Memory,
    are_images_supported,
    is_network_supported,
    is_packed,
    parameters_of,
    scale_and_offset,
    shapes_of_network,
)
from cifar10.kernels.pooling_packing import (
    FLOATS_OF_TILE,
    are_channels_last,
    from_memory_order,
    in_memory_order,
    packing_of,
)

_MEAN, _NO_CLASS = 1, -100  # of PyTorch's operators: how losses are reduced, and the label that is left out


def direct_gradients(network: torch.nn.Module) -> "DirectGradients | None":
    """Return what computes gradients of `network`; None if the kernels do not, as outside of autocast."""
    kinds = FusedStrideCNN, FusedMaxPoolCNN, FusedAveragePoolCNN
    if isinstance(network, kinds) and is_network_supported(network) and _lie_in_one_order(parameters_of(network)):
        return DirectGradients(network)
    return None


def _lie_in_one_order(parameters: Sequence[Tensor]) -> bool:
    return are_channels_last(parameters) or all(parameter.is_contiguous() for parameter in parameters)


class DirectGradients:
    """Computes the mean cross-entropy of batches, and sets the gradients of all parameters.

    Args:
        network: Supported by the kernels. All its parameters are trained.
    """

    def __init__(self, network: FusedPoolingCNN) -> None:
        self.network = network
        self._prepared: _Prepared | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the loss, (), and the logits, (B, K); None, and nothing is set, if the batch is not supported.

        Args:
            images: uint8 (B, 3, S, S), with each pixel in four bytes.
            labels: int64 (B,).
        """
        if not (are_images_supported(images) and is_packed(images) and labels.ndim == 1):
            return None
        if self._prepared is None or not self._prepared.fits(images):
            self._prepared = _Prepared(self.network, len(images))
        return self._prepared(images, labels)


class _Prepared:
    """Memory and calls for batches of B images, as long as the parameters stay where they are."""

    def __init__(self, network: FusedPoolingCNN, num_images: int) -> None:
        shapes, convolutions, head = shapes_of_network(network), parameters_of(network), network.head
        self.num_images, self.num_threads = num_images, torch.get_num_threads()
        self.parameters = [*convolutions, head.weight, head.bias]
        self.addresses = [parameter.data_ptr() for parameter in self.parameters]
        self.head = head.weight.detach(), head.bias.detach()
        is_channels_last = are_channels_last(convolutions)
        self.packing = packing = packing_of(shapes, is_channels_last)
        self.sources = [in_memory_order(p.detach(), is_channels_last) for p in convolutions] + [packing.zero]
        self.numbers = torch.empty(sum(map(len, self.sources)))
        self.halves = torch.empty_like(self.numbers, dtype=torch.bfloat16)
        self.places = torch.cat([packing.forward, packing.backward])
        self.filters = torch.empty(len(self.places), dtype=torch.bfloat16)
        self.biases = torch.empty(len(packing.biases))
        self.features = torch.empty(num_images, head.in_features)
        self.of_features = torch.empty_like(self.features)
        num_tile_numbers = shapes.gradient_tiles * FLOATS_OF_TILE
        self.sums = torch.empty(self.num_threads * (num_tile_numbers + len(packing.biases)))
        self.parts = self.sums.split([self.num_threads * num_tile_numbers, self.num_threads * len(packing.biases)])
        self.gradients, self.of_parameters = _gradients(convolutions, is_channels_last)
        self.of_parameters += [torch.empty_like(head.weight), torch.empty_like(head.bias)]
        self.one = torch.ones(())
        maps = Memory.of(shapes, num_images).maps
        of_forward, of_backward = self.filters.split([len(packing.forward), len(packing.backward)])
        constants = 0, scale_and_offset(network.normalize), packing.configuration
        forward, backward = forward_kernel(shapes, PACKED), backward_kernel(shapes, PACKED)
        results = self.features, self.of_features, *self.parts
        self.forward = PreparedCall(
            forward, self.num_threads, [*constants, of_forward, self.biases, *maps, self.features]
        )
        arguments = [*constants, of_backward, *maps, *results]
        self.backward = PreparedCall(backward, self.num_threads, arguments, num_shares=self.num_threads)

    def fits(self, images: Tensor) -> bool:
        return (
            len(images) == self.num_images
            and torch.get_num_threads() == self.num_threads
            and [parameter.data_ptr() for parameter in self.parameters] == self.addresses
        )

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        torch.cat(self.sources, out=self.numbers)
        self.halves.copy_(self.numbers)
        torch.index_select(self.halves, 0, self.places, out=self.filters)
        torch.index_select(self.numbers, 0, self.packing.biases, out=self.biases)
        self.forward.replace(0, images.data_ptr())
        self.forward.run(self.num_images)
        loss, logits = self._through_head(labels)
        self.sums.zero_()
        self.backward.replace(0, images.data_ptr())
        self.backward.run(self.num_images)
        torch.index_select(self._over_threads(), 0, self.packing.gradients, out=self.gradients)
        for parameter, gradient in zip(self.parameters, self.of_parameters, strict=True):
            parameter.grad = gradient
        return loss, logits

    def _through_head(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return loss and logits; write the gradients of the head's parameters and of the features."""
        weight, bias = self.head
        operators = torch.ops.aten
        logits = linear(self.features, weight, bias)
        logarithms = torch.log_softmax(logits, dim=1)
        loss, total = operators.nll_loss_forward(logarithms, labels, None, _MEAN, _NO_CLASS)
        of_loss = operators.nll_loss_backward(self.one, logarithms, labels, None, _MEAN, _NO_CLASS, total)
        of_logits = operators._log_softmax_backward_data(of_loss, logarithms, 1, logits.dtype)
        torch.mm(of_logits, weight, out=self.of_features)
        torch.mm(of_logits.t(), self.features, out=self.of_parameters[-2])
        torch.sum(of_logits, dim=0, out=self.of_parameters[-1])
        return loss, logits

    def _over_threads(self) -> Tensor:
        """Return the gradients in tiles and those of the biases, one after the other, summed over the threads."""
        if self.num_threads == 1:
            return self.sums
        return torch.cat([part.view(self.num_threads, -1).sum(dim=0) for part in self.parts])


def _gradients(parameters: Sequence[Tensor], is_channels_last: bool) -> tuple[Tensor, list[Tensor]]:
    """Return memory for the gradients of all parameters, one after the other, and the gradient of each in it."""
    sizes = [parameter.numel() for parameter in parameters]
    numbers = torch.empty(sum(sizes))
    parts = zip(numbers.split(sizes), parameters, strict=True)
    return numbers, [from_memory_order(part, parameter.shape, is_channels_last) for part, parameter in parts]

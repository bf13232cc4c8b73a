"""The head of a network: its last layer, from embeddings to logits.

Shapes: B images of H x W pixels, E numbers in an embedding, K classes.
"""

import torch
from torch import Tensor, nn


def find_head(network: nn.Module, num_classes: int) -> tuple[str, nn.Module]:
    """Return the last linear layer or 1 x 1 convolution with `num_classes` outputs, and its dotted name.

    Raises:
        ValueError: There is none.
    """
    found = [(name, layer) for name, layer in network.named_modules() if _num_outputs(layer) == num_classes]
    if not found:
        raise ValueError(f"{type(network).__name__} has no layer with {num_classes} outputs")
    return found[-1]


def head_parameters(network: nn.Module, num_classes: int) -> list[str]:
    """Return the names of the parameters of the head, such as `network.fc.weight`."""
    head_name, head = find_head(network, num_classes)
    return [f"{head_name}.{name}" for name, _ in head.named_parameters()]


@torch.no_grad()
def embed(network: nn.Module, images: Tensor, num_classes: int) -> Tensor:
    """Return the input of the head, averaged over positions if it is a feature map, as float (B, E).

    Args:
        network: In evaluation mode.
        images: uint8 (B, 3, H, W).
        num_classes: K, which identifies the head.
    """
    captured: list[Tensor] = []
    _, head = find_head(network, num_classes)
    handle = head.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
    try:
        network(images)
    finally:
        handle.remove()
    features = captured[-1]
    return features.mean(dim=(2, 3)) if features.ndim == 4 else features


def _num_outputs(layer: nn.Module) -> int | None:
    if isinstance(layer, nn.Linear):
        return layer.out_features
    is_pointwise = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)
    return layer.out_channels if is_pointwise else None  # type: ignore[return-value]

"""How much faster than PyTorch's are our own CPU kernels, layer by layer and in a whole step, and how far off?

    python benchmarks/kernels.py [--rounds 7] [--images 500]

Each layer of the default network, forward and backward, by PyTorch and converted by cifar10.kernels, in turn, in
float32, and in bfloat16 under autocast where the CPU has instructions for it; the error is the largest of results and
gradients against PyTorch in float64, as a part of the exact ones, both as root mean squares. Then whole training steps,
loss and optimizer included, at the sizes of the default recipe's two stages.
"""

import argparse
import functools
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from measuring import in_turn, ratio, table, write_results
from torch import Tensor, nn
from torch.nn import functional

from cifar10.config.build import build
from cifar10.config.compose import load_config
from cifar10.config.targets import MODEL, OPTIMIZER
from cifar10.devices import computes_bf16
from cifar10.kernels import convert, is_available, revert
from cifar10.networks.layers import Conv3x3, ConvPool
from cifar10.networks.speed import SpeedNet
from cifar10.system.memory import keep_memory_warm

_CONVOLUTIONS = [
    (24, 64, 31, True),
    (64, 64, 15, False),
    (64, 256, 15, True),
    (256, 256, 7, False),
    (256, 256, 7, True),
    (256, 256, 3, False),
]
"""The default network's at 32 pixels: channels in, channels out, pixels a side, whether pooled."""
_NORMS = [(64, 15), (256, 7), (256, 3)]
_STEP_SIZES = (24, 32)
_ERROR_IMAGES = 50


class Way(NamedTuple):
    """How something is computed."""

    kernels: bool
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{'ours' if self.kernels else 'library'} {_SHORT[self.dtype]}"

    def autocast(self) -> torch.autocast:
        """Return the context to compute in."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16)


_SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16"}
_DTYPES = list(_SHORT) if computes_bf16(torch.device("cpu")) else [torch.float32]
WAYS = [Way(kernels, dtype) for dtype in _DTYPES for kernels in (False, True)]
_COMPARED = [(own, theirs) for own, theirs in itertools.combinations(reversed(WAYS), 2) if own.kernels]
"""Each of ours with all before it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=500, help="a batch of them")
    arguments = parser.parse_args()
    keep_memory_warm()
    if not is_available():
        raise SystemExit("there are no kernels here: they need llvmlite, and PyTorch with GNU's OpenMP")
    layers = {name: measure_layer(make, arguments) for name, make in layers_of_network().items()}
    steps = {f"step at {pixels} pixels": measure_step(pixels, arguments) for pixels in _STEP_SIZES}
    head = ["what", *(f"{way}, us an image" for way in WAYS), *(f"{own} / {theirs}" for own, theirs in _COMPARED)]
    body = [
        f"Forward and backward together, batches of {arguments.images} images, {torch.get_num_threads()} threads. "
        f"Medians of {arguments.rounds} rounds, in brackets the range. In bf16, features and gradients of a layer are "
        "converted from fp32 within that time.",
        "",
        *table(head, [line(name, found) for name, found in {**layers, **steps}.items()]),
        "",
        "Relative errors. Those of pooled layers are mostly of the few squares whose largest pixel is another one "
        "after rounding.",
        "",
        *table(["what", *map(str, WAYS)], [[name, *error_cells(found)] for name, found in layers.items()]),
    ]
    write_results("kernels", "Our CPU kernels against the library's", body, {"layers": layers, "steps": steps})


def layers_of_network() -> dict[str, Callable[[], tuple[nn.Module, tuple[int, int, int]]]]:
    """Return name -> a function that makes a layer and says what its features are shaped like."""
    layers: dict[str, Callable[[], tuple[nn.Module, tuple[int, int, int]]]] = {}
    for number, (before, after, side, pooled) in enumerate(_CONVOLUTIONS, 1):
        name = f"convolution {number}: {before} to {after} channels, {side} pixels{', pooled' if pooled else ''}"
        kind = ConvPool if pooled else Conv3x3
        layers[name] = lambda k=kind, a=before, b=after, s=side: (k(a, b), (a, s, s))  # type: ignore[misc]
    for channels, side in _NORMS:
        name = f"normalise and activate: {channels} channels, {side} pixels"
        layers[name] = lambda c=channels, s=side: (norm_of_network(c), (c, s, s))  # type: ignore[misc]
    return layers


def norm_of_network(channels: int) -> nn.Module:
    """Return a normalisation as the default network has it."""
    return SpeedNet(num_classes=2, image_size=32, widths=[channels] * 3).get_submodule("groups.0.norm1")


def measure_layer(make: Callable[[], tuple[nn.Module, tuple[int, int, int]]], arguments: Any) -> dict[str, Any]:
    """Return microseconds an image of each round, and the errors."""
    torch.manual_seed(0)
    layer, shape = make()
    layer = layer.to(memory_format=torch.channels_last).train()
    features = functional.silu(torch.randn(arguments.images, *shape))
    features = features.contiguous(memory_format=torch.channels_last).requires_grad_()
    gradient = torch.randn_like(layer(features))
    learnt = [features, *layer.parameters()]

    def both_ways(way: Way) -> None:
        with way.autocast():
            results = layer(features.to(way.dtype))
        torch.autograd.grad(results, learnt, gradient.to(results.dtype))

    return {**compare(layer, both_ways, arguments), "errors": errors(layer, features.detach(), gradient)}


def measure_step(pixels: int, arguments: Any) -> dict[str, Any]:
    """Return microseconds an image of each round, for a step of the default network and optimizer."""
    torch.manual_seed(0)
    config = load_config([])
    network = build(MODEL, config.model, num_classes=10, image_size=pixels).to(memory_format=torch.channels_last)
    optimizer = build(OPTIMIZER, config.optimizer, network=network, params=network.parameters())
    images = torch.randint(0, 256, (arguments.images, 3, pixels, pixels), dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(arguments.images) % 10
    network.calibrate(images)

    def step(way: Way) -> None:
        with way.autocast():
            loss = functional.cross_entropy(network(images), labels, label_smoothing=0.2)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return compare(network, step, arguments)


def compare(network: nn.Module, work: Callable[[Way], object], arguments: Any) -> dict[str, Any]:
    """Return microseconds an image of `work`, which uses `network`, in each way, of each round."""

    def timed(way: Way) -> float:
        (convert if way.kernels else revert)(network)
        work(way)  # compiled, and memory at hand
        started = time.perf_counter()
        work(way)
        return 1e6 * (time.perf_counter() - started) / int(arguments.images)

    return dict(in_turn({str(way): functools.partial(timed, way) for way in WAYS}, arguments.rounds))


def errors(layer: nn.Module, features: Tensor, gradient: Tensor) -> dict[str, float]:
    """Return the largest of the errors of results and of each gradient, in each way."""
    exact = everything(layer.double(), Way(kernels=False, dtype=torch.float64), features, gradient)
    layer.float()
    found = {str(way): everything(layer, way, features, gradient) for way in WAYS}
    return {
        name: max(
            float(((own - true).square().mean() / true.square().mean()).sqrt())
            for own, true in zip(tensors, exact, strict=True)
        )
        for name, tensors in found.items()
    }


def everything(layer: nn.Module, way: Way, features: Tensor, gradient: Tensor) -> list[Tensor]:
    """Return the results of some images, and the gradients of features and parameters, in float64."""
    (convert if way.kernels else revert)(layer)
    given = features[:_ERROR_IMAGES].to(way.dtype).requires_grad_()
    with way.autocast():
        results = layer(given)
    towards = gradient[: len(given)].to(results.dtype)
    found = [results, *torch.autograd.grad(results, [given, *layer.parameters()], towards)]
    return [tensor.detach().double() for tensor in found]


def line(name: str, found: dict[str, Any]) -> list[str]:
    medians = (f"{statistics.median(found[str(way)]):.0f}" for way in WAYS)
    return [name, *medians, *(ratio(found[str(own)], found[str(theirs)]) for own, theirs in _COMPARED)]


def error_cells(found: dict[str, Any]) -> list[str]:
    return [f"{found['errors'][str(way)]:.0e}" for way in WAYS]


if __name__ == "__main__":
    main()

"""What work costs, counted and not timed: floating point operations, operator calls, new memory.

Counts are of what PyTorch's dispatcher sees. They are the same on every machine and in every run, and those of FLOPs
need no data: on the device "meta" tensors have shapes and no content, and every layer takes the library's path, for no
kernel of ours runs there. A kernel that is called past the dispatcher counts for nothing on other devices: switch it
off, or register it as an operator and say in `costs` what it takes.
"""

import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))

from cifar10.config.build import build
from cifar10.config.schema import Component, Config
from cifar10.config.targets import MODEL, OPTIMIZER, SELECTION
from cifar10.inference.tta import predict_probabilities
from cifar10.optimizers.schedules import Constant
from cifar10.training.batches import Batch
from cifar10.training.hard_example_mining import ExampleSelection
from cifar10.training.resizing import pixels_at

Costs = Mapping[Any, Callable[..., int]]
"""Operator, as torch.ops.NAMESPACE.NAME -> FLOPs, as a function of its arguments, each tensor given as its shape, and
of `out_shape`."""

_META = torch.device("meta")


def count_flops(work: Callable[[], object], costs: Costs | None = None) -> int:
    """Return the floating point operations of the matrix products and convolutions that `work` makes.

    A multiplication and an addition are two operations. What is padded counts; what is normalised, pooled, activated
    or added up does not, since moving it through memory takes longer than computing it.

    Args:
        work: Called once.
        costs: Of operators that PyTorch's own table lacks.
    """
    with FlopCounterMode(display=False, custom_mapping=dict(costs or {})) as counter:
        work()
    return int(counter.get_total_flops())


@dataclass(frozen=True)
class Calls:
    """What the dispatcher has been asked for."""

    operators: int
    """Calls of operators, views included."""
    allocations: int
    """Results in new memory; scratch within an operator is not seen."""
    allocated_bytes: int
    """Their size."""

    def __sub__(self, other: "Calls") -> "Calls":
        return Calls(
            self.operators - other.operators,
            self.allocations - other.allocations,
            self.allocated_bytes - other.allocated_bytes,
        )


def count_calls(work: Callable[[], object]) -> Calls:
    """Return the operator calls that `work` makes, of its backward passes too, and what new memory they return."""
    with _CallCounter() as counter:
        work()
    return Calls(counter.operators, counter.allocations, counter.allocated_bytes)


class _CallCounter(TorchDispatchMode):
    """Counts every call of an operator, and those of its results that share memory with none of its arguments."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators = self.allocations = self.allocated_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operators += 1
        known = set(_storages((args, kwargs)))
        fresh = {key: size for key, size in _storages(result).items() if key not in known}
        self.allocations += len(fresh)
        self.allocated_bytes += sum(fresh.values())
        return result


def _storages(tree: Any) -> dict[int, int]:
    """Return identity -> bytes of the memory behind the tensors of `tree`."""
    storages = [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
    return {storage._cdata: storage.nbytes() for storage in storages}


@dataclass(frozen=True)
class Sizes:
    """How many images of which kind a data set has."""

    train: int
    validation: int
    test: int
    num_classes: int
    image_size: int
    """H = W in pixels."""


def sizes_of(data_loading: Component) -> Sizes:
    """Return the sizes of a data set without looking at it.

    Raises:
        ValueError: They are not known beforehand, as those of a folder.
    """
    given, name = data_loading.arguments, data_loading.target.rpartition(".")[2]
    if name == "shapes":
        train, validation, test = (given[f"{split}_size"] for split in ("train", "validation", "test"))
        return Sizes(train, validation, test, num_classes=10, image_size=given["image_size"])
    if name not in ("cifar10", "cifar100") or given["classes"] is not None:
        raise ValueError(f"only shapes, cifar10 and cifar100 have sizes known beforehand, not {data_loading.target}")
    num_classes = 10 if name == "cifar10" else {"fine": 100, "coarse": 20}[given["labels"]]
    held_out = given["validation_size"]
    return Sizes(50_000 - held_out, held_out, 10_000, num_classes, image_size=32)


@dataclass(frozen=True)
class RecipeCost:
    """FLOPs of a recipe's parts."""

    forward_image: int
    """Of the main network, and of the size that images have in the data set."""
    backward_image: int
    optimizer_step: int
    test_image: int
    """With all views of test-time augmentation, which some recipes ask for only where one is not enough."""
    training: int
    """Of the whole run: all optimizer steps."""
    validation: int
    test: int

    @property
    def whole_run(self) -> int:
        return self.training + self.validation + self.test


def count_recipe(config: Config, costs: Costs | None = None) -> RecipeCost:
    """Return what the run that `config` describes costs, on the library's path of every layer."""
    sizes, training = sizes_of(config.data_loading), config.training
    shapes = {"num_classes": sizes.num_classes, "image_size": sizes.image_size}
    network: nn.Module = build(MODEL, config.model, **shapes).to(_META)
    optimizer = _optimizer_for(network, config)
    selection: ExampleSelection = build(SELECTION, config.selection, **shapes)
    selection.begin(_META, lambda small: _optimizer_for(small, config), Constant())
    batch_size = min(training.batch_size, sizes.train)
    steps_per_epoch = sizes.train // batch_size
    num_steps = training.epochs * steps_per_epoch

    @functools.cache
    def choosing(pixels: int, number: int) -> tuple[int, int]:
        """Return the FLOPs of choosing from batch `number` of an epoch, and how many images are chosen."""
        chosen: list[Batch] = []

        def choose() -> None:
            chosen.append(selection.choose(_batch(batch_size, pixels), number, training.label_smoothing))

        return count_flops(choose, costs), len(chosen[0][0])

    @functools.cache
    def learning(pixels: int, num_images: int) -> tuple[int, int]:
        """Return the FLOPs of the network's way forward and back."""
        images, labels = _batch(num_images, pixels)
        losses: list[Tensor] = []

        def forward() -> None:
            logits = network(images).float()
            losses.append(cross_entropy(logits, labels, label_smoothing=training.label_smoothing))

        return count_flops(forward, costs), count_flops(losses[0].backward, costs)

    def step(number: int) -> int:
        """Return the FLOPs of step `number` of the run, without the optimizer's."""
        pixels = pixels_at(number / num_steps, training.resizing, sizes.image_size)
        to_choose, num_chosen = choosing(pixels, number % steps_per_epoch)
        return to_choose + sum(learning(pixels, num_chosen))

    forward_image, backward_image = (flops // batch_size for flops in learning(sizes.image_size, batch_size))
    optimizer_step = count_flops(optimizer.step, costs)
    all_steps = sum(step(number) + optimizer_step for number in range(num_steps))
    network.eval()
    mode: Any = config.evaluation.tta.removesuffix("_selective")  # which images need all views, only data can tell
    with torch.no_grad():
        images, _ = _batch(batch_size, sizes.image_size)
        test_image = count_flops(lambda: predict_probabilities(network, images, mode), costs) // batch_size
    return RecipeCost(
        forward_image,
        backward_image,
        optimizer_step,
        test_image,
        training=all_steps,
        validation=training.epochs * sizes.validation * forward_image,
        test=sizes.test * test_image,
    )


def _optimizer_for(network: nn.Module, config: Config) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = build(OPTIMIZER, config.optimizer, network=network, params=network.parameters())
    return optimizer


def _batch(num_images: int, pixels: int) -> Batch:
    images = torch.empty(num_images, 3, pixels, pixels, dtype=torch.uint8, device=_META)
    return images, torch.empty(num_images, dtype=torch.int64, device=_META)

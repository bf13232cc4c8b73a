"""What does an augmented image cost: cut with its whole batch from memory, or one by one through PIL and a DataLoader?

    python benchmarks/batch_pipeline.py [--root data] [--images 10000] [--rounds 7]

Both begin with CIFAR-10 in memory and end with batches of normalised float images, shifted by up to four pixels and
mirrored by a coin, with and without a hole of 12 x 12 pixels. Ours is data/resident.py and the first layer of every
network, for it is there that pixels become floats. The other way is what tutorials show: torchvision's CIFAR10 with
RandomCrop, RandomHorizontalFlip, ToTensor, Normalize and RandomErasing behind a DataLoader, in this process or in one
worker. Each process computes with one thread; processor time is that of all processes.
"""

import argparse
import resource
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from measuring import in_turn, ratio, spread, table, write_results
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from torchvision import transforms
from torchvision.datasets import CIFAR10

from cifar10.config.compose import load_config
from cifar10.constants import CIFAR10_MEAN, CIFAR10_STD
from cifar10.data.image_dataset import Split
from cifar10.networks.normalize import Normalize
from cifar10.system.memory import keep_memory_warm
from cifar10.training.batches import TrainingBatches

_BATCH_SIZE, _HOLE = 500, 12
_AUGMENTATION = ("augmentation.crop_padding=4", "augmentation.flip=random")


def main() -> None:
    arguments = parse_arguments()
    keep_memory_warm()
    torch.set_num_threads(1)
    cpu: dict[str, list[float]] = {}
    kinds = {"crop and flip": 0, "crop, flip and hole": _HOLE}
    wall: dict[str, list[float]] = {}
    for kind, hole in kinds.items():
        ways: dict[str, Callable[[], float]] = {}
        for way, batches in make_ways(arguments.root, arguments.images, hole).items():
            seconds = cpu.setdefault(f"{kind}: {way}", [])
            ways[f"{kind}: {way}"] = lambda batches=batches, seconds=seconds: measure(batches, seconds)  # type: ignore[misc]
        wall |= in_turn(ways, arguments.rounds)
    rows = [
        [
            name,
            *(spread(clock[name], 1) for clock in (cpu, wall)),
            *(ratio(clock[name], clock[f"{name.partition(':')[0]}: {_OURS}"]) for clock in (cpu, wall)),
        ]
        for name in cpu
    ]
    head = ["way", "cpu us an image", "wall us an image", "cpu, over ours", "wall, over ours"]
    body = [
        f"{arguments.images:,} images a round, batches of {_BATCH_SIZE}, one thread a process; medians of "
        f"{arguments.rounds} rounds, in brackets the range. The ratio per core is that of the cpu times.",
        "",
        *table(head, rows),
    ]
    write_results("batch_pipeline", "What an augmented image costs", body, {"cpu_us": cpu, "wall_us": wall})


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data"), help="holds cifar-10-batches-py")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    return parser.parse_args()


_OURS = "resident batches"


def make_ways(root: Path, num_images: int, hole: int) -> dict[str, Iterable[tuple[Tensor, Tensor]]]:
    """Return what to iterate over for an epoch of `num_images`, by name."""
    changes: list[Any] = [
        transforms.RandomCrop(32, padding=4),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(CIFAR10_MEAN, CIFAR10_STD),
    ]
    if hole:
        part = hole**2 / 32**2
        changes.append(transforms.RandomErasing(p=1, scale=(part, part), ratio=(1, 1)))
    one_by_one = Subset(CIFAR10(root, transform=transforms.Compose(changes)), range(num_images))
    loaders = {
        f"DataLoader, {workers} worker{'s' * (workers != 1)}": DataLoader(
            one_by_one, _BATCH_SIZE, shuffle=True, num_workers=workers
        )
        for workers in (0, 1)
    }
    return {_OURS: Resident(root, num_images, hole), **loaders}


class Resident:
    """An epoch of ours: the next one at each `iter`."""

    def __init__(self, root: Path, num_images: int, hole: int) -> None:
        published = CIFAR10(root)
        images = torch.from_numpy(published.data[:num_images]).permute(0, 3, 1, 2)
        split = Split(images.contiguous(), torch.tensor(published.targets[:num_images]))
        config = load_config([*_AUGMENTATION, f"augmentation.cutout={hole}"])
        self.batches = TrainingBatches(split, 10, config.augmentation, _BATCH_SIZE, 0, torch.device("cpu"))
        self.normalize = Normalize()
        self.normalize.calibrate(split.images[:])
        self.epoch = 0

    def __iter__(self) -> Any:
        self.batches.seek(self.epoch, batch=0)
        self.epoch += 1
        for images, labels in self.batches:
            yield self.normalize(images), labels


def measure(batches: Iterable[tuple[Tensor, Tensor]], cpu: list[float]) -> float:
    """Go through an epoch; keep its cpu microseconds an image in `cpu`, workers' included, and return wall ones."""
    count, before, started = 0, processor_seconds(), time.perf_counter()
    for images, _ in batches:
        assert images.dtype == torch.float32
        count += len(images)
    wall = time.perf_counter() - started
    cpu.append(1e6 * (processor_seconds() - before) / count)
    return 1e6 * wall / count


def processor_seconds() -> float:
    """Return the seconds of this process and of those it has seen to the end."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    main()

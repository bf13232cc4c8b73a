"""How many photos a second become training batches: from our file of decoded images, or by ImageFolder and DataLoader?

    python benchmarks/photo_pipeline.py --originals PHOTOS [--images 2000] [--rounds 5]

Both begin with a folder of JPEG files of 500 x 375 pixels and end with batches of 64 normalised float images of 224 x
224 pixels, cropped at random and mirrored by a coin. The usual way is what tutorials show: ImageFolder with
RandomResizedCrop, or with Resize and RandomCrop, RandomHorizontalFlip, ToTensor and Normalize, behind a DataLoader with
a worker for each core. Ours are `data_loading=folder` and the batches of training, from the file and from memory, in
this process, with a thread for each core. The first epoch of each, in which ours decodes, is not counted, but stated.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from measuring import in_turn, ratio, spread, table, write_results
from photos import make_photos
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from cifar10.config.compose import load_config
from cifar10.data import folder as folder_data
from cifar10.data.image_dataset import Split
from cifar10.networks.normalize import Normalize
from cifar10.system.limits import num_cpus
from cifar10.system.memory import keep_memory_warm
from cifar10.training.batches import TrainingBatches

_BATCH_SIZE, _SIZE = 64, 224
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_AUGMENTATION = ("augmentation=none", "augmentation.crop_padding=16", "augmentation.flip=random")
_FILE, _MEMORY = "ours, from the file", "ours, from memory"


def main() -> None:
    arguments = parse_arguments()
    keep_memory_warm()
    torch.set_num_threads(num_cpus())
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "photos"
        make_photos(arguments.originals, root, arguments.images, 500, 375)
        first: dict[str, float] = {}
        cpu: dict[str, list[float]] = {}
        ways: dict[str, Callable[[], float]] = {}
        for name, make in makers(root, Path(scratch) / "cache").items():
            started = time.perf_counter()
            batches = make()
            count(batches)
            first[name] = time.perf_counter() - started
            seconds = cpu.setdefault(name, [])
            ways[name] = lambda batches=batches, seconds=seconds: measure(batches, seconds)  # type: ignore[misc]
        rates = in_turn(ways, arguments.rounds)
    rows = [
        [name, spread(rates[name], 0), spread(cpu[name], 3), ratio(rates[_FILE], rates[name]), f"{first[name]:.1f}"]
        for name in rates
    ]
    head = ["way", "images/s", "cpu ms an image", "ours from the file is faster by", "first epoch, s"]
    body = [
        f"{arguments.images:,} JPEG files of 500 x 375 pixels, batches of {_BATCH_SIZE} at {_SIZE} pixels, "
        f"{num_cpus()} cores: ours computes with a thread for each, the DataLoader has one worker for each; "
        f"epochs in turn, medians of {arguments.rounds}, in brackets the range.",
        "",
        *table(head, rows),
    ]
    raw = {"images_per_second": rates, "cpu_ms": cpu, "first_epoch_seconds": first}
    write_results("photo_pipeline", "What a photo costs in training, from the second epoch on", body, raw)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--originals", type=Path, required=True, help="photographs, *.jpg, that photos are cut from")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def makers(root: Path, cache: Path) -> dict[str, Callable[[], Iterable[tuple[Tensor, Tensor]]]]:
    """Return a function for each way, which returns its batches."""
    resized = transforms.RandomResizedCrop(_SIZE)
    cropped = transforms.Compose([transforms.Resize(_SIZE + 32), transforms.RandomCrop(_SIZE)])
    return {
        _FILE: lambda: Ours(root, cache, from_file=True),
        "ImageFolder, RandomResizedCrop": lambda: usual_batches(root, resized),
        _MEMORY: lambda: Ours(root, cache, from_file=False),
        "ImageFolder, Resize and RandomCrop": lambda: usual_batches(root, cropped),
    }


def usual_batches(root: Path, crop: Any) -> DataLoader[Any]:
    changes = [crop, transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(_MEAN, _STD)]
    images = ImageFolder(str(root), transforms.Compose(changes))
    workers = num_cpus()
    return DataLoader(images, _BATCH_SIZE, shuffle=True, num_workers=workers, persistent_workers=True, drop_last=True)


class Ours:
    """An epoch of all images of the folder: the next one at each `iter`."""

    def __init__(self, root: Path, cache: Path, from_file: bool) -> None:
        limits = {"_STORED_BYTES": 0, **({"available_memory": lambda: 0} if from_file else {})}
        before = {name: getattr(folder_data, name) for name in limits}
        for name, value in limits.items():
            setattr(folder_data, name, value)
        data = folder_data.folder(str(root), _SIZE, None, 0.0, 0.001, 0, str(cache))
        for name, value in before.items():
            setattr(folder_data, name, value)
        self.batches = self._training_batches(data.train, data.num_classes)
        self.normalize = Normalize()
        self.epoch = 0

    def _training_batches(self, split: Split, num_classes: int) -> TrainingBatches:
        config = load_config([*_AUGMENTATION])
        return TrainingBatches(split, num_classes, config.augmentation, _BATCH_SIZE, 0, torch.device("cpu"))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.batches.seek(self.epoch, batch=0)
        self.epoch += 1
        for images, labels in self.batches:
            yield self.normalize(images), labels


def count(batches: Iterable[tuple[Tensor, Tensor]]) -> int:
    num_images = 0
    for images, _ in batches:
        assert images.dtype == torch.float32 and images.shape[1:] == (3, _SIZE, _SIZE)
        num_images += len(images)
    return num_images


def measure(batches: Iterable[tuple[Tensor, Tensor]], cpu: list[float]) -> float:
    """Go through an epoch; keep its cpu ms an image in `cpu`, workers' included, and return images a second."""
    before, started = processor_seconds(), time.perf_counter()
    num_images = count(batches)
    wall = time.perf_counter() - started
    cpu.append(1e3 * (processor_seconds() - before) / num_images)
    return num_images / wall


def processor_seconds() -> float:
    """Return the seconds of this process and of its living children."""
    own = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in [own, *own.children()])


if __name__ == "__main__":
    main()

"""The comparison of pooling layers as a plain loop: a DataLoader over tensors, batches of 128, metrics of each batch.

    python benchmarks/plain_pooling.py --root data [--epochs 100] [--seeds 0 1 2]

The networks, images, optimizer and number of epochs are those of `experiment=pooling`; all else is plain PyTorch in
float32, with its own number of threads. Prints one line of JSON.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import CIFAR100

CLASSES = ("leopard", "tiger", "bus", "streetcar", "maple_tree", "oak_tree")
BATCH_SIZE, VALIDATION_SIZE = 128, 500
WAYS = ("stride", "max", "average")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="holds cifar-100-python")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    data = [load(arguments.root, is_train) for is_train in (True, False)]
    (images, labels), test = data[0], TensorDataset(*data[1])
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    held_out, kept = order[:VALIDATION_SIZE], order[VALIDATION_SIZE:]
    splits = TensorDataset(images[kept], labels[kept]), TensorDataset(images[held_out], labels[held_out]), test
    runs = [fit(way, seed, splits, arguments.epochs) for seed in arguments.seeds for way in WAYS]
    print(json.dumps({"threads": torch.get_num_threads(), "runs": runs}))


def load(root: Path, is_train: bool) -> tuple[Tensor, Tensor]:
    """Return the images of the classes, normalised, (N, 3, 32, 32), and their labels."""
    published = CIFAR100(str(root), train=is_train)
    numbers = {published.class_to_idx[name]: number for number, name in enumerate(CLASSES)}
    kept = [place for place, label in enumerate(published.targets) if label in numbers]
    images = torch.from_numpy(published.data[kept]).permute(0, 3, 1, 2).float()
    images = (images - images.mean(dim=(0, 2, 3), keepdim=True)) / images.std(dim=(0, 2, 3), keepdim=True)
    return images.contiguous(), torch.tensor([numbers[published.targets[place]] for place in kept])


def make_network(way: str) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 5, stride=2, padding=2), nn.ReLU()]
    for channels_in, channels_out in ((32, 32), (32, 64)):
        if way == "stride":
            layers.append(nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1))
        else:
            layers.append(nn.MaxPool2d(2) if way == "max" else nn.AvgPool2d(2))
            layers.append(nn.Conv2d(channels_in, channels_out, 3, padding=1))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, len(CLASSES)))


def fit(
    way: str, seed: int, splits: tuple[TensorDataset, TensorDataset, TensorDataset], epochs: int
) -> dict[str, object]:
    """Train a network; return its test accuracy where the validation loss is lowest, and the time of each epoch."""
    torch.manual_seed(seed)
    network = make_network(way)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    train = DataLoader(splits[0], batch_size=BATCH_SIZE, shuffle=True, drop_last=True)
    validation, test = (DataLoader(split, batch_size=BATCH_SIZE) for split in splits[1:])
    lowest, accuracy, history, seconds = np.inf, 0.0, [], []
    for _ in range(epochs):
        started = time.perf_counter()
        learnt = []
        for images, labels in train:
            optimizer.zero_grad()
            logits = network(images)
            loss = cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()
            learnt.append((loss.item(), (logits.argmax(dim=1) == labels).float().mean().item()))
        validated = evaluate(network, validation)
        history.append((np.percentile(learnt, (25, 50, 75), axis=0), np.percentile(validated, (25, 50, 75), axis=0)))
        seconds.append(time.perf_counter() - started)
        loss_now = float(np.mean(validated, axis=0)[0])
        if loss_now < lowest:
            lowest, accuracy = loss_now, float(np.mean(evaluate(network, test), axis=0)[1])
    return {"way": way, "seed": seed, "test_accuracy": accuracy, "epoch_seconds": seconds}


@torch.no_grad()
def evaluate(network: nn.Module, batches: DataLoader[tuple[Tensor, ...]]) -> list[tuple[float, float]]:
    """Return loss and accuracy of each batch."""
    found = []
    for images, labels in batches:
        logits = network(images)
        found.append((cross_entropy(logits, labels).item(), (logits.argmax(dim=1) == labels).float().mean().item()))
    return found


if __name__ == "__main__":
    main()

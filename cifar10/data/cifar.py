"""CIFAR-10 and CIFAR-100 through torchvision's classes and MD5 checks, with three splits."""

import pickle
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from cifar10.constants import CIFAR10_ARCHIVE, CIFAR100_ARCHIVE, CLASS_ALIASES
from cifar10.data.archives import obtain
from cifar10.data.class_names import ClassFolders
from cifar10.data.image_dataset import DataError, ImageDataset, Split, hold_out
from cifar10.suggest import did_you_mean
from cifar10.types import ClassName, Length, NonNegativeInt, Seed

Root = Annotated[str, Length(1)]
"""Folder that contains, or will contain, the batches."""


def cifar10(
    root: Root,
    classes: list[ClassName] | None,
    validation_size: NonNegativeInt,
    seed: Seed,
    sources: list[str] | None,
) -> ImageDataset:
    """Return CIFAR-10. It is downloaded if `root` does not contain it.

    Args:
        root: See `Root`.
        classes: Keep only these, labelled in this order; None keeps all, as published.
        validation_size: Images held out of the training split, stratified by class.
        seed: Determines the images that are held out.
        sources: Archives, folders or URLs to try before the mirrors.

    Raises:
        DataError: A class is unknown or named twice, no training image is left, or the data are unavailable.
    """
    from torchvision.datasets import CIFAR10  # slower to import than torch, and `config` only reads the signature

    obtain(CIFAR10_ARCHIVE, Path(root), sources or ())
    train, test = (CIFAR10(root, train=is_train) for is_train in (True, False))
    parts = (train.data, train.targets), (test.data, test.targets)
    return _data_set("cifar10", train.classes, parts, classes, validation_size, seed)


def cifar100(
    root: Root,
    labels: Literal["fine", "coarse"],
    classes: list[ClassName] | None,
    validation_size: NonNegativeInt,
    seed: Seed,
    sources: list[str] | None,
) -> ImageDataset:
    """Return CIFAR-100 with its 100 fine or 20 coarse classes; the other arguments as in `cifar10`."""
    from torchvision.datasets import CIFAR100

    obtain(CIFAR100_ARCHIVE, Path(root), sources or ())
    train, test = (CIFAR100(root, train=is_train) for is_train in (True, False))
    if labels == "fine":
        parts = (train.data, train.targets), (test.data, test.targets)
        return _data_set("cifar100", train.classes, parts, classes, validation_size, seed)
    meta, *coarse = (_read_batch(root, name) for name in ("meta", "train", "test"))
    parts = (train.data, coarse[0]["coarse_labels"]), (test.data, coarse[1]["coarse_labels"])
    return _data_set("cifar100-coarse", meta["coarse_label_names"], parts, classes, validation_size, seed)


def _read_batch(root: str, name: str) -> dict[str, Any]:
    """Unpickle a CIFAR-100 file whose MD5 torchvision has just checked. torchvision keeps the fine labels only."""
    with open(Path(root) / CIFAR100_ARCHIVE.folder / name, "rb") as file:
        content: dict[str, Any] = pickle.load(file, encoding="latin1")
    return content


def _data_set(
    name: str,
    published: list[str],
    parts: tuple[tuple[Any, list[int]], tuple[Any, list[int]]],
    classes: list[ClassName] | None,
    validation_size: int,
    seed: int,
) -> ImageDataset:
    """Choose classes and hold out the validation split.

    `parts` are the published training and test images: pixels, uint8 (N, H, W, 3), and labels.
    """
    train, test = (
        Split(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels, dtype=torch.int64))
        for pixels, labels in parts
    )
    if classes is not None:
        indices = choose_classes([str(name) for name in classes], published)
        published = [published[index] for index in indices]
        train, test = _keep(train, indices), _keep(test, indices)
    train, validation = hold_out(train, validation_size, seed)
    return ImageDataset(name, tuple(published), train, validation, test, is_mirrorable=True)


def choose_classes(wanted: list[str], published: list[str]) -> list[int]:
    """Return the index in `published` of each wanted class, in the wanted order; aliases are accepted.

    Raises:
        DataError: A name is unknown, or means a class already named; or there are fewer than two.
    """
    if len(wanted) < 2:
        raise DataError(
            f"data_loading.classes={wanted} leaves nothing to tell apart; name two or more, or null for all"
        )
    folders = ClassFolders(published)
    chosen: dict[int, str] = {}
    for name in wanted:
        index = folders.find(name)
        if index is None:
            known = [*published, *(alias for alias, meant in CLASS_ALIASES.items() if meant in published)]
            advice = did_you_mean(name, known) or f"; the classes are {', '.join(published)}"
            raise DataError(f"data_loading.classes: there is no class {name!r}{advice}")
        if index in chosen:
            raise DataError(
                f"data_loading.classes: {name!r} is the same class as {chosen[index]!r}; name each class once"
            )
        chosen[index] = name
    return list(chosen)


def _keep(split: Split, indices: list[int]) -> Split:
    """Return the images whose label is in `indices`, relabelled with its position there."""
    new_labels: Tensor = torch.full((int(split.labels.max()) + 1,), -1, dtype=torch.int64)
    new_labels[torch.tensor(indices)] = torch.arange(len(indices))
    relabelled = new_labels[split.labels]
    kept = (relabelled >= 0).nonzero().flatten()
    return Split(split.images[kept], relabelled[kept])

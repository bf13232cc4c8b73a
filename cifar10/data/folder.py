"""Any folder of class folders as a data set: ROOT/train/cat/1.png, ROOT/test/cat/2.png.

Shapes: N images of S x S pixels, K classes.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import psutil
import torch
from tqdm import tqdm

from cifar10.data.contract import DataError, DataSet, Split, hold_out
from cifar10.decoding import decode_files
from cifar10.image_search import find_images
from cifar10.images import ImageError, silence_pillow
from cifar10.labels import ClassFolders
from cifar10.nearest import did_you_mean
from cifar10.ranges import Fraction, Length, NonNegativeInt, Range

_LOGGER = logging.getLogger(__name__)
_LOOK_AHEAD = 256  # files
_MOST_NAMED = 3  # of the things a message is about

LabelledFile = tuple[Path, int]
"""An image file and the id of its class."""


def folder(
    root: Annotated[str, Length(1)],
    image_size: Annotated[int, Range(ge=8, le=1024)],
    classes: list[str] | None,
    validation_fraction: Fraction,
    test_fraction: Fraction,
    seed: NonNegativeInt,
) -> DataSet:
    """Return the images below `root` as a data set. Those that cannot be read are left out, with a warning.

    Args:
        root: Holds `train` and perhaps `test`, each with one folder of images a class, however deep within.
        image_size: S in pixels; the central square of each image is resized to it.
        classes: Keep only these, labelled in this order; None keeps all folders of `train`, sorted by name.
        validation_fraction: Part of the training images that is held out, each class in its share.
        test_fraction: Part of `train` that is cut off to test on, before that; unused if there is a `test`.
        seed: Determines which.

    Raises:
        DataError: A folder or class is missing, a class has no image to train on, or memory does not suffice.
    """
    silence_pillow()
    train_folder, test_folder = Path(root) / "train", Path(root) / "test"
    _refuse_missing(Path(root), train_folder)
    names = _class_names(train_folder, classes)
    train_files = _labelled_files(train_folder, names)
    test_files = _labelled_files(test_folder, names) if test_folder.is_dir() else []
    _refuse_too_many(2 * len(train_files) + len(test_files), image_size)  # holding out copies
    train = _load(train_files, image_size, train_folder)
    _refuse_empty_class(train, names, f"has no image that can be read in {train_folder}")
    if test_folder.is_dir():
        test = _load(test_files, image_size, test_folder)
    else:
        train, test = _cut(train, test_fraction, seed)
    if not len(test):
        raise DataError(
            f"no images to test on: put class folders into {test_folder}, or raise test_fraction without it"
        )
    train, validation = _cut(train, validation_fraction, seed)
    _refuse_empty_class(train, names, "has no image left to train on: hold out less, or add images")
    return DataSet("folder", names, train, validation, test)


def _refuse_missing(root: Path, train_folder: Path) -> None:
    if train_folder.is_dir():
        return
    present = _folder_names(root) if root.is_dir() else []
    if len(present) > 1 and "test" not in present:
        advice = f"if {_few(present)} in {root} are the class folders, move them into it"
    else:
        advice = f"put one folder of images for each class there, such as {train_folder / 'cat' / '1.png'}"
    raise DataError(f"there is no folder {train_folder}; {advice}")


def _folder_names(parent: Path) -> list[str]:
    """Return the names of the folders in `parent`, sorted, without hidden ones such as .ipynb_checkpoints."""
    with os.scandir(parent) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _class_names(train_folder: Path, classes: list[str] | None) -> tuple[str, ...]:
    present = _folder_names(train_folder)
    names = present if classes is None else classes
    if len(names) < 2:
        where = f"{train_folder} has {len(present)} class folders" if classes is None else f"classes names {len(names)}"
        raise DataError(f"{where}; a classifier needs at least 2")
    if len(set(names)) < len(names):
        raise DataError(f"classes: {', '.join(names)} names a class twice")
    known = ClassFolders(names)
    there = {known.find(name) for name in present}
    for class_id, name in enumerate(names):
        if class_id not in there:
            hint = did_you_mean(name, present) or f"; there are {_few(present)}"
            raise DataError(f"classes: there is no folder {train_folder / name}{hint}")
    return tuple(names)


def _labelled_files(split_folder: Path, names: Sequence[str]) -> list[LabelledFile]:
    """Return the images in the class folders of `split_folder`, sorted by path. Other folders are left out."""
    known = ClassFolders(names)
    return [
        (path, label)
        for name in _folder_names(split_folder)
        if (label := known.find(name)) is not None
        for path in find_images(str(split_folder / name))
    ]


def _refuse_too_many(num_images: int, image_size: int) -> None:
    needed, available = num_images * 3 * image_size**2, psutil.virtual_memory().available
    if needed > available:
        raise DataError(
            f"the images take {needed / 2**30:.1f} GB of memory at image_size={image_size}, and only "
            f"{available / 2**30:.1f} GB are free; choose a smaller data_loading.image_size or fewer classes"
        )


def _load(files: Sequence[LabelledFile], image_size: int, split_folder: Path) -> Split:
    """Return the files that can be read, in their order; warn of the others in one line."""
    images = torch.empty((len(files), 3, image_size, image_size), dtype=torch.uint8)  # (N, 3, S, S)
    labels: list[int] = []
    unreadable: list[str] = []
    decoded = decode_files((path for path, _ in files), image_size, _LOOK_AHEAD)
    progress = tqdm(decoded, str(split_folder), total=len(files), unit=" images", disable=None, leave=False)
    for (path, label), (_, pixels) in zip(files, progress, strict=True):
        if isinstance(pixels, ImageError):
            unreadable.append(f"{str(path.relative_to(split_folder))!r} ({pixels})")
            continue
        images[len(labels)] = torch.from_numpy(pixels).permute(2, 0, 1)
        labels.append(label)
    if unreadable:
        _LOGGER.warning(
            "%d of %d images in %s are left out: %s", len(unreadable), len(files), split_folder, _few(unreadable)
        )
    return Split(images[: len(labels)], torch.tensor(labels, dtype=torch.int64))


def _cut(pool: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Part `pool` in two, the second having `fraction` of each class, rounded; the first is never empty."""
    return hold_out(pool, min(round(fraction * len(pool)), len(pool) - 1), seed)


def _refuse_empty_class(split: Split, names: Sequence[str], complaint: str) -> None:
    counts = torch.bincount(split.labels, minlength=len(names)).tolist()
    empty = [name for name, count in zip(names, counts, strict=True) if not count]
    if empty:
        raise DataError(f"class {_few(empty)} {complaint}")


def _few(items: Sequence[str]) -> str:
    more = f" and {len(items) - _MOST_NAMED} more" if len(items) > _MOST_NAMED else ""
    return ", ".join(items[:_MOST_NAMED]) + more

"""A data set from class folders: ROOT/train/cat/1.png, ROOT/test/cat/2.png.

Shapes: N images of S x S pixels, K classes.
"""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
from tqdm import tqdm

from cifar10.data.class_folders import LabelledFile, SplitFolders, find_classes, find_splits, labelled_files
from cifar10.data.class_names import few
from cifar10.data.image_dataset import DataError, ImageDataset, Split, hold_out, require_memory
from cifar10.images.decode import ImageError, silence_pillow
from cifar10.images.parallel import decode_files
from cifar10.types import ClassName, Fraction, Length, Range, Seed
from cifar10.wording import counted

_LOGGER = logging.getLogger(__name__)
_LOOK_AHEAD = 256  # files


def folder(
    root: Annotated[str, Length(1)],
    image_size: Annotated[int, Range(ge=8, le=1024)],
    classes: list[ClassName] | None,
    validation_fraction: Fraction,
    test_fraction: Fraction,
    seed: Seed,
) -> ImageDataset:
    """Return the images below `root` as a data set. Unreadable images are left out, with a warning.

    Args:
        root: Contains `train`, optionally `test`, and optionally `val`, `valid` or `validation`, each with one folder
            of images for each class, at any depth. Links are followed.
        image_size: S in pixels; the central square of each image is resized to it.
        classes: Keep only these, labelled in this order; None keeps all folders of `train`, sorted by name, or by
            number if all are whole numbers.
        validation_fraction: Fraction of the training images that is held out, stratified by class; unused if there is
            a validation folder.
        test_fraction: Fraction of `train` that is cut off for testing, before that; unused if there is a `test` folder.
        seed: Determines the images that are held out.

    Raises:
        DataError: A folder or class is missing, a class has no training image, a folder is not a class, or the images
            do not fit into memory.
    """
    silence_pillow()
    folders = find_splits(Path(root))
    names, present = find_classes(folders.train, classes)
    train_files, validation_files, test_files = (
        labelled_files(path, names, present) if path else [] for path in folders
    )
    held_at_once = 2 * len(train_files) + len(validation_files) + len(test_files)  # holding out copies
    advice = "choose a smaller data_loading.image_size or fewer classes"
    require_memory(held_at_once * 3 * image_size**2, image_size, advice)
    train = _load(train_files, image_size, folders.train)
    _refuse_empty_class(train, names, f"has no image that can be read in {folders.train}; add some, or remove it")
    if folders.test:
        test = _load(test_files, image_size, folders.test)
    else:
        train, test = _cut(train, test_fraction, seed, names)
    _check_test_images(test, names, folders, test_fraction)
    if folders.validation and validation_files:
        validation = _load(validation_files, image_size, folders.validation)
    else:
        if folders.validation:
            _LOGGER.warning("%s holds no image of a class; validation_fraction is cut off instead", folders.validation)
        train, validation = _cut(train, validation_fraction, seed, names)
    data = ImageDataset("folder", tuple(names), train, validation, test)
    _warn_of_copies(data)
    return data


def _load(files: Sequence[LabelledFile], image_size: int, split_folder: Path) -> Split:
    """Return the readable files, in their order; warn about the others in one line."""
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
            "%d of %d images in %s are left out: %s", len(unreadable), len(files), split_folder, few(unreadable)
        )
    return Split(images[: len(labels)], torch.tensor(labels, dtype=torch.int64))


def _cut(pool: Split, fraction: float, seed: int, names: Sequence[str]) -> tuple[Split, Split]:
    """Split `pool` in two, the second with `fraction` of each class, rounded; the first keeps images of every class."""
    train, held_out = hold_out(pool, min(round(fraction * len(pool)), len(pool) - 1), seed)
    _refuse_empty_class(train, names, "has no image left to train on: hold out less, or add images")
    return train, held_out


def _check_test_images(test: Split, names: Sequence[str], folders: SplitFolders, test_fraction: float) -> None:
    """Warn about classes without test images, and about a test split cut from `train` despite a validation folder."""
    if not len(test):
        where = folders.test or folders.train.parent / "test"
        raise DataError(f"no images to test on: put class folders into {where}, or raise test_fraction without it")
    if not folders.test and folders.validation:
        _LOGGER.warning(
            "%s is for validation; without a test folder, data_loading.test_fraction=%g of %s is cut off to test on "
            "(to test on %s instead, rename it test)",
            *(folders.validation, test_fraction, folders.train, folders.validation.name),
        )
    if untested := _empty_classes(test, names):
        _LOGGER.warning(
            "%d of %d classes have no test image, so no score: %s", len(untested), len(names), few(untested)
        )


def _warn_of_copies(data: ImageDataset) -> None:
    """Warn about images that are in the training split and in another one, and about images in two classes."""
    labels: dict[bytes, set[int]] = defaultdict(set)
    pixels = {
        name: [hashlib.blake2b(image.numpy().data, digest_size=16).digest() for image in split.images]
        for name, split in data.splits.items()
    }
    for name, split in data.splits.items():
        for digest, label in zip(pixels[name], split.labels.tolist(), strict=True):
            labels[digest].add(label)
    trained = set(pixels["train"])
    for name in ("validation", "test"):
        if num_copies := sum(digest in trained for digest in pixels[name]):
            _LOGGER.warning(
                "%d of %d %s images are also training images, pixel for pixel: scores on them are too good",
                *(num_copies, len(pixels[name]), name),
            )
    if of_two := [sorted(ids) for ids in labels.values() if len(ids) > 1]:
        num_images, first = counted(len(of_two), "image"), few([data.class_names[label] for label in of_two[0]])
        _LOGGER.warning("in several classes at once, pixel for pixel: %s, such as one of %s", num_images, first)


def _refuse_empty_class(split: Split, names: Sequence[str], complaint: str) -> None:
    if empty := _empty_classes(split, names):
        raise DataError(f"class {few(empty)} {complaint}")


def _empty_classes(split: Split, names: Sequence[str]) -> list[str]:
    counts = torch.bincount(split.labels, minlength=len(names)).tolist()
    return [name for name, count in zip(names, counts, strict=True) if not count]

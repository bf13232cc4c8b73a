"""A data set from class folders: ROOT/train/cat/1.png and ROOT/test/cat/2.png, or ROOT/cat/1.png, divided here.

A large set is decoded once into a file. A set that memory holds is trained on in memory, a larger one from the file.

Shapes: N images of S x S pixels, K classes.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
from tqdm import tqdm

from cifar10.data.class_folders import LabelledFile, SplitFolders, find_classes, find_splits, labelled_files
from cifar10.data.class_names import few
from cifar10.data.dividing import divide
from cifar10.data.duplicates import pixel_digests
from cifar10.data.image_dataset import DataError, ImageDataset, Split, hold_out, require_memory
from cifar10.data.photo_store import open_store
from cifar10.data.stored_images import StoredImages
from cifar10.images.decode import ImageError, silence_pillow
from cifar10.images.parallel import decode_files
from cifar10.system.limits import available_memory
from cifar10.system.streams import print_message
from cifar10.types import ClassName, Fraction, Length, Range, Seed
from cifar10.wording import counted

_LOGGER = logging.getLogger(__name__)
_LOOK_AHEAD = 256  # files
_STORED_BYTES = 64 * 2**20
"""From this size on, images are decoded once and kept in a file: 445 of 224 x 224 pixels, or 21,845 of 32 x 32."""
_TEST_FRACTION = ", or raise data_loading.test_fraction; copies of one picture stay in one split"
_COPIES = 4
"""Bytes of memory for each byte of pixels: the images, their splits, and four bytes for three in training."""


def folder(
    root: Annotated[str, Length(1)],
    image_size: Annotated[int, Range(ge=8, le=1024)],
    classes: list[ClassName] | None,
    validation_fraction: Fraction,
    test_fraction: Fraction,
    seed: Seed,
    cache: Annotated[str, Length(1)] | None = "data/cache",
) -> ImageDataset:
    """Return the images below `root` as a data set. Unreadable images are left out, with a warning.

    Args:
        root: Contains `train`, optionally `test`, and optionally `val`, `valid` or `validation`, each with one folder
            of images for each class, at any depth. Or it contains the folders of the classes. Links are followed.
        image_size: S in pixels; the central square of each image is resized to it.
        classes: Keep only these, labelled in this order; None keeps all folders of `train`, sorted by name, or by
            number if all are whole numbers.
        validation_fraction: Fraction of the training images that is held out, stratified by class; unused if there is
            a validation folder.
        test_fraction: Fraction of `train` that is cut off for testing, before that; unused if there is a `test` folder.
        seed: Determines the images that are held out.
        cache: Folder of the files that decoded images are kept in. None: decode at each start, and keep all in memory.

    Raises:
        DataError: A folder or class is missing, a class has no training image, a folder is not a class, the images do
            not fit into memory, or the file of decoded images cannot be written.
    """
    silence_pillow()
    folders = find_splits(Path(root))
    names, present = find_classes(folders.train, classes, folders.is_undivided)
    train_files, validation_files, test_files = (
        labelled_files(path, names, present) if path else [] for path in folders[:3]
    )
    num_bytes = (len(train_files) + len(validation_files) + len(test_files)) * 3 * image_size**2
    is_resident = _COPIES * num_bytes <= available_memory()
    if cache is None:
        held_at_once = num_bytes + len(train_files) * 3 * image_size**2  # holding out copies
        advice = "choose a smaller data_loading.image_size or fewer classes, or a folder with data_loading.cache=DIR"
        require_memory(held_at_once, image_size, advice)
    is_stored = cache is not None and not (is_resident and num_bytes < _STORED_BYTES)

    def load(files: Sequence[LabelledFile], split_folder: Path) -> Split:
        if not is_stored:
            return _decode(files, image_size, split_folder)
        assert cache is not None
        return _read(files, image_size, split_folder, Path(cache), is_resident)

    train = load(train_files, folders.train)
    _refuse_empty_class(train, names, f"has no image that can be read in {folders.train}; add some, or remove it")
    if folders.is_undivided:
        return _divided(train, names, folders, validation_fraction, test_fraction, seed)
    if folders.test:
        test = load(test_files, folders.test)
    else:
        train, test = _cut(train, test_fraction, seed, names)
    _check_test_images(test, names, folders, test_fraction)
    if folders.validation and validation_files:
        validation = load(validation_files, folders.validation)
    else:
        if folders.validation:
            _LOGGER.warning("%s holds no image of a class; validation_fraction is cut off instead", folders.validation)
        train, validation = _cut(train, validation_fraction, seed, names)
    data = ImageDataset("folder", tuple(names), train, validation, test)
    _warn_of_copies(data)
    return data


def _divided(
    pool: Split,
    names: Sequence[str],
    folders: SplitFolders,
    validation_fraction: float,
    test_fraction: float,
    seed: int,
) -> ImageDataset:
    """Return `pool` divided into splits."""
    train, validation, test, num_copies = divide(pool, validation_fraction, test_fraction, seed)
    copies = (
        f"; of {counted(num_copies, 'image')} there are copies or near-copies, in the same split" if num_copies else ""
    )
    print_message(
        f"{folders.train} has no train folder: its {counted(len(pool), 'image')} are divided into {len(train):,} to "
        f"train on, {len(validation):,} to validate on and {len(test):,} to test on{copies}"
    )
    _check_test_images(test, names, folders, test_fraction)
    data = ImageDataset("folder", tuple(names), train, validation, test)
    _warn_of_copies(data)
    return data


def _read(files: Sequence[LabelledFile], image_size: int, split_folder: Path, cache: Path, is_resident: bool) -> Split:
    """Return the readable files from their store, in memory or not; warn about the others in one line."""
    if not files:
        return _decode(files, image_size, split_folder)
    store = open_store([path for path, _ in files], split_folder, image_size, cache)
    _warn_of_unreadable(
        [(files[position][0], reason) for position, reason in store.unreadable], len(files), split_folder
    )
    labels = torch.tensor([label for _, label in files], dtype=torch.int64)[torch.from_numpy(store.readable)]
    images = StoredImages(store.pixels, store.records["fingerprint"], store.readable)
    readable = tuple(str(files[position][0]) for position in store.readable.tolist())
    return Split(images[:] if is_resident else images, labels, readable)


def _decode(files: Sequence[LabelledFile], image_size: int, split_folder: Path) -> Split:
    """Return the readable files, in their order; warn about the others in one line."""
    images = torch.empty((len(files), 3, image_size, image_size), dtype=torch.uint8)  # (N, 3, S, S)
    labels: list[int] = []
    readable: list[str] = []
    unreadable: list[tuple[Path, str]] = []
    decoded = decode_files((path for path, _ in files), image_size, _LOOK_AHEAD)
    progress = tqdm(decoded, str(split_folder), total=len(files), unit=" images", disable=None, leave=False)
    for (path, label), (_, pixels) in zip(files, progress, strict=True):
        if isinstance(pixels, ImageError):
            unreadable.append((path, str(pixels)))
            continue
        images[len(labels)] = torch.from_numpy(pixels).permute(2, 0, 1)
        labels.append(label)
        readable.append(str(path))
    _warn_of_unreadable(unreadable, len(files), split_folder)
    return Split(images[: len(labels)], torch.tensor(labels, dtype=torch.int64), tuple(readable))


def _warn_of_unreadable(unreadable: Sequence[tuple[Path, str]], num_files: int, split_folder: Path) -> None:
    if unreadable:
        named = [f"{str(path.relative_to(split_folder))!r} ({reason})" for path, reason in unreadable]
        _LOGGER.warning("%d of %d images in %s are left out: %s", len(named), num_files, split_folder, few(named))


def _cut(pool: Split, fraction: float, seed: int, names: Sequence[str]) -> tuple[Split, Split]:
    """Split `pool` in two, the second with `fraction` of each class, rounded; the first keeps images of every class."""
    train, held_out = hold_out(pool, min(round(fraction * len(pool)), len(pool) - 1), seed)
    _refuse_empty_class(train, names, "has no image left to train on: hold out less, or add images")
    return train, held_out


def _check_test_images(test: Split, names: Sequence[str], folders: SplitFolders, test_fraction: float) -> None:
    """Warn about classes without test images, and about a test split cut from `train` despite a validation folder."""
    if not len(test):
        if folders.is_undivided:
            raise DataError(f"no images to test on: add images to {folders.train}{_TEST_FRACTION}")
        where = folders.test or folders.train.parent / "test"
        raise DataError(f"no images to test on: put class folders into {where}{_TEST_FRACTION}")
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
    pixels = {name: pixel_digests(split.images) for name, split in data.splits.items()}
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

"""All images of a data set, or of a folder without classes, numbered through: what `explore` looks at.

Shapes: N images of S x S pixels in all splits together, K classes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from cifar10.data.class_folders import find_classes, find_splits, labelled_files
from cifar10.data.class_names import printable
from cifar10.data.duplicates import pixel_digests
from cifar10.data.image_dataset import DataError, ImageDataset, Split
from cifar10.data.stored_images import parts_of
from cifar10.images.decode import ImageError
from cifar10.images.named_image import ImageSource
from cifar10.images.parallel import decode_files, decode_images

UNLABELLED = -1

_LOOK_AHEAD = 256  # files
_AT_ONCE = 4096  # images that are in memory twice


@dataclass(frozen=True, eq=False)
class Collection:
    """Images in splits, with or without labels.

    Args:
        name: Of the data.
        class_names: K names; none if the images have no labels.
        splits: By name, without empty ones.
        unreadable: Files that cannot be read, with the reasons.
        num_pixels: Pixels of each image before it was resized, (N,); None: not known, or all the same.
    """

    name: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Split]
    unreadable: tuple[tuple[str, str], ...] = ()
    num_pixels: NDArray[np.int64] | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return sum(map(len, self.splits.values()))

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return next(iter(self.splits.values())).images.shape[-1]

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The class of each image, (N,); UNLABELLED if it has none."""
        return np.concatenate([split.labels.numpy() for split in self.splits.values()])

    @cached_property
    def split_ids(self) -> NDArray[np.int64]:
        """The number of the split of each image, (N,)."""
        return np.repeat(np.arange(len(self.splits)), [len(split) for split in self.splits.values()])

    @property
    def split_names(self) -> list[str]:
        return list(self.splits)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """The number of the first image of each split, and N behind the last."""
        return np.concatenate([[0], np.cumsum([len(split) for split in self.splits.values()])])

    def place(self, image: int) -> tuple[str, int]:
        """Return the split of an image, and its position there."""
        number = int(self.split_ids[image])
        return self.split_names[number], image - int(self.starts[number])

    def file(self, image: int) -> str | None:
        """Return the file of an image, if it is from one."""
        name, position = self.place(image)
        files = self.splits[name].files
        return None if files is None else files[position]

    def class_of(self, image: int) -> str:
        """Return the name of the class of an image; empty if it has none."""
        label = int(self.labels[image])
        return "" if label == UNLABELLED else self.class_names[label]

    def pixels(self, image: int) -> NDArray[np.uint8]:
        """Return an image as uint8 (S, S, 3)."""
        name, position = self.place(image)
        return np.ascontiguousarray(self.splits[name].images[position].permute(1, 2, 0).numpy())

    def parts(self) -> Iterator[Tensor]:
        """Yield all images in order, as uint8 (B, 3, S, S)."""
        for split in self.splits.values():
            for part in parts_of(split.images):
                yield from part.split(_AT_ONCE)

    def digests(self) -> list[bytes]:
        """Return a hash of the pixels of each image."""
        return [digest for split in self.splits.values() for digest in pixel_digests(split.images)]


def of_data_set(data: ImageDataset) -> Collection:
    """Return the images of a data set."""
    splits = {name: split for name, split in data.splits.items() if len(split)}
    return Collection(data.name, data.class_names, splits)


def unreadable_files(root: str, collection: Collection, image_size: int) -> tuple[tuple[str, str], ...]:
    """Return the files in the class folders of `root` that the collection lacks because they cannot be read, and why.

    Args:
        root: The folder that `cifar10.data.folder.folder` has read.
        collection: What it returned.
        image_size: As for `folder`.
    """
    from pathlib import Path

    folders = find_splits(Path(root))
    names, present = find_classes(folders.train, collection.class_names, folders.is_undivided)
    read = {file for split in collection.splits.values() for file in split.files or ()}
    missing = [
        path
        for split in folders[:3]
        if split is not None
        for path, _ in labelled_files(split, names, present)
        if str(path) not in read
    ]
    decoded = decode_files(missing, image_size, _LOOK_AHEAD)
    return tuple((str(path), str(pixels)) for path, pixels in decoded if isinstance(pixels, ImageError))


def of_photos(source: ImageSource, image_size: int) -> Collection:
    """Return the images of a folder, or of anything else that `open_source` reads, without labels.

    Raises:
        DataError: None of them can be read.
    """
    batches: list[Tensor] = []
    files: list[str] = []
    sizes: list[int] = []
    unreadable: list[tuple[str, str]] = []
    decoded = iter(
        tqdm(decode_images(source, image_size, _LOOK_AHEAD), "reading", unit=" images", disable=None, leave=False)
    )
    while part := list(islice(decoded, _LOOK_AHEAD)):
        pixels = [image.pixels for image in part if not isinstance(image.pixels, ImageError)]
        readable = [image for image in part if not isinstance(image.pixels, ImageError)]
        unreadable += [(image.source.name, str(image.pixels)) for image in part if isinstance(image.pixels, ImageError)]
        if pixels:
            batches.append(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2))
        files += [image.source.name for image in readable]
        sizes += [image.num_pixels for image in readable]
    if not files:
        name, reason = unreadable[0]
        raise DataError(
            f"{source.given}: none of the images ({len(unreadable):,}) can be read, such as {printable(name)}: {reason}"
        )
    labels = torch.full((len(files),), UNLABELLED)
    split = Split(torch.cat(batches).contiguous(), labels, tuple(files))
    return Collection(source.given, (), {"images": split}, tuple(unreadable), num_pixels=np.array(sizes))

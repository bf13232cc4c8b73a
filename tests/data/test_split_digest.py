"""Whether two test splits hold the same images, in whatever order."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from cifar10.data.image_dataset import ImageDataset, Split
from cifar10.data.split_digest import SplitContent
from tests.data.test_contract import make_data, make_split


def in_order(order: Sequence[int] | torch.Tensor, files: Sequence[str] | None = None) -> ImageDataset:
    """Return a data set whose test images are those of `make_data` in another order."""
    data, chosen = make_data(), torch.as_tensor(order)
    names = None if files is None else tuple(files[position] for position in chosen.tolist())
    split = Split(data.test.images[:][chosen], data.test.labels[chosen], names)
    return dataclasses.replace(data, test=split)


def test_images_in_another_order_are_found_by_their_pixels() -> None:
    own, other = in_order(range(9)), in_order([4, 2, 8, 0, 1, 7, 3, 6, 5])
    positions = SplitContent.of_test(own).positions_in(SplitContent.of_test(other))
    assert positions is not None
    assert torch.equal(other.test.images[:][positions], own.test.images[:])
    assert np.array_equal(other.test.labels[positions], own.test.labels)


def test_another_pixel_label_or_class_is_another_content() -> None:
    data, pixel, label = make_data(), make_data(), make_data()
    pixel.test.images[:][0, 0, 0, 0] += 1
    label.test.labels[0] = 2
    renamed = dataclasses.replace(data, class_names=("a", "b", "d"))
    fewer = dataclasses.replace(data, test=make_split(8, seed=2))
    own = SplitContent.of_test(data)
    for other in (pixel, label, renamed, fewer):
        assert own.positions_in(SplitContent.of_test(other)) is None
    assert own.positions_in(SplitContent.of_test(make_data())) is not None


def test_the_order_of_the_classes_does_not_matter() -> None:
    data = make_data()
    turned = dataclasses.replace(
        data, class_names=data.class_names[::-1], test=Split(data.test.images, 2 - data.test.labels)
    )
    assert SplitContent.of_test(turned).digests == SplitContent.of_test(data).digests


def test_images_of_another_size_are_found_by_their_files() -> None:
    files = [f"{number}.png" for number in range(9)]
    own, other = in_order(range(9), files), in_order([1, 0, *range(2, 9)], files)
    smaller = Split(other.test.images[:][..., ::2, ::2].contiguous(), other.test.labels, other.test.files)
    positions = SplitContent.of_test(own).positions_in(SplitContent.of_test(dataclasses.replace(other, test=smaller)))
    assert positions is not None and positions.tolist() == [1, 0, *range(2, 9)]

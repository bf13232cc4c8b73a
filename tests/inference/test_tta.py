"""Test-time augmentation: which views, with what weight, and that bytes stay bytes."""

from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from cifar10.config.schema import TTAMode
from cifar10.inference.tta import predict_plain_and_augmented, predict_probabilities


class Spy:
    """Keeps the images that it is given, and returns probabilities that follow the brightness of the four corners."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        grey = images.float().mean(dim=1) / 100
        corners = [grey[:, 0, 0], grey[:, 0, -1], grey[:, -1, 0], grey[:, -1, -1]]
        return torch.stack(corners, dim=1).softmax(dim=1)


class ArraySpy:
    """The same for arrays, (B, H, W, 3), with exactly the same probabilities."""

    def __init__(self) -> None:
        self.seen: list[NDArray[np.uint8]] = []
        self._spy = Spy()

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert images.flags.c_contiguous
        self.seen.append(images)
        probabilities: NDArray[np.float32] = self._spy(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
        return probabilities


def make_images() -> Tensor:
    return torch.randint(0, 256, (5, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize(("tta", "num_views"), [("none", 1), ("mirror", 2), ("mirror_translate", 6)])
def test_each_view_is_computed_once_and_rows_sum_to_one(tta: str, num_views: int) -> None:
    spy = Spy()
    probabilities = predict_probabilities(spy, make_images(), tta)  # type: ignore[arg-type]
    assert len(spy.seen) == num_views
    assert all(view.dtype == torch.uint8 and view.shape == (5, 3, 8, 8) for view in spy.seen)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(5))


def test_only_unsure_images_are_computed_again_and_then_get_all_views() -> None:
    spy, images = Spy(), make_images()
    plain, full = predict_plain_and_augmented(Spy(), images, "mirror_translate")
    bound = float(plain.amax(dim=1).sort().values[2])  # two of five are below
    unsure = plain.amax(dim=1) < bound
    answers = predict_probabilities(spy, images, "mirror_translate_selective", bound)
    assert [len(view) for view in spy.seen] == [5, 2, 2, 2, 2, 2]
    torch.testing.assert_close(answers[unsure], full[unsure])
    assert torch.equal(answers[~unsure], plain[~unsure])


@pytest.mark.parametrize(("bound", "like"), [(0.0, "none"), (1.0, "mirror_translate")])
def test_the_bounds_of_confidence_ask_for_one_view_of_all_or_for_six(bound: float, like: str) -> None:
    answers = predict_probabilities(Spy(), make_images(), "mirror_translate_selective", bound)
    torch.testing.assert_close(answers, predict_probabilities(Spy(), make_images(), like))  # type: ignore[arg-type]


def test_mirrored_images_get_mirrored_answers() -> None:
    images = make_images()
    plain = predict_probabilities(Spy(), images, "mirror_translate")
    mirrored = predict_probabilities(Spy(), images.flip(3), "mirror_translate")
    torch.testing.assert_close(mirrored[:, 1] + mirrored[:, 3], plain[:, 1] + plain[:, 3])
    torch.testing.assert_close(
        predict_probabilities(Spy(), images, "mirror"), predict_probabilities(Spy(), images.flip(3), "mirror")
    )


def test_views_are_shifted_by_one_pixel_with_a_reflected_border() -> None:
    spy, images = Spy(), make_images()
    predict_probabilities(spy, images, "mirror_translate")
    up_left, down_right = spy.seen[2], spy.seen[4]
    assert torch.equal(up_left[:, :, :-1, :-1], images[:, :, 1:, 1:])
    assert torch.equal(up_left[:, :, -1, :-1], images[:, :, -2, 1:])
    assert torch.equal(down_right[:, :, 1:, 1:], images[:, :, :-1, :-1])
    assert torch.equal(down_right[:, :, 0, 1:], images[:, :, 1, :-1])


def test_the_plain_answer_comes_with_the_augmented_one() -> None:
    images = make_images()
    plain, augmented = predict_plain_and_augmented(Spy(), images, "mirror")
    torch.testing.assert_close(plain, predict_probabilities(Spy(), images, "none"))
    torch.testing.assert_close(augmented, predict_probabilities(Spy(), images, "mirror"))


@pytest.mark.parametrize("mode", get_args(TTAMode))
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (2, 2), (1, 1)])
def test_arrays_and_tensors_get_the_same_views_and_the_same_averages_bit_by_bit(
    mode: TTAMode, size: tuple[int, int]
) -> None:
    images = torch.randint(0, 256, (9, 3, *size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    spy, array_spy = Spy(), ArraySpy()
    plain, augmented = predict_plain_and_augmented(spy, images, mode, 0.5)
    arrays = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
    array_plain, array_augmented = predict_plain_and_augmented(array_spy, arrays, mode, 0.5)
    for view, array_view in zip(spy.seen, array_spy.seen, strict=True):
        assert array_view.dtype == np.uint8
        np.testing.assert_array_equal(view.permute(0, 2, 3, 1).numpy(), array_view)
    assert array_augmented.dtype == np.float32
    np.testing.assert_array_equal(array_plain, plain.numpy())
    np.testing.assert_array_equal(array_augmented, augmented.numpy())


def test_six_views_are_weighed_one_half_for_the_image_and_one_half_for_the_shifts() -> None:
    spy, images = Spy(), make_images()
    averaged = predict_probabilities(spy, images, "mirror_translate")
    plain, mirrored, *shifted = [Spy()(view) for view in spy.seen]
    torch.testing.assert_close(averaged, (plain + mirrored) / 4 + sum(shifted) / 8)

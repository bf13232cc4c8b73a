"""Test-time augmentation: which views, with what weight, and that bytes stay bytes."""

import pytest
import torch
from torch import Tensor, nn

from cifar10.inference.tta import predict_plain_and_augmented, predict_probabilities


class Spy(nn.Module):
    """Keeps what it is asked, and answers with the brightness of the four corners."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        grey = images.float().mean(dim=1) / 100
        return torch.stack([grey[:, 0, 0], grey[:, 0, -1], grey[:, -1, 0], grey[:, -1, -1]], dim=1)


def make_images() -> Tensor:
    return torch.randint(0, 256, (5, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize(("tta", "num_views"), [("none", 1), ("mirror", 2), ("mirror_translate", 6)])
def test_each_view_is_asked_once_and_rows_sum_to_one(tta: str, num_views: int) -> None:
    spy = Spy()
    probabilities = predict_probabilities(spy, make_images(), tta)  # type: ignore[arg-type]
    assert len(spy.seen) == num_views
    assert all(view.dtype == torch.uint8 and view.shape == (5, 3, 8, 8) for view in spy.seen)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(5))


def test_only_unsure_images_are_asked_again_and_then_get_all_views() -> None:
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

"""One training step: what it hands to the selection, and how an update moves weights and learning rate."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cifar10.config.schema import ResizingStage
from cifar10.training.batches import Batch
from cifar10.training.hard_example_mining import AllExamples
from cifar10.training.step import TrainingStep, make_scheduler, update


class FirstHalf(AllExamples):
    """Selects the first half of each micro-batch, and notes what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[int, ...], int, float, float]] = []
        self.progress = 0.0

    def set_progress(self, progress: float) -> None:
        self.progress = progress

    def choose(self, batch: Batch, number: int, label_smoothing: float) -> Batch:
        images, targets = batch
        self.calls.append((tuple(images.shape), number, self.progress, label_smoothing))
        return images[: len(images) // 2], targets[: len(images) // 2]


def mean_network(images: Tensor) -> Tensor:
    """Return three logits from the mean of each channel."""
    return images.float().mean(dim=(2, 3)) / 100


def test_the_loss_is_of_the_selected_resized_images_with_smoothed_labels() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8, generator=generator)
    targets = torch.arange(6) % 3
    selection = FirstHalf()
    step = TrainingStep(mean_network, selection, [ResizingStage(until=0.5, scale=0.5)], label_smoothing=0.2)
    step.set_progress(0.25)
    loss, logits, selected = step.forward((images, targets), number=7, progress=0.25)
    assert selection.calls == [((6, 3, 4, 4), 7, 0.25, 0.2)]
    assert selected.tolist() == [0, 1, 2] and logits.shape == (3, 3) and logits.dtype == torch.float32
    torch.testing.assert_close(loss, cross_entropy(logits, selected, label_smoothing=0.2))
    later = step.forward((images, targets), number=8, progress=0.5)
    assert selection.calls[-1][0] == (6, 3, 8, 8)
    torch.testing.assert_close(later.logits, mean_network(images[:3]))


def test_each_update_uses_the_rate_of_its_step_and_starts_the_next_gradient_at_zero() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scheduler = make_scheduler(optimizer, lambda progress: 1 - progress, num_steps=4)
    positions = []
    for _ in range(4):
        (-weight).backward()
        update(optimizer, scheduler)
        positions.append(weight.item())
    assert positions == [1.0, 1.75, 2.25, 2.5]
    assert weight.grad is None or not weight.grad.any()


@pytest.mark.parametrize(("clip", "length"), [(None, 5.0), (10.0, 5.0), (1.0, 1.0)])
def test_the_whole_gradient_is_clipped_to_its_largest_norm(clip: float | None, length: float) -> None:
    weights = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weights], lr=1.0)
    (weights @ torch.tensor([3.0, 4.0])).backward()
    update(optimizer, make_scheduler(optimizer, lambda _: 1.0, 1), clip)
    assert weights.norm().item() == pytest.approx(length, rel=1e-5)

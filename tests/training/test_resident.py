"""Resident batches: every image once an epoch, the same whoever asks, and exact to go on from."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cifar10.config.schema import AugmentationConfig
from cifar10.data.image_dataset import Split
from cifar10.data.stored_images import StoredImages
from cifar10.training.augmentation import Augmentation, pack, unpack
from cifar10.training.batches import EvaluationBatches, TrainingBatches
from tests.operations import Operations

CPU = torch.device("cpu")
PLAIN: dict[str, object] = {
    "crop_padding": 0,
    "flip": "none",
    "cutout": 0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
}
SIZE = 8


def make_split(num_images: int = 24) -> Split:
    """Images whose every pixel tells image, row and column apart."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (num_images, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    return Split(images, torch.arange(num_images) % 4)


def make_batches(batch_size: int = 8, num_images: int = 24, **options: Any) -> TrainingBatches:
    sharing = {key: options.pop(key) for key in ("micro_batches", "rank", "world_size", "seed") if key in options}
    config = AugmentationConfig.model_validate({**PLAIN, **options})
    return TrainingBatches(
        make_split(num_images),
        4,
        config,
        batch_size,
        device=CPU,
        **{"seed": 0, **sharing},
    )


def images_of(batches: TrainingBatches, epoch: int = 0, first: int = 0) -> Tensor:
    batches.seek(epoch, first)
    return torch.cat([images for images, _ in batches])


def sorted_rows(images: Tensor) -> Tensor:
    rows: Tensor = images.flatten(1).long().unique(dim=0)
    return rows


def test_packing_loses_nothing() -> None:
    images = make_split().images[:]
    assert torch.equal(unpack(pack(images)), images)


def test_an_epoch_has_every_image_once_and_its_own_label() -> None:
    split, batches = make_split(), make_batches()
    batches.seek(0, 0)
    for images, labels in batches:
        for image, label in zip(images, labels, strict=True):
            [match] = (split.images == image).all(dim=(1, 2, 3)).nonzero().flatten().tolist()
            assert split.labels[match] == label
    assert torch.equal(sorted_rows(images_of(batches)), sorted_rows(split.images[:]))


def test_epochs_differ_in_order_and_repeat_exactly() -> None:
    batches = make_batches(crop_padding=2, flip="random")
    assert not torch.equal(images_of(batches, epoch=0), images_of(batches, epoch=1))
    assert torch.equal(images_of(batches, epoch=1), images_of(make_batches(crop_padding=2, flip="random"), epoch=1))


def test_going_on_within_an_epoch_gives_the_rest_of_it() -> None:
    options: dict[str, Any] = {"crop_padding": 2, "flip": "random", "cutout": 3, "mixup": 0.4}
    whole = images_of(make_batches(**options), epoch=3)
    rest = images_of(make_batches(**options), epoch=3, first=2)
    assert torch.equal(whole[16:], rest)


def test_position_is_asked_for_at_the_first_batch_not_at_iter() -> None:
    batches = make_batches()
    iterator = iter(batches)
    batches.seek(1, 2)
    assert torch.equal(next(iterator)[0], images_of(batches, epoch=1, first=2))


@pytest.mark.parametrize(("micro_batches", "world_size"), [(2, 1), (1, 2), (2, 2)])
def test_sharing_a_batch_changes_neither_images_nor_augmentation(micro_batches: int, world_size: int) -> None:
    options: dict[str, Any] = {"crop_padding": 2, "flip": "random", "brightness": 0.3, "cutmix": 1.0}
    whole = images_of(make_batches(**options))
    shares = [
        images_of(make_batches(**options, micro_batches=micro_batches, rank=rank, world_size=world_size)).split(
            8 // micro_batches // world_size
        )
        for rank in range(world_size)
    ]
    together = torch.cat([share for row in zip(*shares, strict=True) for share in row])
    assert torch.equal(whole, together)


def test_alternating_flip_mirrors_each_image_every_second_epoch() -> None:
    split, batches = make_split(), make_batches(flip="alternating")
    mirrored = sorted_rows(split.images[:].flip(3))
    plain = sorted_rows(split.images[:])

    def flipped(epoch: int) -> set[tuple[int, ...]]:
        rows = {tuple(row) for row in sorted_rows(images_of(batches, epoch)).tolist()}
        mirrors, originals = ({tuple(r) for r in rows_.tolist()} for rows_ in (mirrored, plain))
        assert rows <= mirrors | originals
        return {tuple(torch.tensor(row).view(3, SIZE, SIZE).flip(2).flatten().tolist()) for row in rows & mirrors}

    even, odd = flipped(0), flipped(1)
    assert even.isdisjoint(odd)
    assert len(even) + len(odd) == len(split)
    assert flipped(2) == even


def test_crops_are_shifts_of_the_reflected_image() -> None:
    split, padding = make_split(), 2
    padded = torch.nn.functional.pad(split.images[:].float(), (padding,) * 4, mode="reflect").to(torch.uint8)
    allowed = {
        tuple(row)
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
        for row in padded[:, :, top : top + SIZE, left : left + SIZE].flatten(1).tolist()
    }
    seen = {
        tuple(row)
        for epoch in range(4)
        for row in images_of(make_batches(crop_padding=padding), epoch).flatten(1).tolist()
    }
    assert seen <= allowed
    assert len(seen) > 2 * len(split)  # they do move


def test_cutout_leaves_a_square_of_the_mean_colour() -> None:
    split = make_split()
    fill = split.images[:].float().mean(dim=(0, 2, 3)).round().to(torch.uint8).view(1, 3, 1, 1)
    holes = (images_of(make_batches(cutout=4)) == fill).all(dim=1).flatten(1).sum(dim=1)
    assert int(holes.max()) == 16
    assert int(holes.min()) >= 4  # a hole in a corner is cut to a quarter at most


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_targets_are_probabilities_of_two_classes_at_most(kind: str) -> None:
    batches = make_batches(8, 24, **{kind: 1.0})
    for _, targets in batches:
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(8))
        assert int((targets > 0).sum(dim=1).max()) <= 2


def test_mixup_blends_images_by_the_targets_share() -> None:
    batches = make_batches(mixup=1.0)
    plain = images_of(make_batches()).float()
    images, targets = next(iter(batches))
    blend = targets.max(dim=1).values[targets.max(dim=1).values < 1][0]
    candidates = [blend * plain[0] + (1 - blend) * other for other in plain[:8]]
    candidates += [(1 - blend) * plain[0] + blend * other for other in plain[:8]]
    assert min(float((images[0] - candidate).abs().max()) for candidate in candidates) < 1e-2


def test_images_beyond_the_last_full_batch_wait() -> None:
    batches = make_batches(batch_size=8, num_images=27)
    assert len(batches) == 3
    assert len(images_of(batches)) == 24


def test_a_batch_larger_than_the_set_becomes_the_set() -> None:
    batches = make_batches(batch_size=100, num_images=27, micro_batches=2)
    assert (batches.batch_size, len(batches)) == (26, 2)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_shares_every_image_exactly_once(world_size: int) -> None:
    split = make_split(25)
    shares = [EvaluationBatches(split, 7, CPU, rank, world_size) for rank in range(world_size)]
    images = torch.cat([batch for share in shares for batch, _ in share])
    assert len(images) == 25
    assert torch.equal(sorted_rows(images), sorted_rows(split.images[:]))
    assert len({len(list(share)) for share in shares}) == 1  # the same number of steps, or processes would wait


def test_order_is_numpys_and_stays_so() -> None:
    """A new version of a library must not silently change every recipe's numbers."""
    expected = np.random.default_rng([0, 0, 5]).permutation(24)
    assert make_batches().order(5).tolist() == expected.tolist()


EVERYTHING: dict[str, Any] = {
    "crop_padding": 2,
    "flip": "random",
    "cutout": 3,
    "cutmix": 1.0,
    "brightness": 0.3,
    "contrast": 0.3,
    "saturation": 0.3,
}


@pytest.mark.parametrize("options", [{"crop_padding": 2, "flip": "alternating"}, EVERYTHING, {"mixup": 0.4}])
def test_nothing_is_copied_or_waited_for_within_an_epoch(options: dict[str, Any]) -> None:
    batches = iter(make_batches(**options))
    next(batches)
    with Operations() as operations:
        assert len(list(batches)) == 2
    assert operations.waits == []


def test_waiting_would_be_noticed() -> None:
    with Operations() as operations:
        torch.tensor([1.0, 2.0]).sum().item()
    assert len(operations.waits) == 2


@pytest.mark.parametrize("first", [0, 2])
def test_an_epoch_is_drawn_once_wherever_it_begins(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, epochs = Augmentation.draw, []

    def count(self: Augmentation, order: Any, epoch: int, num_steps: int) -> Any:
        epochs.append(epoch)
        return draw(self, order, epoch, num_steps)

    monkeypatch.setattr(Augmentation, "draw", count)
    images_of(make_batches(**EVERYTHING), epoch=4, first=first)
    assert epochs == [4]


def test_switching_one_change_on_leaves_the_draws_of_the_others() -> None:
    order = np.arange(24)
    draws = [
        Augmentation(
            AugmentationConfig.model_validate({**PLAIN, **options}), 24, SIZE, torch.zeros(3, dtype=torch.uint8), 0
        ).draw(order, epoch=1, num_steps=3)
        for options in ({"crop_padding": 2}, {"crop_padding": 2, "flip": "random", "cutout": 3, "mixup": 1.0})
    ]
    assert np.array_equal(draws[0].shift, draws[1].shift)
    assert not np.array_equal(draws[0].flip, draws[1].flip)


def test_colours_change_as_their_definition_says() -> None:
    options: dict[str, Any] = {"brightness": 0.3, "contrast": 0.4, "saturation": 0.5}
    batches = make_batches(batch_size=24, **options)
    plain, changed = images_of(make_batches(batch_size=24)).double(), images_of(batches).double()
    draws = batches.augmentation.draw(batches.order(0), 0, 1)
    brightness, contrast, saturation = torch.from_numpy(draws.colour).double().view(24, 3, 1, 1, 1).unbind(dim=1)
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(1, 3, 1, 1)
    bright = plain * brightness
    mean = (bright * luma).sum(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True)
    contrasted = mean + (bright - mean) * contrast
    grey = (contrasted * luma).sum(dim=1, keepdim=True)
    torch.testing.assert_close(changed, (grey + (contrasted - grey) * saturation).clamp(0, 255), rtol=1e-4, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", [{"crop_padding": 2, "flip": "alternating", "cutout": 3}, EVERYTHING])
def test_a_gpu_gets_the_same_images(options: dict[str, Any]) -> None:
    config = AugmentationConfig.model_validate({**PLAIN, **options})
    cpu, gpu = (TrainingBatches(make_split(), 4, config, 8, 0, torch.device(kind)) for kind in ("cpu", "cuda"))
    for (images, targets), (same, same_targets) in zip(cpu, gpu, strict=True):
        torch.testing.assert_close(images, same.cpu())
        torch.testing.assert_close(targets, same_targets.cpu())


@pytest.mark.parametrize("options", [{"crop_padding": 2, "flip": "alternating"}, EVERYTHING, {"mixup": 0.4}])
@pytest.mark.parametrize("sharing", [{}, {"micro_batches": 2, "world_size": 2, "rank": 1}])
def test_batches_from_a_file_are_those_from_memory(options: dict[str, Any], sharing: dict[str, int]) -> None:
    resident, split = make_batches(**options, **sharing), make_split()
    pixels = np.concatenate([np.zeros((5, 3, SIZE, SIZE), np.uint8), split.images[:].numpy()[::-1]])
    stored = StoredImages(pixels, np.zeros(len(pixels)), np.arange(len(pixels))[:4:-1])
    config = AugmentationConfig.model_validate({**PLAIN, **options})
    others = TrainingBatches(Split(stored, split.labels), 4, config, 8, seed=0, device=CPU, **sharing)
    for epoch in (0, 1):
        for batches in (resident, others):
            batches.seek(epoch, 1)
        for (images, targets), (same, same_targets) in zip(resident, others, strict=True):
            assert torch.equal(images, same) and torch.equal(targets, same_targets)

"""What a step counts and draws is the same however the steps are grouped."""

from itertools import permutations

import pytest
import torch
from torch import Tensor

from cifar10.training.metrics import _MOST_PENDING, RunningMetrics, own_sums
from cifar10.training.random_seeds import fold_in

Noted = tuple[Tensor, Tensor, Tensor]


def some_batches(number: int) -> list[Noted]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.rand((), generator=generator), torch.randn(5, 3, generator=generator), torch.arange(5) % 3)
        for _ in range(number)
    ]


def sums_when_asked(batches: list[Noted], after: set[int]) -> list[float]:
    tally = RunningMetrics()
    for number, batch in enumerate(batches):
        tally.add(*batch)
        if number in after:
            tally.sums()
    return tally.sums()


def test_sums_do_not_depend_on_when_they_are_asked_for() -> None:
    batches = some_batches(_MOST_PENDING + 10)
    once = sums_when_asked(batches, after=set())
    assert once == sums_when_asked(batches, after={0, 3, 40}) == sums_when_asked(batches, after=set(range(100)))
    assert once[2] == 5 * len(batches)
    assert once[1] == sum(int((logits.argmax(dim=1) == labels).sum()) for _, logits, labels in batches)
    assert once[0] == pytest.approx(sum(5 * float(loss) for loss, _, _ in batches))


def test_mixed_labels_count_by_their_larger_part() -> None:
    tally = RunningMetrics()
    targets = torch.tensor([[0.7, 0.3], [0.1, 0.9]])
    tally.add(torch.tensor(1.0), torch.tensor([[2.0, 1.0], [2.0, 1.0]]), targets)
    assert tally.means() == {"loss": 1.0, "accuracy": 0.5}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_counts_what_a_cpu_counts_and_keeps_no_batch() -> None:
    batches, tally = some_batches(10), RunningMetrics()
    for batch in batches:
        tally.add(*(tensor.cuda() for tensor in batch))
        assert not tally._pending
    assert tally.sums() == pytest.approx(sums_when_asked(batches, after=set()))


def test_counting_waits_for_no_device_until_sums_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("waited")

    for read in ("tolist", "item", "cpu", "numpy", "__int__", "__float__", "__bool__"):
        monkeypatch.setattr(Tensor, read, refuse)
    tally = RunningMetrics()
    for batch in some_batches(_MOST_PENDING + 1):
        tally.add(*batch)
    assert len(tally._pending) == 1  # it has counted
    with pytest.raises(AssertionError, match="waited"):
        tally.sums()


def test_processes_go_on_from_sums_that_count_every_image_once() -> None:
    saved = [[1.5, 3.0, 10.0], [2.5, 4.0, 10.0]]
    assert [own_sums(saved, rank, 2) for rank in range(2)] == saved
    assert [own_sums(saved, rank, 3) for rank in range(3)] == [[4.0, 7.0, 20.0], [0.0] * 3, [0.0] * 3]
    assert own_sums(saved[:1], 0, 1) == saved[0]


def test_restored_sums_go_on() -> None:
    batches = some_batches(7)
    first, second = RunningMetrics(), RunningMetrics()
    for batch in batches[:3]:
        first.add(*batch)
    second.restore(first.sums())
    for batch in batches[3:]:
        second.add(*batch)
    assert second.sums() == sums_when_asked(batches, after=set())


def test_each_number_and_its_place_change_the_seed() -> None:
    seeds = [fold_in(*order) for order in permutations([4, 5, 6, 7])]
    seeds += [fold_in(0, 3, epoch, number) for epoch in range(20) for number in range(500)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_of_neighbours_share_half_their_bits() -> None:
    changed = [(fold_in(0, 3, 1, number) ^ fold_in(0, 3, 1, number + 1)).bit_count() for number in range(1000)]
    assert 30 < sum(changed) / len(changed) < 33  # of 63

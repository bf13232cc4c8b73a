"""Small kernels, compiled and run: what they compute, and that every item is computed once."""

from collections.abc import Iterator, Sequence

import pytest
import torch

from cifar10.kernels.arrays import byte_array, float_array
from cifar10.kernels.codegen import Integer, KernelBuilder, Vector
from cifar10.kernels.jit import Kernel, is_available
from cifar10.kernels.normalization import sigmoid

pytestmark = pytest.mark.skipif(not is_available(), reason="needs llvmlite and PyTorch with GNU's OpenMP")

LANES = 16


@pytest.fixture(params=[1, 2, 3])
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def count_visits(builder: KernelBuilder, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
    visits = float_array(builder, arguments[0])
    with builder.loop(first, end) as item:
        visits.store(visits.load(item * LANES) + 1.0, item * LANES)


@pytest.mark.parametrize("num_items", [0, 1, 2, 7])
def test_every_item_is_computed_once_by_any_number_of_threads(num_items: int, num_threads: int) -> None:
    visits = torch.zeros(8, LANES)
    Kernel(count_visits, num_arguments=1)(num_items, visits)
    expected = torch.zeros(8, LANES)
    expected[:num_items] = 1
    assert torch.equal(visits, expected)


@pytest.mark.parametrize(("num_items", "num_shares", "of_shares"), [(7, 3, [3, 3, 1]), (2, 4, [1, 1]), (8, 1, [8])])
def test_a_share_has_a_number_and_items_that_follow_each_other(
    num_items: int, num_shares: int, of_shares: list[int], num_threads: int
) -> None:
    def emit(builder: KernelBuilder, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        counts = float_array(builder, arguments[0])
        with builder.loop(first, end):
            counts.store(counts.load(builder.share * LANES) + 1.0, builder.share * LANES)

    counts = torch.zeros(8, LANES)
    Kernel(emit, num_arguments=1)(num_items, counts, num_shares=num_shares)
    assert counts[:, 0].tolist() == [*of_shares, *[0] * (8 - len(of_shares))]


@pytest.mark.parametrize("lanes", [8, 16])
def test_sigmoid_is_pytorchs_to_the_last_digits(lanes: int) -> None:
    def emit(builder: KernelBuilder, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        numbers = float_array(builder, arguments[0])
        with builder.loop(first, end) as item:
            numbers.store(sigmoid(builder, numbers.load(item * lanes)), item * lanes)

    numbers = torch.cat([torch.linspace(-100, 100, 4000), torch.linspace(-1, 1, 96)])
    found = numbers.clone()
    Kernel(emit, num_arguments=1, num_lanes=lanes)(len(numbers) // lanes, found)
    torch.testing.assert_close(found.double(), numbers.double().sigmoid(), rtol=5e-7, atol=1e-37)


def test_nontemporal_stores_arrive_and_bytes_keep_their_value() -> None:
    def emit(builder: KernelBuilder, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        source, target = float_array(builder, arguments[0]), float_array(builder, arguments[1])
        numbers, copies = byte_array(builder, arguments[2]), byte_array(builder, arguments[3])
        with builder.loop(first, end) as item:
            source.prefetch(item * LANES + 10**6)  # far behind the end: allowed
            target.store_nontemporal(source.load(item * LANES), item * LANES)
            copies.store(numbers.load(item * LANES), item * LANES)

    source, numbers = torch.randn(5 * LANES), torch.randint(0, 256, (5 * LANES,), dtype=torch.uint8)
    target, copies = torch.zeros(5 * LANES), torch.zeros_like(numbers)
    Kernel(emit, num_arguments=4)(5, source, target, numbers, copies)
    assert torch.equal(target, source)
    assert torch.equal(copies, numbers)


def test_each_thread_has_its_own_workspace(num_threads: int) -> None:
    def emit(builder: KernelBuilder, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        source, target = (float_array(builder, argument) for argument in arguments)
        arrays = [float_array(builder, builder.allocate(8 * LANES - 3)) for _ in range(2)]
        for sign, array in zip((1.0, -1.0), arrays, strict=True):
            with builder.loop(first, end) as item:
                array.store(source.load(item * LANES) * sign, (item - first) * LANES)
        for number, array in enumerate(arrays):
            with builder.loop(first, end) as item:
                target.store(array.load((item - first) * LANES), (item * 2 + number) * LANES)

    source, target = torch.randn(8, LANES), torch.zeros(8, 2, LANES)
    Kernel(emit, num_arguments=2)(8, source, target)
    assert torch.equal(target, torch.stack([source, -source], dim=1))


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_fold_carries_what_its_body_returned(count: int) -> None:
    def emit(builder: KernelBuilder, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        numbers, result = (float_array(builder, argument) for argument in arguments)

        def body(number: Integer, sums: list[Vector]) -> list[Vector]:
            total, last = sums
            scale = numbers.broadcast(number)
            return [total * 2.0 + scale, total + last * 0.0]

        total, before = builder.fold(0, count, [builder.constant(1.0), builder.constant(-1.0)], body)
        result.store(total, 0)
        result.store(before, LANES)

    numbers, result = torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0]), torch.zeros(2, LANES)
    Kernel(emit, num_arguments=2)(1, numbers, result)
    totals = [-1.0, 1.0]
    for number in numbers[:count].tolist():
        totals.append(2 * totals[-1] + number)
    assert result.tolist() == [[totals[-1]] * LANES, [totals[-2]] * LANES]

"""Small programs, compiled and run: what they compute, and that every item is computed once."""

from collections.abc import Iterator, Sequence

import pytest
import torch

from cifar10.kernels import machine_code
from cifar10.kernels.machine_code import Kernel, are_usable
from cifar10.kernels.program import Integer, Program, array, byte_array

pytestmark = pytest.mark.skipif(not are_usable(), reason="needs llvmlite and PyTorch with GNU's OpenMP")

LANES = 16


@pytest.fixture(params=[1, 2, 3])
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def count_visits(program: Program, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
    visits = array(arguments[0])
    with program.loop(first, end) as item:
        visits.store(visits.load(item * LANES) + 1.0, item * LANES)


@pytest.mark.parametrize("num_items", [0, 1, 2, 7])
def test_every_item_is_worked_on_once_however_many_threads_there_are(num_items: int, num_threads: int) -> None:
    visits = torch.zeros(8, LANES)
    Kernel(count_visits, num_arguments=1)(num_items, visits)
    expected = torch.zeros(8, LANES)
    expected[:num_items] = 1
    assert torch.equal(visits, expected)


@pytest.mark.parametrize("lanes", [8, 16])
def test_sigmoid_is_pytorchs_to_the_last_digits(lanes: int) -> None:
    def emit(program: Program, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        numbers = array(arguments[0])
        with program.loop(first, end) as item:
            numbers.store(program.sigmoid(numbers.load(item * lanes)), item * lanes)

    numbers = torch.cat([torch.linspace(-100, 100, 4000), torch.linspace(-1, 1, 96)])
    found = numbers.clone()
    Kernel(emit, num_arguments=1, num_lanes=lanes)(len(numbers) // lanes, found)
    torch.testing.assert_close(found.double(), numbers.double().sigmoid(), rtol=5e-7, atol=1e-37)


def test_streamed_numbers_arrive_and_bytes_keep_their_value() -> None:
    def emit(program: Program, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        source, target = array(arguments[0]), array(arguments[1])
        numbers, copies = byte_array(arguments[2]), byte_array(arguments[3])
        with program.loop(first, end) as item:
            source.prefetch(item * LANES + 10**6)  # far behind the end: allowed
            target.stream(source.load(item * LANES), item * LANES)
            copies.store(numbers.load(item * LANES), item * LANES)

    source, numbers = torch.randn(5 * LANES), torch.randint(0, 256, (5 * LANES,), dtype=torch.uint8)
    target, copies = torch.zeros(5 * LANES), torch.zeros_like(numbers)
    Kernel(emit, num_arguments=4)(5, source, target, numbers, copies)
    assert torch.equal(target, source)
    assert torch.equal(copies, numbers)


def test_kernels_can_be_forbidden() -> None:
    try:
        machine_code.allow(False)
        assert not are_usable()
    finally:
        machine_code.allow(True)
    assert are_usable()

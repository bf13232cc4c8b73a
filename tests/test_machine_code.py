"""Small programs, compiled and run: what they compute, and that every item is computed once."""

from collections.abc import Iterator, Sequence

import pytest
import torch

from cifar10.kernels import machine_code
from cifar10.kernels.arrays import array, byte_array
from cifar10.kernels.machine_code import Kernel, are_usable
from cifar10.kernels.program import Integer, Lanes, Program

pytestmark = pytest.mark.skipif(not are_usable(), reason="needs llvmlite and PyTorch with GNU's OpenMP")

LANES = 16


@pytest.fixture(params=[1, 2, 3])
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def count_visits(program: Program, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
    visits = array(arguments[0], program)
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
        numbers = array(arguments[0], program)
        with program.loop(first, end) as item:
            numbers.store(program.sigmoid(numbers.load(item * lanes)), item * lanes)

    numbers = torch.cat([torch.linspace(-100, 100, 4000), torch.linspace(-1, 1, 96)])
    found = numbers.clone()
    Kernel(emit, num_arguments=1, num_lanes=lanes)(len(numbers) // lanes, found)
    torch.testing.assert_close(found.double(), numbers.double().sigmoid(), rtol=5e-7, atol=1e-37)


def test_streamed_numbers_arrive_and_bytes_keep_their_value() -> None:
    def emit(program: Program, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        source, target = array(arguments[0], program), array(arguments[1], program)
        numbers, copies = byte_array(arguments[2], program), byte_array(arguments[3], program)
        with program.loop(first, end) as item:
            source.prefetch(item * LANES + 10**6)  # far behind the end: allowed
            target.stream(source.load(item * LANES), item * LANES)
            copies.store(numbers.load(item * LANES), item * LANES)

    source, numbers = torch.randn(5 * LANES), torch.randint(0, 256, (5 * LANES,), dtype=torch.uint8)
    target, copies = torch.zeros(5 * LANES), torch.zeros_like(numbers)
    Kernel(emit, num_arguments=4)(5, source, target, numbers, copies)
    assert torch.equal(target, source)
    assert torch.equal(copies, numbers)


def test_each_thread_has_rooms_of_its_own(num_threads: int) -> None:
    def emit(program: Program, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        source, target = (array(argument, program) for argument in arguments)
        rooms = [array(program.room(8 * LANES - 3), program) for _ in range(2)]
        for sign, room in zip((1.0, -1.0), rooms, strict=True):
            with program.loop(first, end) as item:
                room.store(source.load(item * LANES) * sign, (item - first) * LANES)
        for number, room in enumerate(rooms):
            with program.loop(first, end) as item:
                target.store(room.load((item - first) * LANES), (item * 2 + number) * LANES)

    source, target = torch.randn(8, LANES), torch.zeros(8, 2, LANES)
    Kernel(emit, num_arguments=2)(8, source, target)
    assert torch.equal(target, torch.stack([source, -source], dim=1))


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_fold_goes_on_with_what_its_body_returned(count: int) -> None:
    def emit(program: Program, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        numbers, result = (array(argument, program) for argument in arguments)

        def body(number: Integer, sums: list[Lanes]) -> list[Lanes]:
            total, last = sums
            scale = numbers.broadcast(number)
            return [total * 2.0 + scale, total + last * 0.0]

        total, before = program.fold(0, count, [program.constant(1.0), program.constant(-1.0)], body)
        result.store(total, 0)
        result.store(before, LANES)

    numbers, result = torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0]), torch.zeros(2, LANES)
    Kernel(emit, num_arguments=2)(1, numbers, result)
    totals = [-1.0, 1.0]
    for number in numbers[:count].tolist():
        totals.append(2 * totals[-1] + number)
    assert result.tolist() == [[totals[-1]] * LANES, [totals[-2]] * LANES]


def test_kernels_can_be_forbidden() -> None:
    try:
        machine_code.allow(False)
        assert not are_usable()
    finally:
        machine_code.allow(True)
    assert are_usable()

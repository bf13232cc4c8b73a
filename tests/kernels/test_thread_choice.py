"""Threads of small batches: all on an idle machine, fewer where they wait for each other, and all again after that."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from cifar10.kernels.thread_choice import ThreadChoice

ALONE = {1: 0.47e-3, 2: 0.25e-3}  # seconds of one image, as on two cores of an EPYC
Machine = Callable[[int], float]
"""Number of threads -> seconds of a batch of one image."""


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def idle(random: np.random.Generator) -> Machine:
    """Return a machine whose batches are sometimes delayed, as on any."""
    return lambda number: ALONE[number] * random.uniform(1, 1.1) + (0.005 if random.random() < 0.002 else 0)


def busy(random: np.random.Generator) -> Machine:
    """Return a machine on which two threads often wait for some milliseconds."""
    return lambda number: idle(random)(number) + (0.01 if number == 2 and random.random() < 0.07 else 0)


def compute(choice: ThreadChoice, machine: Machine, seconds: float) -> Iterator[tuple[int, float]]:
    """Yield the number of threads and the seconds of each batch until they took `seconds` together."""
    total = 0.0
    while total < seconds:
        number, taken = choice.number, machine(choice.number)
        choice.record(1, taken)
        total += taken
        yield number, taken


def mean_seconds(choice: ThreadChoice, machine: Machine, seconds: float) -> float:
    return float(np.mean([taken for _, taken in compute(choice, machine, seconds)]))


def test_an_idle_machine_uses_all_threads(random: np.random.Generator) -> None:
    numbers = [number for number, _ in compute(ThreadChoice(2), idle(random), 20)]
    assert np.mean(np.array(numbers) == 2) > 0.98


def test_where_threads_wait_for_each_other_one_computes_alone(random: np.random.Generator) -> None:
    choice = ThreadChoice(2)
    assert np.mean([busy(random)(2) for _ in range(10_000)]) > 0.9e-3
    assert mean_seconds(choice, busy(random), 0.5) < 0.9e-3
    assert mean_seconds(choice, busy(random), 20) < 0.53e-3


def test_all_threads_return_when_the_other_work_ends(random: np.random.Generator) -> None:
    choice = ThreadChoice(2)
    mean_seconds(choice, busy(random), 30)
    assert choice.number == 1
    mean_seconds(choice, idle(random), 7)
    assert mean_seconds(choice, idle(random), 20) < 0.3e-3


@pytest.mark.slow
def test_other_work_is_noticed_after_a_long_time_without(random: np.random.Generator) -> None:
    choice = ThreadChoice(2)
    mean_seconds(choice, idle(random), 30)
    mean_seconds(choice, busy(random), 7)
    assert mean_seconds(choice, busy(random), 10) < 0.6e-3


@pytest.mark.parametrize("best", [1, 2, 3, 6])
def test_the_fastest_of_several_numbers_is_found(best: int, random: np.random.Generator) -> None:
    def machine(number: int) -> float:
        return 0.001 / number + (0.01 if number > best and random.random() < 0.3 else 0)

    choice = ThreadChoice(6)
    mean_seconds(choice, machine, 10)
    numbers = [number for number, _ in compute(choice, machine, 30)]
    assert np.mean(np.array(numbers) == best) > 0.9


def test_on_a_machine_that_became_slower_all_threads_return(random: np.random.Generator) -> None:
    choice = ThreadChoice(4)
    mean_seconds(choice, lambda number: 0.001 / number, 1)
    mean_seconds(choice, lambda number: 0.001 / number + (0.01 if number == 4 and random.random() < 0.3 else 0), 4)
    assert choice.number == 2
    mean_seconds(choice, lambda number: 0.0016 / number, 20)
    assert mean_seconds(choice, lambda number: 0.0016 / number, 20) < 0.00045


def test_one_thread_stays_one() -> None:
    assert {number for number, _ in compute(ThreadChoice(1), lambda number: 0.01 * number, 2)} == {1}

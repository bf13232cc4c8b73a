"""Both units add the same products; vectors leave out rows and pairs that do not matter."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from cifar10.kernels import amx, bfloat16_units
from cifar10.kernels.bfloat16_units import Factor, MatrixUnit, Unit, VectorUnit
from cifar10.kernels.codegen import Integer, KernelBuilder
from cifar10.kernels.jit import Kernel

ALL = range(16)
LEFT_STRIDE, SUM_STRIDE = 96, 128  # bytes; more than the 64 of a row

needs_vectors = pytest.mark.skipif(not bfloat16_units.is_available(), reason="needs a CPU with bfloat16, and llvmlite")
needs_amx = pytest.mark.skipif(not amx.is_available("amx_bf16"), reason="needs a CPU with AMX, and llvmlite")


def product(
    unit: type[Unit], shape: tuple[int, int], rows: Sequence[int] = ALL, pairs: Sequence[int] = ALL
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return tiles below each other, tiles beside each other, sums before, and sums after their product was added."""
    num_rows, num_columns = shape
    random = torch.Generator().manual_seed(0)
    left = torch.randn(16 * num_rows, LEFT_STRIDE // 2, generator=random).bfloat16()
    right = torch.randn(16, 16 * num_columns, 2, generator=random).bfloat16()  # pairs, columns
    sums = torch.randn(16 * num_rows, SUM_STRIDE // 4, generator=random)
    before = sums.clone()

    def emit(builder: KernelBuilder, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        lefts, rights, total, configuration = arguments
        computing = unit(builder)
        computing.configure(configuration)
        places = [
            (2 * row + column, total + (row * 16 * SUM_STRIDE + column * 64))
            for row in range(num_rows)
            for column in range(num_columns)
        ]
        with builder.loop(first, end):
            for number, address in places:
                computing.load(number, address, SUM_STRIDE)
            computing.add(
                Factor([lefts + row * 16 * LEFT_STRIDE for row in range(num_rows)], LEFT_STRIDE, [rows] * num_rows),
                Factor(
                    [rights + column * 64 for column in range(num_columns)], 64 * num_columns, [pairs] * num_columns
                ),
            )
            for number, address in places:
                computing.store(number, address, SUM_STRIDE)
        computing.release()

    Kernel(emit, num_arguments=4)(1, left, right, sums, amx.configuration())
    return left, right, before, sums


def expected(left: Tensor, right: Tensor, before: Tensor) -> Tensor:
    result = before.clone()
    factor = right.float().transpose(1, 2).reshape(32, -1)
    result[:, : factor.shape[1]] += left[:, :32].float() @ factor
    return result


@pytest.mark.parametrize(
    "unit", [pytest.param(MatrixUnit, marks=needs_amx), pytest.param(VectorUnit, marks=needs_vectors)]
)
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_the_product_is_added_to_the_sums(unit: type[Unit], shape: tuple[int, int]) -> None:
    left, right, before, after = product(unit, shape)
    torch.testing.assert_close(after, expected(left, right, before), rtol=1e-5, atol=1e-5)
    assert torch.equal(after[:, 16 * shape[1] :], before[:, 16 * shape[1] :])


@needs_vectors
def test_vectors_leave_out_the_rows_and_pairs_that_do_not_matter() -> None:
    rows, pairs = [0, 1, 2, 5, 15], [0, 3, 4, 5, 9]
    left, right, before, after = product(VectorUnit, (2, 2), rows, pairs)
    for pair in set(ALL) - set(pairs):
        right[pair] = 0
    of_all = expected(left, right, before)
    is_computed = torch.tensor([row % 16 in rows for row in range(32)])
    torch.testing.assert_close(after[is_computed], of_all[is_computed], rtol=1e-5, atol=1e-5)
    assert torch.equal(after[~is_computed], before[~is_computed])

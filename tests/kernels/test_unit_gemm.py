"""Products of packed matrices by units for tiles, and the packing of what is summed over rows."""

from collections.abc import Sequence

import pytest
import torch

from cifar10.kernels import amx, bfloat16_units
from cifar10.kernels.bfloat16_units import MatrixUnit, Unit, VectorUnit
from cifar10.kernels.codegen import Integer, KernelBuilder
from cifar10.kernels.gemm import Matrix, packed_matrix
from cifar10.kernels.jit import Kernel
from cifar10.kernels.unit_gemm import clear_rows, fits_unit, multiply_by_unit, rounded_up, transpose_pairs

needs_vectors = pytest.mark.skipif(not bfloat16_units.is_available(), reason="needs a CPU with bfloat16, and llvmlite")
needs_amx = pytest.mark.skipif(not amx.is_available("amx_bf16"), reason="needs a CPU with AMX, and llvmlite")


def test_channels_fit_in_multiples_of_32() -> None:
    assert fits_unit(32, 256)
    assert not fits_unit(24) and not fits_unit(48) and not fits_unit(64, 16)
    assert [rounded_up(number) for number in (1, 31, 32, 33)] == [32, 32, 32, 64]


@pytest.mark.parametrize(
    "unit", [pytest.param(MatrixUnit, marks=needs_amx), pytest.param(VectorUnit, marks=needs_vectors)]
)
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize(("rows", "inner", "columns"), [(1, 32, 32), (33, 64, 32), (64, 96, 96)])
def test_a_product_of_packed_matrices(rows: int, inner: int, columns: int, accumulate: bool, unit: type[Unit]) -> None:
    random = torch.Generator().manual_seed(0)
    left = torch.full((rounded_up(rows), inner), torch.nan).bfloat16()  # what follows the last row is not looked at
    left[:rows] = torch.randn(rows, inner, generator=random)
    right = torch.randn(inner, columns, generator=random).bfloat16()
    packed = right.view(inner // 2, 2, columns // 32, 32).permute(2, 0, 3, 1).contiguous()
    target = torch.randn(3, columns // 32, rounded_up(rows), 32, generator=random)
    before = target.clone()

    def emit(builder: KernelBuilder, first: Integer, _end: Integer, arguments: Sequence[Integer]) -> None:
        lefts, rights, targets, configuration = arguments
        computing = unit(builder)
        computing.configure(configuration)
        with builder.loop(1, first + 2) as number:
            multiply_by_unit(
                computing,
                Matrix(lefts, builder.integer(0), row_stride=inner // 2, column_stride=1),
                packed_matrix(rights, builder.integer(0), inner // 2, columns),
                packed_matrix(targets, number, rounded_up(rows), columns),
                (number + (rows - 1), inner // 2, columns),
                accumulate,
            )
        computing.release()

    Kernel(emit, num_arguments=4)(1, left, packed, target, amx.configuration())
    found = target[1].permute(1, 0, 2).reshape(-1, columns)[:rows]
    start = before[1].permute(1, 0, 2).reshape(-1, columns)[:rows] if accumulate else 0
    torch.testing.assert_close(found, left[:rows].float() @ right.float() + start, rtol=1e-5, atol=1e-4)
    assert torch.equal(target[[0, 2]], before[[0, 2]])


@needs_vectors
@pytest.mark.parametrize(("rows", "columns"), [(1, 32), (31, 64), (64, 96), (70, 32)])
def test_columns_become_rows_and_zeros_follow(rows: int, columns: int) -> None:
    whole = rounded_up(rows)
    source = torch.randn(whole + 1, columns, generator=torch.Generator().manual_seed(0)).bfloat16()
    before, target = source.clone(), torch.full((columns, whole), torch.nan).bfloat16()

    def emit(builder: KernelBuilder, _first: Integer, _end: Integer, arguments: Sequence[Integer]) -> None:
        sources, targets = arguments
        start, end = builder.integer(rows), builder.integer(whole)
        matrix = Matrix(sources, builder.integer(0), row_stride=columns // 2, column_stride=1)
        clear_rows(builder, matrix, start, end, columns // 2)
        transposed = Matrix(targets, builder.integer(0), row_stride=whole // 2, column_stride=1)
        transpose_pairs(builder, matrix, transposed, (end, columns))

    Kernel(emit, num_arguments=2)(1, source, target)
    assert torch.equal(target[:, :rows], before[:rows].T) and not target[:, rows:].any()
    assert torch.equal(source[whole:], before[whole:])

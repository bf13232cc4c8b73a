"""The packing of factors for units that multiply tiles."""

from collections.abc import Sequence

import pytest
import torch

from cifar10.kernels import bfloat16_units
from cifar10.kernels.codegen import Integer, KernelBuilder
from cifar10.kernels.gemm import Matrix
from cifar10.kernels.jit import Kernel
from cifar10.kernels.unit_packing import clear_rows, rounded_up, transpose_pairs

needs_vectors = pytest.mark.skipif(not bfloat16_units.is_available(), reason="needs a CPU with bfloat16, and llvmlite")


def test_rows_are_rounded_up_to_multiples_of_32() -> None:
    assert [rounded_up(number) for number in (1, 31, 32, 33)] == [32, 32, 32, 64]


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

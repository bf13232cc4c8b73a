"""Gradients of filters: products of a gradient and what it was computed from, summed over positions and images.

The sums over several images stay in the tile registers. A left factor has positions side by side, see
`pooling_operands`; a right factor has pairs of positions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cifar10.kernels.amx import ROW_BYTES
from cifar10.kernels.bfloat16_units import Factor, Unit
from cifar10.kernels.codegen import Integer
from cifar10.kernels.halves import BYTES, LANES
from cifar10.kernels.pooling_operands import ROWS_OF_PARITY, SHIFTED_BYTES
from cifar10.kernels.pooling_shapes import DEPTH, STEM_SIDE, STEM_SIZE, TILE_BYTES, PoolingShapes, Stage
from cifar10.kernels.tile_products import Sums, add_products, in_twos

PAIR_BYTES = 4
"""Of two bfloat16."""


@dataclass(frozen=True)
class Slot:
    """Addresses of the factors for one image of a block."""

    shifted_pixels: Integer
    stem_pairs: Integer
    transposed: tuple[Integer, Integer]
    """Maps before each stage, (maps, C, positions)."""
    pairs: tuple[Integer, Integer]
    """Gradients after each stage, (positions / 2, K, 2)."""


@dataclass(frozen=True)
class Block:
    """Several images whose products are summed together."""

    slot: Callable[[Integer], Slot]
    """Number of an image in the block -> its factors."""
    num_images: Integer


def add_filter_gradients(unit: Unit, shapes: PoolingShapes, block: Block, gradients: Integer) -> None:
    """Add the gradients of all filters; `gradients` is the address of their unit, see `gradient_places`."""
    _add_stem_gradient(unit, shapes.stem_width, block, gradients)
    gradients = gradients + shapes.stem_tiles * TILE_BYTES
    for number, stage in enumerate((shapes.first, shapes.second)):
        _add_stage_gradient(unit, stage, number, block, gradients)
        gradients = gradients + stage.gradient_tiles * TILE_BYTES


def _add_stem_gradient(unit: Unit, width: int, block: Block, gradients: Integer) -> None:
    groups = width // LANES
    for columns in in_twos(groups):
        for rows in in_twos(STEM_SIDE):
            total = Sums(
                [[gradients + (dy * groups + group) * TILE_BYTES for group in columns] for dy in rows], ROW_BYTES
            )
            total.load(unit)
            builder = unit.builder
            with builder.loop(0, block.num_images) as image, builder.loop(0, STEM_SIZE // 2) as step:
                slot = block.slot(image)
                pixels = slot.shifted_pixels + step * (DEPTH * BYTES)
                places = [((dy % 2) * ROWS_OF_PARITY + dy // 2) * (STEM_SIZE * BYTES) for dy in rows]
                pairs = slot.stem_pairs + step * (DEPTH * width * BYTES)
                left = Factor([pixels + place for place in places], SHIFTED_BYTES)
                add_products(unit, [(left, _pairs_factor(pairs, columns, width))])
            total.store(unit)


def _add_stage_gradient(unit: Unit, stage: Stage, number: int, block: Block, gradients: Integer) -> None:
    groups_in, groups_out = stage.channels_in // LANES, stage.channels_out // LANES
    row_bytes, step_bytes = stage.positions * BYTES, DEPTH * stage.channels_out * BYTES
    for tap, (source, shift) in enumerate(stage.taps):
        for rows in in_twos(groups_in):
            for columns in in_twos(groups_out):
                numbers = [[(tap * groups_in + row) * groups_out + column for column in columns] for row in rows]
                total = Sums([[gradients + tile * TILE_BYTES for tile in line] for line in numbers], ROW_BYTES)
                total.load(unit)
                with unit.builder.loop(0, block.num_images) as image:
                    slot = block.slot(image)
                    maps = slot.transposed[number] + (source * stage.map_bytes + (stage.origin() + shift) * BYTES)
                    products = []
                    for step in range(stage.num_steps):
                        first = maps + step * (DEPTH * BYTES)
                        left = Factor([first + row * (LANES * row_bytes) for row in rows], row_bytes)
                        right = _pairs_factor(
                            slot.pairs[number] + step * step_bytes,
                            columns,
                            stage.channels_out,
                            stage.pairs_of_step(step),
                        )
                        products.append((left, right))
                    add_products(unit, products)
                total.store(unit)


def _pairs_factor(pairs: Integer, groups: range, channels: int, inside: Sequence[int] = range(DEPTH // 2)) -> Factor:
    """Return the right factor of 32 positions, for groups of 16 channels; pairs that are not `inside` are zero."""
    addresses = [pairs + group * (LANES * PAIR_BYTES) for group in groups]
    return Factor(addresses, channels * PAIR_BYTES, [inside] * 2)

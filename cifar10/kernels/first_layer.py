"""The first layer in one pass: a convolution of pixels in float32, SiLU, and rounding to the format of the maps."""

import functools
from collections.abc import Sequence

from cifar10.kernels.arithmetic import silu
from cifar10.kernels.arrays import ByteArray, FloatArray, byte_array, float_array
from cifar10.kernels.codegen import Integer, KernelBuilder, Vector
from cifar10.kernels.feature_maps import FeatureMaps
from cifar10.kernels.fused_layer import LANES, OUTPUT_SCALE, OUTPUT_ZERO, SHIFT
from cifar10.kernels.jit import Kernel


@functools.cache
def first_layer_kernel(image_size: int, side: int, target_maps: FeatureMaps) -> Kernel:
    """Compile SiLU(convolution) of pixels, uint8 (B, S, S, 3), with `side` x `side` filters and no border.

    An item is a row of an image. Arguments: pixels, weights (side side 3, C) and constants (rows, C) in float32,
    target.
    """
    row_numbers = 3 * image_size
    # First channels of vectors: the last may overlap the one before it; what is beyond keeps what was allocated.
    vectors = [min(first, target_maps.channels - LANES) for first in range(0, target_maps.num_channels, LANES)]
    arithmetic = target_maps.arithmetic

    def emit(builder: KernelBuilder, first: Integer, end: Integer, arguments: Sequence[Integer]) -> None:
        pixels, weights, constants, target = arguments
        weight, constant = float_array(builder, weights), float_array(builder, constants)
        rows = float_array(builder, builder.allocate(side * row_numbers))
        numbers = range(side * side * 3)
        scales = [[weight.load(n * target_maps.channels + channel) for channel in vectors] for n in numbers]

        def load(row: int, channel: int) -> Vector:
            return constant.load(row * target_maps.channels + channel)

        with builder.loop(first, end) as item:
            image, row = item // target_maps.size, item % target_maps.size
            for y in range(side):
                bytes_of_row = byte_array(builder, pixels + (image * image_size + row + y) * row_numbers)
                _widen(builder, bytes_of_row, rows, y * row_numbers, row_numbers)
            with builder.loop(0, target_maps.size) as x:
                sums = [load(SHIFT, channel) for channel in vectors]
                for number in numbers:
                    y, place = divmod(number, side * 3)
                    pixel = rows.broadcast(x * 3 + (y * row_numbers + place))
                    sums = [pixel * scale + total for scale, total in zip(scales[number], sums, strict=True)]
                for channel, total in zip(vectors, sums, strict=True):
                    result = silu(builder, total)
                    if arithmetic.is_integer:
                        result = result * load(OUTPUT_SCALE, channel) + load(OUTPUT_ZERO, channel)
                    offset = target_maps.offset(image, row, x) + channel * arithmetic.bytes
                    arithmetic.store(builder, result, target + offset)

    return Kernel(emit, num_arguments=4, num_lanes=LANES)


def _widen(builder: KernelBuilder, source: ByteArray, target: FloatArray, start: int, length: int) -> None:
    """Convert `length` uint8 to float32; the last vector overlaps the one before it, so that no more is read."""
    with builder.loop(0, length // LANES * LANES, LANES) as place:
        target.store(source.load(place).to_float(), place + start)
    if length % LANES:
        place = builder.integer(length - LANES)
        target.store(source.load(place).to_float(), place + start)

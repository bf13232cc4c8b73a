"""The network in 8-bit integers: what its rounded numbers give in exact arithmetic, on matrix tiles and on vectors."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cifar10.kernels import FusedNetwork, InputRange, amx, input_ranges
from cifar10.kernels.arithmetic import INT8_AMX, INT8_VNNI, Arithmetic
from cifar10.kernels.feature_maps import FeatureMaps
from cifar10.kernels.fused_convolution import convolution_kernel
from cifar10.kernels.fused_layer import FusedConvolution, Pooling
from cifar10.kernels.quantization import integer_constants, quantize_filters
from cifar10.kernels.thread_choice import ThreadChoice
from cifar10.networks.speed import ConvolutionGroup, SpeedNet
from tests.kernels.test_fused_network import make_images, make_network, pixels_of

_SILU_ERROR = 2e-4  # of the size of a value: that of the kernels, and float32 rounding
ARITHMETICS = [
    pytest.param(each, id=each.unit, marks=pytest.mark.skipif(each.missing() is not None, reason=f"needs {each.unit}"))
    for each in (INT8_AMX, INT8_VNNI)
]
needs_both = pytest.mark.skipif(
    INT8_AMX.missing() is not None or INT8_VNNI.missing() is not None, reason="needs a CPU with AMX and AVX-512 VNNI"
)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def in_maps(maps: FeatureMaps, values: Tensor, zero: int) -> Tensor:
    """Return memory that holds `values`, (B, C, H, H), and `zero` elsewhere."""
    memory = maps.allocate(len(values), overhang=200, zero=zero)
    positions_of(maps, memory, len(values))[..., : values.shape[1]] = values.permute(0, 2, 3, 1)
    return memory


def positions_of(maps: FeatureMaps, memory: Tensor, num_images: int) -> Tensor:
    """Return the part of `memory` without borders, (B, H, H, channels)."""
    first = maps.pitch + 1
    whole = memory.view(-1, maps.channels)[first : first + num_images * maps.image_positions]
    return whole.view(num_images, maps.pitch, maps.pitch, maps.channels)[:, : maps.size, : maps.size]


class Layer(NamedTuple):
    """A convolution in integers with random numbers."""

    source: Tensor  # uint8 (B, C, H, H)
    shortcut: Tensor  # uint8 (B, K, H, H)
    filters: Tensor  # whole numbers, (K, C, 3, 3)
    scales: Tensor  # (K,)
    shifts: Tensor  # (K,)
    ranges: tuple[InputRange, InputRange, InputRange]  # of source, target and shortcut


def make_layer(size: int, channels_in: int, channels_out: int, num_images: int = 3) -> Layer:
    generator = torch.Generator().manual_seed(size)

    def numbers(*shape: int) -> Tensor:
        return torch.randint(0, 256, shape, generator=generator).to(torch.uint8)

    weight = torch.randn(channels_out, channels_in, 3, 3, generator=generator) * channels_in**-0.5 / 3
    filters, scales = quantize_filters(weight)
    return Layer(
        numbers(num_images, channels_in, size, size),
        numbers(num_images, channels_out, size, size),
        filters,
        scales,
        torch.randn(channels_out, generator=generator),
        (InputRange(0.02, 31), InputRange(0.013, 21), InputRange(0.01, 77)),
    )


def computed(layer: Layer, arithmetic: Arithmetic, pooling: Pooling, has_shortcut: bool) -> Tensor:
    """Return what the kernel computes: uint8 (B, K, H', H'), or float32 (B, K)."""
    num_images, channels_in, size, _ = layer.source.shape
    shape = FusedConvolution(size, channels_in, len(layer.filters), pooling, has_shortcut, arithmetic)
    source, target, shortcut = layer.ranges
    constants = integer_constants(
        layer.filters, layer.scales, layer.shifts, source, target, shortcut if has_shortcut else None
    )
    if pooling == "global":
        results = torch.zeros(num_images, shape.channels_out)
    else:
        results = shape.target.allocate(num_images, 0, target.zero_point)
    added = [in_maps(shape.target, layer.shortcut, shortcut.zero_point)] if has_shortcut else []
    convolution_kernel(shape, 2)(
        -(-num_images // 2) * shape.num_slabs,
        in_maps(shape.source, layer.source, source.zero_point),
        shape.pack(layer.filters),
        constants,
        results,
        amx.configuration() if arithmetic.has_tiles else shape.starts(layer.filters, source.zero_point),
        num_images,
        *added,
    )
    if pooling == "global":
        return results
    inside = positions_of(shape.target, results, num_images)[..., : shape.channels_out].permute(0, 3, 1, 2)
    in_borders = (results != target.zero_point).sum() - (inside != target.zero_point).sum()
    assert in_borders == 0, "borders and added channels keep the zero point"
    return inside


def exact(layer: Layer, pooling: Pooling, has_shortcut: bool) -> Tensor:
    """Return the same in float64, neither rounded nor limited."""
    source, target, shortcut = layer.ranges
    centred = layer.source.double() - source.zero_point
    sums = functional.conv2d(centred, layer.filters.double(), padding=1)
    values = sums * (layer.scales.double() * source.scale)[:, None, None] + layer.shifts.double()[:, None, None]
    if pooling == "pairs":
        values = functional.max_pool2d(values, 2)
    if has_shortcut:
        values = values + (layer.shortcut.double() - shortcut.zero_point) * shortcut.scale
    activated = functional.silu(values)
    return activated.amax(dim=(2, 3)) if pooling == "global" else activated / target.scale + target.zero_point


@pytest.mark.slow
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize(
    ("size", "channels", "pooling", "has_shortcut"),
    [
        (15, (24, 64), "pairs", False),
        (8, (64, 32), "pairs", False),
        (31, (24, 32), "pairs", False),
        (13, (40, 32), "none", True),
        (7, (96, 64), "none", False),
        (7, (64, 64), "none", True),
        (20, (32, 32), "none", True),
        (3, (64, 32), "global", False),
        (3, (32, 32), "global", True),
        (2, (32, 32), "pairs", False),
        (2, (32, 64), "none", True),
        (1, (32, 64), "global", True),
    ],
)
def test_a_layer_rounds_the_exact_values(
    arithmetic: Arithmetic, size: int, channels: tuple[int, int], pooling: Pooling, has_shortcut: bool
) -> None:
    layer = make_layer(size, *channels)
    found, expected = computed(layer, arithmetic, pooling, has_shortcut), exact(layer, pooling, has_shortcut)
    if pooling == "global":
        torch.testing.assert_close(found.double(), expected, rtol=_SILU_ERROR, atol=_SILU_ERROR)
    else:
        limited = expected.clamp(0, 255)
        assert (expected > 255).any() and (limited > 100).double().mean() > 0.1  # the layer is not all zeros
        error = (found.double() - limited).abs()
        assert (error <= 0.5 + _SILU_ERROR * (expected - layer.ranges[1].zero_point).abs()).all()


@needs_both
@pytest.mark.parametrize("pooling", ["none", "pairs"])
def test_tiles_and_vectors_give_identical_integers(pooling: Pooling) -> None:
    layer = make_layer(13, 96, 64)
    assert torch.equal(computed(layer, INT8_AMX, pooling, False), computed(layer, INT8_VNNI, pooling, False))


def rounded(values: Tensor, around: InputRange) -> Tensor:
    return ((values / around.scale + around.zero_point).round().clamp(0, 255) - around.zero_point) * around.scale


def simulated(network: SpeedNet, images: Tensor, ranges: Sequence[InputRange]) -> Tensor:
    """Return the probabilities of the network with rounded inputs and filters of each convolution, in float64."""
    network, number = network.double(), 0
    features = functional.silu(network.whiten(network.normalize(images).double()))
    for group in network.groups:
        assert isinstance(group, ConvolutionGroup)
        shortcut = None
        pairs = [(group.convolve1, group.norm1), (group.convolve2, group.norm2)]
        pairs += [(group.convolve3, group.norm3)] if group.depth == 3 else []
        for position, (layer, norm) in enumerate(pairs):
            gain = (norm.running_var + norm.eps).rsqrt()
            filters, scales = quantize_filters(layer.weight * gain[:, None, None, None])
            features = rounded(features, ranges[number])
            shortcut = features if position == 1 else shortcut
            features = functional.conv2d(features, filters * scales[:, None, None, None], padding=1)
            features = functional.max_pool2d(features, 2) if position == 0 else features
            features = features + (norm.shift * norm.shift_gain - norm.running_mean * gain)[:, None, None]
            features = features + shortcut if position == 2 and shortcut is not None else features
            features, number = functional.silu(features), number + 1
    probabilities: Tensor = network.head(features.amax(dim=(2, 3))).softmax(dim=1)
    return probabilities


@pytest.mark.slow
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize(
    ("size", "widths", "side", "depth"),
    [(32, (64, 256, 256), 2, 2), (32, (32, 64, 96), 2, 3), (11, (32, 32, 32), 2, 3), (40, (32, 64, 64), 5, 2)],
)
def test_probabilities_are_those_of_rounded_numbers_in_exact_arithmetic(
    arithmetic: Arithmetic, size: int, widths: tuple[int, ...], side: int, depth: int
) -> None:
    network, images = make_network(size, widths, side, depth), make_images(size)
    [ranges] = input_ranges(network, images, [100.0])
    found = torch.from_numpy(FusedNetwork(network, size, arithmetic, ranges).probabilities(pixels_of(images)))
    with torch.inference_mode():
        expected = simulated(network, images, ranges)
    assert expected.std(dim=0).max() > 0.05  # the images differ, so that a wrong image would be noticed
    # Each layer rounds some hundredths of its values the other way, those near the middle of two integers.
    assert (found - expected).abs().max() < 0.035


@pytest.mark.slow
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_an_image_has_the_same_probabilities_in_any_batch_and_with_any_number_of_threads(
    arithmetic: Arithmetic, threads: None
) -> None:
    network, pixels = make_network(depth=3), pixels_of(make_images(32, 150))
    [ranges] = input_ranges(network, make_images(32, 150), [99.9])
    torch.set_num_threads(2)
    expected = FusedNetwork(network, 32, arithmetic, ranges).probabilities(pixels)
    for num_threads in (1, 3):
        torch.set_num_threads(num_threads)
        fused = FusedNetwork(network, 32, arithmetic, ranges)
        for start, end in ((0, 1), (149, 150), (3, 12), (0, 65), (0, 150), (0, 0)):
            np.testing.assert_allclose(fused.probabilities(pixels[start:end]), expected[start:end], atol=1e-6)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_probabilities_stay_the_same_when_fewer_threads_compute(
    arithmetic: Arithmetic, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, pixels = make_network(), pixels_of(make_images(32, 20))
    [ranges] = input_ranges(network, make_images(32, 150), [99.9])
    torch.set_num_threads(3)
    fused, numbers = FusedNetwork(network, 32, arithmetic, ranges), []

    def record(choice: ThreadChoice, num_images: int, seconds: float) -> None:
        numbers.append(choice.number)
        choice.number -= 1

    monkeypatch.setattr(ThreadChoice, "record", record)
    found = [fused.probabilities(pixels) for _ in range(3)]
    assert numbers == [3, 2, 1]
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


@needs_both
def test_tiles_and_vectors_give_the_same_probabilities() -> None:
    network, images = make_network(depth=3), make_images(32, 20)
    [ranges] = input_ranges(network, images, [99.9])
    on_tiles, on_vectors = (
        FusedNetwork(network, 32, each, ranges).probabilities(pixels_of(images)) for each in (INT8_AMX, INT8_VNNI)
    )
    np.testing.assert_array_equal(on_tiles, on_vectors)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_another_number_of_ranges_is_refused(arithmetic: Arithmetic) -> None:
    with pytest.raises(ValueError, match="the ranges of 6 layers, and not of 5"):
        FusedNetwork(make_network(), 32, arithmetic, [InputRange(0.01, 9)] * 5)


def test_ranges_contain_the_percentile_of_the_inputs_of_each_convolution() -> None:
    network, images = make_network(16, (32, 32, 32)), make_images(16, 150)
    inputs: list[Tensor] = []
    group = network.groups[1]
    assert isinstance(group, ConvolutionGroup)
    hook = group.convolve1.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with torch.inference_mode():
        network(images)
    hook.remove()
    for percentile, ranges in zip((90, 99.9), input_ranges(network, images, [90, 99.9]), strict=True):
        assert len(ranges) == 6
        scale, zero = ranges[2]
        highest = float(np.percentile(inputs[0].numpy(), percentile))
        assert (255 - zero) * scale == pytest.approx(highest, abs=scale)
        assert -zero * scale == pytest.approx(-0.2785, abs=scale)


def test_filters_have_a_scale_for_each_output() -> None:
    weight = (
        torch.randn(4, 8, 3, 3, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1, 10, 0.1, 0])[:, None, None, None]
    )
    filters, scales = quantize_filters(weight)
    assert filters.abs().amax(dim=(1, 2, 3)).tolist() == [127, 127, 127, 0]
    error = (filters * scales[:, None, None, None] - weight).abs().amax(dim=(1, 2, 3))
    assert (error <= scales / 2 * 1.001).all()

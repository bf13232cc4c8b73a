"""Convolution by our kernels: PyTorch's results and gradients, by Winograd from a quarter of the multiplications."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cifar10.kernels import bfloat16_units, convolution, convolution_kernels, direct_kernels, gemm, is_available, jit
from cifar10.kernels.convolution import WinogradConv3x3, WinogradConvPool, is_supported
from cifar10.kernels.winograd import Tiling

needs_kernels = pytest.mark.skipif(not is_available(), reason="needs llvmlite and GNU's OpenMP")
needs_bfloat16 = pytest.mark.skipif(
    not bfloat16_units.is_available(), reason="needs llvmlite, and a CPU with instructions for bfloat16"
)

Layer = WinogradConv3x3 | WinogradConvPool


@pytest.fixture(autouse=True)
def small_batches_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "MIN_IMAGES", 1)


def make_layer(channels_in: int, channels_out: int, pooled: bool = False) -> Layer:
    torch.manual_seed(0)
    layer = WinogradConvPool(channels_in, channels_out) if pooled else WinogradConv3x3(channels_in, channels_out)
    return layer.to(memory_format=torch.channels_last)


def make_features(channels: int, size: int, num_images: int = 3) -> Tensor:
    features = torch.randn(num_images, channels, size, size, generator=torch.Generator().manual_seed(1))
    return features.contiguous(memory_format=torch.channels_last).requires_grad_()


def gradients(layer: Layer, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return results, and the gradients of features and weight for one random gradient of the results."""
    results = layer(features)
    towards = torch.randn(results.shape, generator=torch.Generator().manual_seed(2))
    return results.detach(), *torch.autograd.grad(results, (features, layer.weight), towards)


def exact(layer: Layer, features: Tensor) -> tuple[Tensor, ...]:
    """Return the same by PyTorch in double precision."""
    features, weight = features.detach().double().requires_grad_(), layer.weight.detach().double().requires_grad_()
    results = functional.conv2d(features, weight, padding=1)
    results = functional.max_pool2d(results, 2) if isinstance(layer, WinogradConvPool) else results
    towards = torch.randn(results.shape, generator=torch.Generator().manual_seed(2)).double()
    return results.detach(), *torch.autograd.grad(results, (features, weight), towards)


def in_bfloat16(layer: Layer, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same as `gradients` under autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        results = layer(features)
    assert results.dtype == torch.bfloat16
    towards = torch.randn(results.shape, generator=torch.Generator().manual_seed(2)).bfloat16()
    return results.detach(), *torch.autograd.grad(results, (features, layer.weight), towards)


@pytest.fixture(params=["Winograd", "direct"])
def ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute bfloat16 in both ways on any CPU: a unit for tiles is made of vectors where there is no AMX."""
    monkeypatch.setattr(convolution, "_has_unit", lambda: request.param == "direct")


def most(size: int) -> float:
    """Return by how much results in bfloat16 are off at most; the largest tiles amplify rounding most."""
    if convolution._has_unit():
        return 0.004
    shape = convolution_kernels.ConvolutionShape(size, 8, 8, pooled=False, in_bfloat16=True)
    return 0.06 if shape.tiling.tile < 7 else 0.14


def off_by(found: Tensor, expected: Tensor) -> float:
    """Return the error as a part of what is expected, both as root mean squares."""
    return float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())


@pytest.mark.slow
@needs_kernels
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("size", [2, 3, 4, 5, 6, 7, 8, 9, 13, 15, 16, 31, 32, 64])
def test_results_and_gradients_are_those_of_pytorch(size: int, pooled: bool) -> None:
    layer, features = make_layer(24, 32, pooled), make_features(24, size)
    assert is_supported(features, layer.weight)
    for found, expected in zip(gradients(layer, features), exact(layer, features), strict=True):
        assert off_by(found, expected) < 3e-5


@needs_kernels
@pytest.mark.parametrize(("channels_in", "channels_out"), [(8, 8), (16, 8), (8, 48), (64, 16)])
def test_any_multiple_of_eight_channels_will_do(channels_in: int, channels_out: int) -> None:
    layer, features = make_layer(channels_in, channels_out), make_features(channels_in, 9)
    for found, expected in zip(gradients(layer, features), exact(layer, features), strict=True):
        assert off_by(found, expected) < 3e-5


@pytest.fixture
def recompile() -> Iterator[None]:
    """Compile again, before and after what a test changes."""
    kernels = [
        kernel
        for file in (convolution_kernels, direct_kernels)
        for kernel in (file.forward_kernel, file.backward_kernel)
    ]
    for kernel in kernels:
        kernel.cache_clear()
    yield
    for kernel in kernels:
        kernel.cache_clear()


@pytest.mark.slow
@needs_kernels
@pytest.mark.parametrize("num_images", [1, 11, 50])
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("max_bytes", [0, 1e9], ids=["beyond the cache", "in the cache"])
def test_blocks_do_not_change_results(
    max_bytes: float, pooled: bool, num_images: int, monkeypatch: pytest.MonkeyPatch, recompile: None
) -> None:
    monkeypatch.setattr(convolution_kernels, "_MAX_CACHED_BYTES", max_bytes)
    monkeypatch.setattr(convolution_kernels, "_MANY_TILES", 40)
    layer, features = make_layer(16, 32, pooled), make_features(16, 9, num_images)
    for found, expected in zip(gradients(layer, features), exact(layer, features), strict=True):
        assert off_by(found, expected) < 3e-5


@pytest.mark.slow
@needs_kernels
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("channels", [(24, 64), (64, 24), (8, 48), (80, 112)], ids=str)
def test_panels_of_any_width_give_the_same(
    channels: tuple[int, int], wide: bool, monkeypatch: pytest.MonkeyPatch, recompile: None
) -> None:
    monkeypatch.setattr(gemm, "has_avx512", lambda: wide)
    layer, features = make_layer(*channels), make_features(channels[0], 7)
    for found, expected in zip(gradients(layer, features), exact(layer, features), strict=True):
        assert off_by(found, expected) < 3e-5


@pytest.mark.slow
@needs_bfloat16
@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("size", [2, 3, 5, 6, 7, 9, 13, 15, 31, 64])
def test_bfloat16_is_near_for_one_image_and_for_many(size: int) -> None:
    for num_images in (1, 3, 50 if size < 20 else 4):
        layer, features = make_layer(24, 32), make_features(24, size, num_images)
        errors = [off_by(*both) for both in zip(in_bfloat16(layer, features), exact(layer, features), strict=True)]
        assert max(errors) < most(size)
        assert min(errors) > 1e-3  # rounding tells what computed


@needs_bfloat16
@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("size", [6, 9, 14])
def test_pooled_bfloat16_gives_each_gradient_to_the_largest_pixel(size: int) -> None:
    layer, features = make_layer(16, 16, pooled=True), make_features(16, size, num_images=5)
    with torch.no_grad():  # results are nearly the features, of which one in each window is by far the largest
        layer.weight.mul_(0.05)
        layer.weight[:, :, 1, 1] += torch.eye(16)
        windows = torch.zeros(5, 16, -(-size // 2), 2, -(-size // 2), 2)
        windows[:, :, :, 1, :, 0] = 4
        features += windows.reshape(5, 16, 2 * (-(-size // 2)), -1)[..., :size, :size]
    for found, expected in zip(in_bfloat16(layer, features), exact(layer, features), strict=True):
        assert off_by(found, expected) < 0.1


@needs_bfloat16
def test_on_a_unit_the_largest_is_nan_as_in_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "_has_unit", lambda: True)
    layer, features = make_layer(8, 8, pooled=True), make_features(8, 6)
    for number, place in enumerate([(0, 1), (1, 0), (3, 3)]):
        features.data[number, :, *place] = math.nan
    found, expected = in_bfloat16(layer, features), exact(layer, features)
    assert all(torch.equal(one.isnan(), other.isnan()) for one, other in zip(found[:2], expected[:2], strict=True))
    assert torch.equal(found[0].isnan().sum(dim=(1, 2, 3)), torch.tensor([2, 2, 4]) * 8)


@needs_bfloat16
@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("channels", [(8, 8), (16, 8), (24, 64), (64, 24), (8, 48), (80, 112)], ids=str)
def test_bfloat16_takes_any_multiple_of_eight_channels(channels: tuple[int, int]) -> None:
    layer, features = make_layer(*channels), make_features(channels[0], 7)
    for found, expected in zip(in_bfloat16(layer, features), exact(layer, features), strict=True):
        assert off_by(found, expected) < most(7)


@needs_bfloat16
@pytest.mark.usefixtures("ways")
def test_blocks_of_bfloat16_do_not_read_what_was_in_memory_before(
    monkeypatch: pytest.MonkeyPatch, recompile: None
) -> None:
    def empty(*shape: int, **options: Any) -> Tensor:
        return real(*shape, **options).fill_(math.nan)  # as if something else had left it there

    real = torch.empty
    monkeypatch.setattr(convolution_kernels, "_FEW_TILES", 10)  # 3 images of 9 tiles, an odd number
    for positions in ("_FORWARD_POSITIONS", "_BACKWARD_POSITIONS"):
        monkeypatch.setattr(direct_kernels, positions, 600)  # 3 images of 196
    layer, features = make_layer(16, 32), make_features(16, 13, num_images=7)
    monkeypatch.setattr(torch, "empty", empty)
    found, bound = in_bfloat16(layer, features), most(13)
    monkeypatch.undo()
    for one, other in zip(found, exact(layer, features), strict=True):
        assert off_by(one, other) < bound


@needs_bfloat16
@pytest.mark.usefixtures("ways")
def test_an_evaluation_under_autocast_is_in_float32() -> None:
    layer, features = make_layer(16, 16).eval(), make_features(16, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = layer(features.bfloat16())
    assert found.dtype == torch.float32
    assert torch.equal(found, layer(features.bfloat16().float()))


@pytest.mark.parametrize("tiles", [1, 4, 9, 16, 25, 36, 49, 64, 81, 100, 121, 144])
@pytest.mark.parametrize("least", [24, 96])
def test_a_block_is_not_much_longer_than_it_must_be(tiles: int, least: int) -> None:
    length = convolution_kernels._block_length(tiles, least)
    assert length * tiles >= least
    assert length <= -(-least // tiles) + 3


@needs_kernels
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_change_results(threads: int) -> None:
    layer, features = make_layer(16, 16), make_features(16, 7, num_images=50)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = gradients(layer, features)
    finally:
        torch.set_num_threads(before)
    for one, other in zip(found, exact(layer, features), strict=True):
        assert off_by(one, other) < 3e-5


@needs_kernels
def test_a_first_layer_needs_no_gradient_of_its_features() -> None:
    layer, features = make_layer(16, 16, pooled=True), make_features(16, 8)
    expected = gradients(layer, features)[2]
    results = layer(features.detach())
    towards = torch.randn(results.shape, generator=torch.Generator().manual_seed(2))
    (found,) = torch.autograd.grad(results, (layer.weight,), towards)
    assert torch.equal(found, expected)


@needs_kernels
def test_inference_is_the_forward_pass_of_training() -> None:
    layer, features = make_layer(16, 16, pooled=True), make_features(16, 8)
    expected = gradients(layer, features)[0]
    with torch.no_grad():
        assert torch.equal(layer(features), expected)


@pytest.mark.slow
@needs_kernels
@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("compute", [gradients, pytest.param(in_bfloat16, marks=needs_bfloat16)])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_calls_give_the_same_bits_whichever_thread_computes_a_share(
    threads: int, compute: Callable[[Layer, Tensor], tuple[Tensor, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jit, "_MIN_SHARE_IMAGES", 2)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert jit.shares_of_sums(40, 2**20) > threads
        layer, features = make_layer(64, 64, pooled=True), make_features(64, 15, num_images=40)
        found = [compute(layer, features) for _ in range(8)]
    finally:
        torch.set_num_threads(before)
    for first, *others in zip(*found, strict=True):
        assert all(torch.equal(first, other) for other in others)


@needs_kernels
def test_each_thread_has_some_shares_if_images_and_memory_allow_it() -> None:
    threads = torch.get_num_threads()
    assert jit.shares_of_sums(10**6, 2**10) == 8 * threads
    assert jit.shares_of_sums(3, 2**10) == threads
    assert jit.shares_of_sums(10**6, 2**30) == threads


@needs_kernels
@pytest.mark.parametrize(
    ("channels_in", "channels_out", "size"), [(3, 16, 8), (16, 10, 8), (16, 16, 1), (16, 16, 65)], ids=str
)
def test_unsupported_channels_and_sizes_are_computed_by_pytorch(channels_in: int, channels_out: int, size: int) -> None:
    layer, features = make_layer(channels_in, channels_out), make_features(channels_in, size)
    assert not is_supported(features, layer.weight)
    torch.testing.assert_close(layer(features), functional.conv2d(features, layer.weight, padding=1))


@needs_kernels
def test_few_images_other_types_and_layouts_are_computed_by_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, features = make_layer(16, 16), make_features(16, 8)
    assert is_supported(features, layer.weight)
    for has_vectors in (False, True):
        monkeypatch.setattr(bfloat16_units, "is_available", functools.partial(bool, has_vectors))
        with torch.autocast("cpu", torch.bfloat16):
            assert is_supported(features, layer.weight) == has_vectors
            assert is_supported(features.bfloat16(), layer.weight) == has_vectors
            assert not is_supported(features.double(), layer.weight)
        with torch.autocast("cpu", torch.float16):
            assert not is_supported(features, layer.weight)
        assert not is_supported(features.bfloat16(), layer.weight)
    assert not is_supported(features.contiguous(), layer.weight)
    assert not is_supported(features.double(), layer.weight)
    monkeypatch.setattr(convolution, "MIN_IMAGES", len(features) + 1)
    assert not is_supported(features, layer.weight)


@pytest.mark.parametrize(
    ("size", "pooled", "num_products"),
    [(31, True, 1600), (15, False, 441), (15, True, 324), (7, False, 81), (7, True, 64)],
)
def test_a_tiling_has_less_than_a_third_of_the_multiplications(size: int, pooled: bool, num_products: int) -> None:
    tiling = Tiling(size, pooled)
    assert tiling.num_products == num_products
    assert num_products < 9 * tiling.output_size**2 / 3


@pytest.mark.parametrize(
    ("size", "pooled", "tile"), [(7, False, 7), (15, True, 7), (15, False, 5), (7, True, 6), (32, False, 4)]
)
def test_bfloat16_has_the_largest_tiles_only_where_they_save_a_quarter(size: int, pooled: bool, tile: int) -> None:
    assert convolution_kernels.ConvolutionShape(size, 16, 16, pooled, in_bfloat16=True).tiling.tile == tile

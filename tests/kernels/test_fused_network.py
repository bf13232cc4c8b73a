"""The network in bfloat16 on matrix tiles: PyTorch's probabilities, whatever the batch and the number of threads."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cifar10.kernels import FusedNetwork, amx
from cifar10.kernels.arithmetic import BF16_AMX, INT8_AMX, INT8_VNNI, Arithmetic
from cifar10.kernels.feature_maps import FeatureMaps
from cifar10.kernels.fused_layer import FusedConvolution
from cifar10.networks.layers import BatchNormSiLU, Conv3x3
from cifar10.networks.simple_cnn import SimpleCNN
from cifar10.networks.speed import SpeedNet

needs_amx = pytest.mark.skipif(BF16_AMX.missing() is not None, reason="needs a CPU with AMX, and llvmlite")


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def make_images(size: int, number: int = 8) -> Tensor:
    """Return coarse random patterns, of which no two are alike."""
    coarse = torch.rand(number, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return (255 * functional.interpolate(coarse, size=(size, size), mode="bilinear")).to(torch.uint8)


def make_network(size: int = 32, widths: tuple[int, ...] = (32, 64, 96), side: int = 2, depth: int = 2) -> SpeedNet:
    """Return a network whose layers all matter: random filters and shifts, and the statistics that belong to them."""
    torch.manual_seed(0)
    network = SpeedNet(7, size, list(widths), side, depth)
    images = make_images(size)
    network.calibrate(images)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, BatchNormSiLU):
                module.shift.normal_(0, 0.02)
            elif isinstance(module, Conv3x3):
                module.weight.normal_(0, module.weight[0].numel() ** -0.5)
        network.head.weight.normal_(0, 0.2)
        for _ in range(20):
            network(images)
    return network.eval()


def pixels_of(images: Tensor) -> NDArray[np.uint8]:
    return np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())


@needs_amx
@pytest.mark.parametrize(
    ("size", "widths", "side", "depth"),
    [
        (32, (64, 256, 256), 2, 2),
        (32, (32, 64, 96), 2, 3),
        (24, (32, 64, 96), 2, 2),
        (11, (32, 32, 32), 2, 3),
        (12, (32, 64, 32), 3, 2),
        (40, (32, 64, 64), 5, 2),
        (70, (32, 32, 64), 1, 3),
    ],
)
def test_probabilities_are_those_of_pytorch_as_far_as_bfloat16_can_tell(
    size: int, widths: tuple[int, ...], side: int, depth: int
) -> None:
    network, images = make_network(size, widths, side, depth), make_images(size)
    with torch.inference_mode():
        exact = network(images).softmax(dim=1)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(images).float().softmax(dim=1)
    found = torch.from_numpy(FusedNetwork(network, size).probabilities(pixels_of(images)))
    assert exact.std(dim=0).max() > 0.05  # the images differ, so that a wrong image would be noticed
    assert (found - exact).abs().max() < max(2 * float((rounded - exact).abs().max()), 1e-3)


@needs_amx
def test_an_image_has_the_same_probabilities_in_any_batch_and_with_any_number_of_threads(threads: None) -> None:
    network, pixels = make_network(), pixels_of(make_images(32, 150))
    torch.set_num_threads(2)
    expected = FusedNetwork(network, 32).probabilities(pixels)
    for num_threads in (1, 3):
        torch.set_num_threads(num_threads)
        fused = FusedNetwork(network, 32)
        for start, end in ((0, 1), (149, 150), (3, 12), (0, 65), (0, 150)):
            np.testing.assert_allclose(fused.probabilities(pixels[start:end]), expected[start:end], atol=1e-6)


@needs_amx
def test_no_image_has_no_probabilities() -> None:
    assert FusedNetwork(make_network(), 32).probabilities(pixels_of(make_images(32, 0))).shape == (0, 7)


@needs_amx
@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (SimpleCNN(num_classes=7, image_size=32), "no kernels for the network SimpleCNN"),
        (make_network(widths=(32, 48, 64)), "only for multiples of 32"),
    ],
    ids=["another network", "widths"],
)
def test_what_has_no_kernels_is_refused(network: nn.Module, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        FusedNetwork(network, 32)


def test_without_matrix_units_every_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amx, "is_available", lambda capability: False)
    with pytest.raises(ValueError, match="no matrix units"):
        FusedNetwork(make_network(), 32)


@pytest.mark.parametrize(
    ("size", "pooling"), [(31, "pairs"), (15, "none"), (7, "none"), (7, "pairs"), (3, "global"), (23, "pairs")]
)
def test_blocks_cover_all_rows_in_whole_tiles(size: int, pooling: str) -> None:
    layer = FusedConvolution(size, 24, 64, pooling, False, BF16_AMX)  # type: ignore[arg-type]
    assert layer.block_tiles * amx.ROWS >= layer.block_rows * layer.source.pitch
    assert layer.side_needed == (size - size % 2 if pooling == "pairs" else size)
    assert pooling != "pairs" or layer.block_rows % 2 == 0


@pytest.mark.parametrize(
    ("size", "pooling", "lengths"),
    [
        (31, "pairs", [10, 10, 10]),
        (15, "none", [7, 8]),
        (15, "pairs", [7, 7]),
        (7, "none", [7]),
        (7, "pairs", [6]),
        (3, "global", [3]),
        (1, "global", [1]),
        (26, "none", [8, 9, 9]),
    ],
)
def test_vectors_sum_the_columns_that_are_needed_and_no_others(size: int, pooling: str, lengths: list[int]) -> None:
    layer = FusedConvolution(size, 24, 64, pooling, False, INT8_VNNI)  # type: ignore[arg-type]
    side = size - size % 2 if pooling == "pairs" else size
    assert layer.block_rows == {"pairs": 2, "none": 1, "global": size}[pooling]
    assert [column for part in layer.column_parts for column in part] == list(range(side))
    assert [len(part) for part in layer.column_parts] == lengths


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 2), (0, 4), (2, 0), (2, 2), (4, 3), (4, 4)])
def test_vectors_start_with_the_products_of_the_border(row: int, column: int) -> None:
    layer = FusedConvolution(5, 40, 32, "none", False, INT8_VNNI)
    filters = torch.randint(-127, 128, (32, 40, 3, 3), generator=torch.Generator().manual_seed(0)).float()
    outside = functional.pad(torch.zeros(1, 40, 5, 5), [1, 1, 1, 1], value=77.0)  # of a map that is 0 in itself
    expected = functional.conv2d(outside, filters)[0, :, row, column]
    starts = layer.starts(filters, 77)[layer.border(row), layer.border(column)]
    assert starts.dtype == torch.int32 and torch.equal(starts.float(), expected)


def test_a_map_of_one_pixel_is_first_and_last() -> None:
    layer = FusedConvolution(1, 32, 32, "global", False, INT8_VNNI)
    filters = torch.arange(32 * 32 * 9).reshape(32, 32, 3, 3).remainder(17).float()
    border = layer.border(0)
    others = filters.sum(dim=(1, 2, 3)) - filters[:, :, 1, 1].sum(dim=1)
    assert torch.equal(layer.starts(filters, 3)[border, border].float(), 3 * others)


@pytest.mark.parametrize(("channels", "depth"), [(8, 16), (24, 24), (40, 8), (54, 8), (64, 32), (72, 24), (96, 32)])
def test_vectors_sum_over_parts_of_all_channels(channels: int, depth: int) -> None:
    layer = FusedConvolution(7, channels, 64, "none", False, INT8_VNNI)
    assert layer.depth == depth
    assert layer.num_depths * layer.depth == layer.source.channels >= channels


@pytest.mark.parametrize(
    ("arithmetic", "shape", "place"),  # slab, depth, tap, half, group of channels, output, of the group
    [
        (BF16_AMX, (2, 3, 9, 2, 16, 16, 2), (1, 1, 5, 1, 3, 9, 1)),
        (INT8_AMX, (2, 2, 9, 2, 16, 16, 4), (1, 0, 5, 1, 9, 9, 3)),
        (INT8_VNNI, (2, 3, 9, 2, 6, 16, 4), (1, 1, 5, 1, 3, 9, 3)),
    ],
)
def test_packed_filters_hold_each_weight_once(
    arithmetic: Arithmetic, shape: tuple[int, ...], place: tuple[int, ...]
) -> None:
    layer = FusedConvolution(8, 72, 64, "none", False, arithmetic)
    weight = (torch.arange(64 * 72 * 9, dtype=torch.float32) % 251 - 125).reshape(64, 72, 3, 3)  # exact in each type
    packed = layer.pack(weight).float()
    assert packed.shape == shape
    assert packed[place] == weight[32 + 16 + 9, 39, 1, 2]
    assert packed.sum() == weight.sum() and packed.abs().sum() == weight.abs().sum()


@pytest.mark.parametrize(
    ("arithmetic", "channels", "num_bytes"), [(BF16_AMX, 32, 64), (INT8_AMX, 64, 64), (INT8_VNNI, 24, 24)]
)
def test_maps_share_their_borders(arithmetic: Arithmetic, channels: int, num_bytes: int) -> None:
    maps = FeatureMaps(7, 24, arithmetic)
    assert (maps.channels, maps.pitch, maps.image_positions, maps.position_bytes) == (channels, 8, 64, num_bytes)
    memory = maps.allocate(2, overhang=0, zero=9)
    assert memory.numel() == (2 * 9 + 2 * 64) * channels and (memory == 9).all()

"""The versions of the network for the pooling laboratory differ in how they shrink, and in nothing else."""

import pytest
import torch
from torch import nn

from cifar10.analysis.network_summary import summarize
from cifar10.networks.pooling.average_pool import AveragePoolCNN
from cifar10.networks.pooling.cnn import PoolingCNN
from cifar10.networks.pooling.max_pool import MaxPoolCNN
from cifar10.networks.pooling.stride import StrideCNN

WAYS = (StrideCNN, MaxPoolCNN, AveragePoolCNN)


def make(way: type[PoolingCNN], seed: int = 0) -> PoolingCNN:
    torch.manual_seed(seed)
    return way(6, 32)  # type: ignore[call-arg]


def test_all_have_the_same_size() -> None:
    sizes = {way: summarize(make(way), 32) for way in WAYS}
    assert {each.num_parameters for each in sizes.values()} == {36_326}
    # By hand: outputs x numbers of a filter, and a bias each.
    convolutions = 256 * 32 * (75 + 1) + 64 * 32 * (288 + 1) + 16 * 64 * (288 + 1)
    assert {each.multiplications for each in sizes.values()} == {convolutions + 6 * (1024 + 1)}
    assert [each.pooled_inputs for each in sizes.values()] == [0, 16 * 16 * 32 + 8 * 8 * 32, 16 * 16 * 32 + 8 * 8 * 32]


def test_a_seed_gives_all_the_same_weights() -> None:
    first, *others = ([p.detach() for p in make(way, seed=3).parameters()] for way in WAYS)
    for other in others:
        assert all(torch.equal(one, two) for one, two in zip(first, other, strict=True))


def test_each_shrinks_in_its_own_way() -> None:
    kinds = {way: [type(module) for module in make(way).features.modules()] for way in WAYS}
    assert nn.MaxPool2d in kinds[MaxPoolCNN] and nn.AvgPool2d in kinds[AveragePoolCNN]
    strides = [m.stride for m in make(StrideCNN).features.modules() if isinstance(m, nn.Conv2d)]
    assert strides == [(2, 2)] * 3
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    outputs = [make(way)(images) for way in WAYS]
    assert not torch.allclose(outputs[0], outputs[1]) and not torch.allclose(outputs[1], outputs[2])


@pytest.mark.parametrize("way", WAYS)
def test_odd_sizes_are_refused(way: type[PoolingCNN]) -> None:
    with pytest.raises(ValueError, match="image_size=28: this network needs a multiple of 8 pixels"):
        way(6, 28)  # type: ignore[call-arg]

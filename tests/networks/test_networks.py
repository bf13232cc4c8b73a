"""Every network: pixels in, logits out, learnable, and its first layer measured on the data."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from cifar10.config.compose import load_config
from cifar10.networks.normalize import Normalize
from cifar10.networks.resnet import ResNet
from cifar10.networks.simple_cnn import SimpleCNN
from cifar10.networks.speed import ConvolutionGroup, SpeedNet

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "simple_cnn": lambda: SimpleCNN(10, 32, width=8),
    "resnet18": lambda: ResNet(10, 32, depth=18, width=8),
    "resnet34": lambda: ResNet(10, 32, depth=34, width=8),
    "resnet50": lambda: ResNet(10, 32, depth=50, width=8),
    "speed": lambda: SpeedNet(10, 32, widths=[16, 32, 32]),
    "speed, deep": lambda: SpeedNet(10, 32, widths=[16, 32, 32], depth=3),
}


def make_images(num_images: int = 6, size: int = 32) -> torch.Tensor:
    return torch.randint(
        0, 256, (num_images, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_takes_bytes_or_floats_alike_and_gives_one_logit_a_class(name: str) -> None:
    torch.manual_seed(0)
    network, images = NETWORKS[name]().eval(), make_images()
    network.calibrate(images)  # type: ignore[operator]
    logits = network(images)
    assert logits.shape == (6, 10)
    torch.testing.assert_close(logits, network(images.float()))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_learnable_parameter_gets_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    network, images = NETWORKS[name](), make_images(16)
    network.calibrate(images)  # type: ignore[operator]
    loss = torch.nn.functional.cross_entropy(network(images), torch.arange(16) % 10)
    loss.backward()
    idle = [key for key, p in network.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    # A block that starts as its shortcut passes nothing to what is inside it until its last scale has moved.
    assert not [key for key in idle if "residual" not in key]


@pytest.mark.slow  # compiles
@pytest.mark.parametrize("name", ["speed, deep", "simple_cnn", "resnet18"])
def test_compiled_in_bfloat16_the_gradients_are_those_of_eager_code(name: str) -> None:
    torch.manual_seed(0)
    network, images, classes = NETWORKS[name](), make_images(64), torch.arange(64) % 10
    network.calibrate(images)  # type: ignore[operator]
    network.train(name != "simple_cnn")  # which has dropout
    found = []
    for forward in (network, torch.compile(network, dynamic=False)):
        network.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = forward(images)
        cross_entropy(logits.float(), classes).backward()
        found.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    assert torch.cosine_similarity(found[0], found[1], dim=0) > 0.95


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_gpu_computes_the_gradients_that_a_cpu_computes(name: str, precision: torch.dtype) -> None:
    torch.manual_seed(0)
    network, images, classes = NETWORKS[name](), make_images(64), torch.arange(64) % 10
    network.calibrate(images)  # type: ignore[operator]
    found = {}
    for device, dtype in (("cpu", torch.float32), ("cuda", precision)):
        copied = copy.deepcopy(network).to(device).to(memory_format=torch.channels_last)
        torch.manual_seed(0)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = copied.eval()(images.to(device)) if name == "simple_cnn" else copied(images.to(device))
        cross_entropy(logits.float(), classes.to(device)).backward()
        found[device] = torch.cat([p.grad.flatten().cpu() for p in copied.parameters() if p.grad is not None])
    alike = torch.cosine_similarity(found["cpu"], found["cuda"], dim=0)
    assert alike > (0.999 if precision == torch.float32 else 0.95)


@pytest.mark.parametrize("name", ["speed", "simple_cnn", "resnet18"])
def test_other_image_sizes_work(name: str) -> None:
    targets = {"speed": SpeedNet, "simple_cnn": SimpleCNN, "resnet18": ResNet}
    network = targets[name](num_classes=3, image_size=48)
    assert network.eval()(make_images(2, 48)).shape == (2, 3)


@pytest.mark.parametrize("target", [SpeedNet, SimpleCNN, ResNet])
def test_an_image_too_small_is_refused_in_words(target: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match="too small"):
        target(num_classes=10, image_size=7)


def test_normalised_training_images_have_mean_zero_and_variance_one() -> None:
    images = make_images(50)
    images[:, 1] //= 3
    layer = Normalize()
    layer.calibrate(images)
    values = layer(images)
    torch.testing.assert_close(values.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(values.var(dim=(0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_a_blank_channel_does_not_divide_by_zero() -> None:
    layer = Normalize()
    layer.calibrate(torch.zeros(4, 3, 8, 8, dtype=torch.uint8))
    assert layer(torch.zeros(1, 3, 8, 8)).isfinite().all()


def test_whitened_patches_are_uncorrelated_with_unit_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(64, 3, 9, 9, generator=generator), size=32, mode="bilinear")
    images = (smooth * 255).to(torch.uint8)
    network = SpeedNet(10, 32)
    network.calibrate(images)
    responses = network.whiten(network.normalize(images))[:, :12].permute(0, 2, 3, 1).flatten(0, 2).double()
    covariance = responses.T @ responses / len(responses)
    off_diagonal = covariance - covariance.diag().diag()
    assert float(off_diagonal.abs().max()) < 1e-2
    assert float(covariance.diag().max()) < 1.01
    assert float(covariance[0, 0]) > 0.99  # epsilon only dims the weakest directions
    torch.testing.assert_close(network.whiten.weight[:12], -network.whiten.weight[12:])


def test_whitening_filters_are_not_learnt() -> None:
    assert not SpeedNet(10, 32).whiten.weight.requires_grad


def test_the_default_model_has_the_size_its_file_says() -> None:
    config = load_config()
    assert config.model.target.endswith("SpeedNet")
    learnt = sum(p.numel() for p in SpeedNet(10, 32, widths=config.model.arguments["widths"]).parameters())
    assert round(learnt / 1e6, 2) == 1.97


def test_a_shortcut_is_added_before_the_last_activation_of_a_deep_group() -> None:
    torch.manual_seed(0)
    group, features = ConvolutionGroup(8, 8, depth=3), torch.randn(4, 8, 12, 12)
    group.norm3.shift.data.normal_(std=0.01)
    halved = group.norm1(group.convolve1(features))
    third = group.convolve3(group.norm2(group.convolve2(halved)))
    normalized = torch.nn.functional.batch_norm(third, None, None, None, group.norm3.shift * 2000**0.5, training=True)
    torch.testing.assert_close(group(features), torch.nn.functional.silu(normalized + halved), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", ["planar", "channels_last", "packed"])
def test_large_images_are_normalised_as_small_ones_bit_for_bit(layout: str) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 200, 190), generator=generator, dtype=torch.uint8)
    if layout == "channels_last":
        images = images.contiguous(memory_format=torch.channels_last)
    if layout == "packed":  # as training batches are: every fourth byte is empty
        images = torch.nn.functional.pad(images.permute(0, 2, 3, 1), (0, 1))[..., :3].permute(0, 3, 1, 2)
    normalize = Normalize()
    normalize.calibrate(images)
    expected = (images.float() - normalize.mean) / normalize.std
    result = normalize(images)
    assert torch.equal(result, expected) and result.stride() == expected.stride()

"""Our programs for a GPU compute what PyTorch computes. Run by `test_gpu_programs.py`, in Triton's interpreter."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cifar10.kernels import gpu_layers, gpu_optimizer
from cifar10.optimizers.muon import Muon, muon


@pytest.fixture(autouse=True)
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use few programs and small tiles: the interpreter takes a millisecond for each."""
    for module in (gpu_layers, gpu_optimizer):
        monkeypatch.setattr(module, "_PARTS", 4)
    monkeypatch.setattr(gpu_layers, "_TILES", dict.fromkeys(gpu_layers._TILES, (256, 4)))
    monkeypatch.setattr(gpu_optimizer, "_TILE", 64)


def channels_last(*shape: int, seed: int = 0) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.contiguous(memory_format=torch.channels_last)


def gradients_of(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    """Return the result of `function` and the gradients of its inputs, for a fixed gradient of the result."""
    leaves = [each.clone().requires_grad_() for each in inputs]
    result = function(*leaves)
    result.backward(torch.randn(result.shape, generator=torch.Generator().manual_seed(1)).to(result.dtype))
    return result.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("shape", [(5, 6, 7, 9), (3, 16, 8, 8), (6, 40, 5, 5), (7, 1, 5, 4)])
def test_pooling_normalisation_and_activation_are_those_of_pytorch(shape: tuple[int, ...], pool: bool) -> None:
    features, shift = 3 * channels_last(*shape) + 1.5, torch.linspace(-1, 1, shape[1])
    running = [(torch.linspace(-1, 2, shape[1]), torch.linspace(0.5, 2, shape[1])) for _ in range(2)]

    def ours(features: Tensor, shift: Tensor) -> Tensor:
        result: Tensor = gpu_layers._NormalizeActivate.apply(features, shift, *running[0], 0.4, 1e-5, pool)
        return result

    def theirs(features: Tensor, shift: Tensor) -> Tensor:
        pooled = functional.max_pool2d(features, 2) if pool else features
        return functional.silu(functional.batch_norm(pooled, *running[1], None, shift, True, 0.4, 1e-5))

    for own, expected in zip(gradients_of(ours, features, shift), gradients_of(theirs, features, shift), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-4)
    for own, expected in zip(*running, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool", [False, True])
def test_evaluation_uses_the_running_statistics(pool: bool) -> None:
    features, shift = channels_last(3, 8, 5, 6), torch.linspace(-1, 1, 8)
    mean, variance = torch.linspace(-1, 1, 8), torch.linspace(0.5, 2, 8)
    own = gpu_layers.activate(features, torch.stack([mean, (variance + 1e-5).rsqrt()]), shift, pool)
    pooled = functional.max_pool2d(features, 2) if pool else features
    expected = functional.silu(functional.batch_norm(pooled, mean, variance, None, shift, False, 0.0, 1e-5))
    torch.testing.assert_close(own, expected)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_first_layer_normalises_convolves_and_activates(size: int) -> None:
    images = (40 * channels_last(2, 3, 12, 12) + 128).clamp(0, 255).to(torch.uint8)
    mean, std = torch.tensor([120.0, 130.0, 110.0]).view(3, 1, 1), torch.tensor([60.0, 50.0, 70.0]).view(3, 1, 1)
    filters = channels_last(6 * size**2, 3, size, size)
    expected = functional.silu(functional.conv2d((images.float() - mean) / std, filters))
    own = gpu_layers.whiten(images, mean, std, filters, torch.float32)
    torch.testing.assert_close(own[:, : len(filters)], expected, rtol=1e-4, atol=1e-4)
    assert not own[:, len(filters) :].any() and own.shape[1] % gpu_layers._MULTIPLE == 0


@pytest.mark.parametrize("pixels", [6, 9, 11])
def test_resizing_is_that_of_pytorch(pixels: int) -> None:
    images = (40 * channels_last(2, 3, 12, 12) + 128).clamp(0, 255).to(torch.uint8)
    expected = functional.interpolate(images.float(), size=(pixels, pixels), mode="bilinear", antialias=True)
    torch.testing.assert_close(gpu_layers.resize(images, pixels).float(), expected, rtol=1e-3, atol=0.1)


def test_the_global_maximum_and_its_gradient() -> None:
    features = channels_last(5, 6, 3, 3)
    own = gradients_of(gpu_layers._GlobalMax.apply, features)
    for ours, expected in zip(own, gradients_of(lambda x: x.amax(dim=(2, 3)), features), strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("classes", [3, 10, 100])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_and_its_gradient(classes: int, smoothing: float) -> None:
    logits = 3 * torch.randn(37, classes, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(37) % classes
    own = gradients_of(lambda x: gpu_layers.cross_entropy(x, targets, smoothing), logits)
    expected = gradients_of(lambda x: functional.cross_entropy(x, targets, label_smoothing=smoothing), logits)
    for ours, theirs in zip(own, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_an_optimizer_step_by_programs_is_the_plain_one_up_to_bfloat16(
    memory_format: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    plain, other = (
        nn.Sequential(nn.Conv2d(6, 8, 3, bias=False), nn.Conv2d(8, 8, 3, bias=False), nn.Conv2d(2, 40, 1, bias=False))
        for _ in range(2)
    )
    other.load_state_dict(plain.state_dict())
    for network in (plain, other):
        network.to(memory_format=memory_format)
    optimizers = muon(plain, lr=0.2), muon(other, lr=0.2)
    optimizers[1].param_groups[0]["lr"] = torch.tensor(0.2)
    optimizers[1].programs = gpu_optimizer
    monkeypatch.setattr(
        Muon, "_bundles", lambda self: (([p], group) for group in self.param_groups for p in group["params"])
    )
    for step in range(3):
        for ours, theirs in zip(plain.parameters(), other.parameters(), strict=True):
            ours.grad = channels_last(*ours.shape, seed=step)
            theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for ours, theirs in zip(plain.parameters(), other.parameters(), strict=True):
        assert float((ours - theirs).norm()) < 0.01 * float(ours.norm())

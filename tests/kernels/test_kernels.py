"""`convert` puts kernels into the network it is given, and into no other; `revert` takes them out."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cifar10 import kernels
from cifar10.config.build import build
from cifar10.config.compose import load_config
from cifar10.config.targets import DATA
from cifar10.evaluate import evaluate
from cifar10.inference.engines.pytorch import TorchEngine, load
from cifar10.kernels import bfloat16_units, convolution, normalization
from cifar10.kernels.jit import Kernel
from cifar10.networks.layers import BatchNormReLUPool, BatchNormSiLU, Conv3x3, ConvPool
from cifar10.networks.resnet import ResNet
from cifar10.networks.simple_cnn import SimpleCNN
from cifar10.networks.speed import SpeedNet
from cifar10.runs.checkpoints import load_checkpoint
from cifar10.train import train
from cifar10.training.fitting import make_network, make_recipe

needs_kernels = pytest.mark.skipif(not kernels.is_available(), reason="needs llvmlite and GNU's OpenMP")

SPEED = ("model=speed", "model.widths=[8,16,16]", "optimizer=muon")
RUN = (
    "data_loading=shapes",
    "data_loading.train_size=64",
    "data_loading.validation_size=0",
    "data_loading.test_size=40",
    "training.epochs=1",
    "training.batch_size=32",
    "training.precision=fp32",
    "tracking=none",
)


def make(depth: int = 3) -> SpeedNet:
    torch.manual_seed(0)
    return SpeedNet(10, 32, widths=[8, 16, 16], depth=depth).to(memory_format=torch.channels_last)


def make_norm() -> BatchNormSiLU:
    return BatchNormSiLU(16, momentum=0.4, eps=1e-5, shift_gain=1.0)


def make_images(num_images: int = 32) -> Tensor:
    images = torch.randint(0, 256, (num_images, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    return images.to(torch.uint8).contiguous(memory_format=torch.channels_last)


def types(network: nn.Module) -> set[type[nn.Module]]:
    return {type(module) for module in network.modules()}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of items of each call of a kernel."""
    numbers: list[int] = []
    run = Kernel.__call__

    def count(kernel: Kernel, num_items: int, *arguments: Tensor | int, num_shares: int | None = None) -> None:
        numbers.append(num_items)
        run(kernel, num_items, *arguments, num_shares=num_shares)

    monkeypatch.setattr(Kernel, "__call__", count)
    return numbers


@needs_kernels
def test_convert_keeps_parameters_keys_and_hooks_and_revert_gives_the_plain_network_back() -> None:
    network = make()
    seen: list[bool] = []
    network.get_submodule("groups.0.norm1").register_forward_hook(lambda *_: seen.append(True))
    before, plain_types = network.state_dict(keep_vars=True), types(network)
    assert kernels.convert(network) is network
    assert not types(network) & {Conv3x3, ConvPool, BatchNormSiLU}
    after = network.state_dict(keep_vars=True)
    assert list(after) == list(before) and all(after[key] is before[key] for key in before)
    network(make_images())
    assert seen
    assert types(kernels.revert(network)) == plain_types


@needs_kernels
def test_a_layer_that_is_the_whole_network_is_converted_too() -> None:
    layer = Conv3x3(8, 8)
    kernels.convert(layer)
    assert type(layer) is not Conv3x3
    assert type(kernels.revert(layer)) is Conv3x3


@needs_kernels
def test_a_converted_network_computes_the_same_by_kernels_in_training_and_in_evaluation(calls: list[int]) -> None:
    plain, images, labels = make(), make_images(), torch.arange(32) % 10
    converted = kernels.convert(copy.deepcopy(plain))
    losses = [nn.functional.cross_entropy(network(images), labels) for network in (plain, converted)]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-4)
    num_forward = len(calls)
    assert num_forward == 9 + 2 * 9  # convolutions; moments and results of each normalisation
    gradients = [
        torch.autograd.grad(loss, [parameter for parameter in network.parameters() if parameter.requires_grad])
        for loss, network in zip(losses, (plain, converted), strict=True)
    ]
    for own, pytorchs in zip(*reversed(gradients), strict=True):
        assert float((own - pytorchs).norm() / pytorchs.norm()) < 1e-3
    assert len(calls) == num_forward + 9 + 2 * 9
    calls.clear()
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(images), converted.eval()(images), rtol=1e-3, atol=1e-3)
    assert len(calls) == 9 + 9


@needs_kernels
def test_the_simple_network_computes_the_same_by_kernels_in_training_and_in_evaluation(calls: list[int]) -> None:
    torch.manual_seed(0)
    plain, images = SimpleCNN(10, 32, width=8, dropout=0.0), make_images()
    plain = plain.to(memory_format=torch.channels_last)
    plain.calibrate(images)
    converted = kernels.convert(copy.deepcopy(plain))
    losses = [nn.functional.cross_entropy(network(images), torch.arange(32) % 10) for network in (plain, converted)]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-4)
    assert len(calls) == 2 + 2 * 3  # convolutions but that of the pixels; moments and results of each normalisation
    gradients = [
        torch.autograd.grad(loss, list(network.parameters()))
        for loss, network in zip(losses, (plain, converted), strict=True)
    ]
    for own, pytorchs in zip(*reversed(gradients), strict=True):
        assert float((own - pytorchs).norm() / pytorchs.norm()) < 1e-3
    assert len(calls) == 2 * (2 + 2 * 3)
    calls.clear()
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(images), converted.eval()(images), rtol=1e-3, atol=1e-3)
    assert len(calls) == 2 + 3


@needs_kernels
def test_converting_one_network_leaves_another_one_to_pytorch(calls: list[int]) -> None:
    plain, converted = make(), kernels.convert(make())
    plain(make_images())
    assert not calls
    copy.deepcopy(converted)(make_images())
    assert calls
    calls.clear()
    kernels.revert(converted)(make_images())
    assert not calls


def test_networks_are_left_alone_where_kernels_are_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "is_available", lambda: False)
    assert types(kernels.convert(make())) == types(make())


@needs_kernels
def test_only_layers_made_for_it_are_converted() -> None:
    resnet, simple = ResNet(10, 32, width=8), SimpleCNN(10, 32, width=8)
    foreign = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
    stride_2 = resnet.get_submodule("stages.2.residual.0")
    kernels.convert(resnet)
    assert Conv3x3 not in types(resnet) and type(stride_2) is nn.Conv2d
    assert not types(kernels.convert(simple)) & {Conv3x3, BatchNormReLUPool}
    assert types(kernels.convert(foreign)) == {nn.Sequential, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d}


@pytest.mark.slow
@needs_kernels
@pytest.mark.parametrize("switch", [True, False])
def test_a_run_is_trained_tested_and_used_with_kernels_if_its_configuration_says_so(
    switch: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[int]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*RUN, *SPEED, "selection=hardest", f"training.kernels={switch}", "run_name=run"]
    config = load_config(words)
    data = build(DATA, config.data_loading)
    networks = [make_network(config, data), *make_recipe(config, data, steps_per_epoch=2).selection.networks]
    assert [Conv3x3 in types(network) for network in networks] == [not switch, not switch]
    train(config)
    assert bool(calls) == switch
    calls.clear()
    evaluate("run", report=False)
    assert bool(calls) == switch
    calls.clear()
    checkpoint = load_checkpoint(tmp_path / "models" / "run" / "best.ckpt")
    assert Conv3x3 in types(checkpoint.network())  # which export takes
    images = data.test.images.permute(0, 2, 3, 1).contiguous().numpy()
    engine = load(checkpoint.path, "cpu").engine
    assert isinstance(engine, TorchEngine)
    engine.network(torch.from_numpy(images).permute(0, 3, 1, 2))
    assert bool(calls) == switch


@pytest.mark.slow
def test_networks_import_torch_types_and_names_only() -> None:
    root = Path(__file__).parents[2]
    modules = sorted(path.stem for path in (root / "cifar10" / "networks").glob("*.py") if path.stem != "__init__")
    code = (
        f"import sys, importlib; [importlib.import_module('cifar10.networks.' + name) for name in {modules}]\n"
        "print(*sorted(name for name in sys.modules if name.startswith('cifar10.') and '.networks' not in name))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root)
    assert done.stdout.split() == ["cifar10.classifier_names", "cifar10.types"]


@needs_kernels
@pytest.mark.parametrize("layer", [Conv3x3(16, 16), ConvPool(16, 16), make_norm(), BatchNormReLUPool(16)], ids=type)
@pytest.mark.parametrize("autocast", [False, True])
def test_a_gradient_of_a_gradient_is_refused_and_not_left_out(layer: nn.Module, autocast: bool) -> None:
    layer = kernels.convert(copy.deepcopy(layer).to(memory_format=torch.channels_last))
    features = torch.randn(32, 16, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        results = layer(features).float()
    (gradient,) = torch.autograd.grad(results.square().sum(), features, create_graph=True)
    computed_by_kernels = not autocast or (isinstance(layer, Conv3x3) and bfloat16_units.is_available())
    if computed_by_kernels:
        with pytest.raises(RuntimeError, match="once_differentiable"):
            (results.sum() + gradient.square().sum()).backward()


@needs_kernels
def test_a_compiler_that_traces_a_layer_does_not_see_what_asks_for_instructions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def asked() -> bool:
        raise AssertionError

    monkeypatch.setattr(bfloat16_units, "is_available", asked)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    features = torch.randn(32, 16, 8, 8).bfloat16().contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        assert not convolution.is_supported(features, torch.randn(16, 16, 3, 3))
        assert not normalization.is_supported(features, torch.randn(16), training=True)

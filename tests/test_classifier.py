"""The Classifier itself: what it trains is what a plain loop trains, and its scores are those of the predictions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import Checkpoint as NoCheckpoints
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassF1Score

from cifar10.config.compose import load_config
from cifar10.config.schema import Config
from cifar10.data.image_dataset import ImageDataset
from cifar10.data.shapes import shapes
from cifar10.model import Classifier, Recipe
from cifar10.networks.normalize import Normalize
from cifar10.optimizers.schedules import Linear
from cifar10.trainer import make_trainer
from cifar10.training.batches import TrainingBatches
from cifar10.training.data_module import InMemoryDataModule
from cifar10.training.hard_example_mining import AllExamples
from cifar10.training.resizing import resize

SMALL = (
    "data_loading=shapes",
    "tracking=none",
    "training.epochs=2",
    "training.batch_size=20",
    "evaluation.batch_size=7",
)
PLAIN = ("training.resizing=[]", "training.precision=fp32", "training.accelerator=cpu", "training.kernels=false")


class WithoutBatchStatistics(nn.Module):
    """Logits of an image that do not depend on the other images of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(self.normalize(images)))
        return logits


@pytest.fixture(scope="module")
def data() -> ImageDataset:
    return shapes(image_size=16, train_size=60, validation_size=23, test_size=31)


def make_module(data: ImageDataset, config: Config) -> InMemoryDataModule:
    return InMemoryDataModule(data, config.training, config.augmentation, config.evaluation, config.seed)


def make_network() -> nn.Module:
    torch.manual_seed(0)
    return WithoutBatchStatistics()


def make_optimizer(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=0.2, momentum=0.9)


def config_of(*words: str) -> Config:
    return load_config([*SMALL, *PLAIN, *words])


def trained(data: ImageDataset, folder: Path, *words: str) -> Classifier:
    """Return a classifier after two epochs of three steps."""
    config = config_of(*words)
    module = make_module(data, config)
    recipe = Recipe(config.training, config.seed, module.steps_per_epoch, AllExamples(), make_optimizer, Linear())
    classifier = Classifier(make_network(), config.evaluation, metadata(data), {"f1": macro_f1()}, recipe)
    make_trainer(config, folder, [NoCheckpoints()]).fit(classifier, module)
    return classifier


def metadata(data: ImageDataset) -> dict[str, Any]:
    return {"class_names": list(data.class_names)}


def macro_f1() -> MulticlassF1Score:
    return MulticlassF1Score(10, average="macro")


def weights(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def plain_loop(data: ImageDataset, config: Config, clip: float | None, size_of: Callable[[int], int]) -> nn.Module:
    """Train as the pages describe it, without any of the program's loops; `size_of` step -> side of the images."""
    network, schedule = make_network(), Linear()
    optimizer = make_optimizer(network)
    batches = TrainingBatches(data.train, 10, config.augmentation, 20, config.seed, torch.device("cpu"))
    for step in range(6):
        if step % 3 == 0:
            batches.seek(step // 3, batch=0)
            epoch = iter(batches)
        images, targets = next(epoch)
        for group in optimizer.param_groups:
            group["lr"] = 0.2 * schedule(step / 6)
        logits = network(resize(images, size_of(step)))
        cross_entropy(logits, targets, label_smoothing=config.training.label_smoothing).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
    return network


@pytest.mark.parametrize("chunk_seconds", [0, 60])
@pytest.mark.parametrize(
    ("words", "clip", "size_of"),
    [
        ((), None, lambda _: 16),
        (("training.label_smoothing=0.2", "augmentation.mixup=0.5"), None, lambda _: 16),
        (("training.gradient_clip=0.05",), 0.05, lambda _: 16),
        (("training.resizing=[{until:0.5,scale:0.75}]",), None, lambda step: 12 if step < 3 else 16),
    ],
    ids=["plain", "smoothing and mixup", "clipping", "resizing"],
)
def test_it_trains_bitwise_what_a_plain_loop_trains(
    words: tuple[str, ...],
    clip: float | None,
    size_of: Callable[[int], int],
    chunk_seconds: int,
    data: ImageDataset,
    tmp_path: Path,
) -> None:
    words = (*words, f"training.chunk_seconds={chunk_seconds}")
    expected = weights(plain_loop(data, config_of(*words), clip, size_of))
    assert torch.equal(weights(trained(data, tmp_path, *words).network), expected)
    assert not torch.equal(weights(make_network()), expected)


@pytest.mark.parametrize("chunk_seconds", [0, 60])
@pytest.mark.parametrize("micro_batches", [2, 5])
def test_micro_batches_add_up_to_the_batch(
    micro_batches: int, chunk_seconds: int, data: ImageDataset, tmp_path: Path
) -> None:
    loop = f"training.chunk_seconds={chunk_seconds}"
    whole = weights(trained(data, tmp_path, loop).network)
    parts = weights(trained(data, tmp_path, loop, f"training.accumulate={micro_batches}").network)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
    moved = (whole - weights(make_network())).abs().max()
    assert moved > 1e-2  # far more than what rounding may change


def test_validation_scores_are_those_of_the_predictions(data: ImageDataset, tmp_path: Path) -> None:
    classifier = trained(data, tmp_path)
    with torch.no_grad():
        logits = classifier.network.eval()(data.validation.images)
    labels, last = data.validation.labels, classifier.history[-1]
    assert last["val/accuracy"] == (logits.argmax(dim=1) == labels).double().mean().item()
    assert last["val/loss"] == pytest.approx(cross_entropy(logits, labels).item())
    assert last["val/f1"] == pytest.approx(macro_f1()(logits, labels).item())
    assert classifier.history[0]["val/loss"] != last["val/loss"]


def test_test_scores_and_the_confusion_matrix_are_those_of_the_predictions(data: ImageDataset, tmp_path: Path) -> None:
    config = config_of("evaluation.tta=mirror")
    network = trained(data, tmp_path).network.eval()
    classifier = Classifier(network, config.evaluation, metadata(data), {"f1": macro_f1()})
    trainer, module = make_trainer(config, tmp_path, [NoCheckpoints()]), make_module(data, config)
    with torch.no_grad():
        plain, mirrored = (network(x).softmax(dim=1) for x in (data.test.images[:], data.test.images[:].flip(3)))
    for _ in range(2):  # a second test starts anew
        trainer.test(classifier, module, verbose=False)
        for suffix, probabilities in (("", plain), ("_tta", (plain + mirrored) / 2)):
            predicted, labels = probabilities.argmax(dim=1), data.test.labels
            assert classifier.test_scores[f"test/accuracy{suffix}"] == (predicted == labels).double().mean().item()
            assert classifier.test_scores[f"test/f1{suffix}"] == pytest.approx(macro_f1()(predicted, labels).item())
        pairs = list(zip(labels.tolist(), predicted.tolist(), strict=True))
        counted = [[pairs.count((true, guess)) for guess in range(10)] for true in range(10)]
        assert classifier.confusion.tolist() == counted

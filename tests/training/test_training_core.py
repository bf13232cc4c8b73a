"""The training core runs where there is torch and Lightning but neither Hydra, pydantic, Fire, MLflow nor DVC."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

TRAIN_BARE = """
import importlib.abc
import sys

REFUSED = {"pydantic", "pydantic_core", "annotated_types", "hydra", "omegaconf", "fire", "mlflow", "dvc"}


class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"No module named {name!r}: refused", name=name)


sys.meta_path.insert(0, Refuse())

import types

import torch
from torch.nn.functional import cross_entropy

import cifar10.data.cifar
import cifar10.data.image_dataset
import cifar10.system.memory
import cifar10.model
import cifar10.networks.resnet
import cifar10.networks.simple_cnn
import cifar10.optimizers.standard
from cifar10.training.batches import TrainingBatches
from cifar10.data.shapes import shapes
from cifar10.networks.speed import SpeedNet
from cifar10.optimizers.muon import muon
from cifar10.optimizers.schedules import Linear
from cifar10.inference.tta import predict_probabilities

augmentation = types.SimpleNamespace(
    crop_padding=2, flip="alternating", cutout=0, mixup=0.0, cutmix=0.0, brightness=0.0, contrast=0.0, saturation=0.0
)
data = shapes(image_size=16, train_size=40, validation_size=0, test_size=10)
network = SpeedNet(10, 16, widths=[4, 8, 8])
network.calibrate(data.train.images)
optimizer, schedule = muon(network, lr=0.1), Linear()
batches = TrainingBatches(data.train, 10, augmentation, batch_size=20, seed=0, device=torch.device("cpu"))
before = [parameter.detach().clone() for parameter in network.parameters() if parameter.requires_grad]
for images, labels in batches:
    cross_entropy(network(images), labels).backward()
    optimizer.step()
    optimizer.zero_grad()
after = [parameter for parameter in network.parameters() if parameter.requires_grad]
assert all((old != new).any() for old, new in zip(before, after, strict=True))
assert predict_probabilities(network.eval(), data.test.images, "mirror_translate").shape == (10, 10)
assert not REFUSED & {name.partition(".")[0] for name in sys.modules}
try:
    import cifar10.config.schema
except ModuleNotFoundError:
    print("trained, and the refusal works")
"""


@pytest.mark.slow
def test_the_core_trains_without_the_packages_around_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRAIN_BARE], cwd=ROOT, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.stdout == "trained, and the refusal works\n", done.stderr

"""A real ImageNet network on real photographs gives the probabilities that torchvision's own pipeline gives."""

import csv
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from cifar10.config.compose import load_component
from cifar10.inference.grouping import read_grouping
from cifar10.inference.predictor import Predictor
from tests.conftest import SHARED_DATA

COMMANDS = Path(__file__).parents[1] / "commands.py"
PHOTOS = SHARED_DATA / "photos"
MODEL = ["model=squeezenet1_1_imagenet", f"model.weights={PHOTOS / 'squeezenet1_1_imagenet1k.pth'}"]
pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not (PHOTOS / "expected.csv").exists(), reason="the photographs are not in ../shared/data"),
]


def run(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, str(COMMANDS), *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def require_expected(output: str) -> None:
    """Compare rows in CSV with the published answers, which have four digits."""
    rows = {row["path"]: row for row in csv.DictReader(io.StringIO(output))}
    with (PHOTOS / "expected.csv").open() as file:
        expected = list(csv.DictReader(file))
    assert rows.keys() == {row["file"] for row in expected} and len(expected) == 10
    columns = {"probability": "probability", "cat_281_285": "group_cat", "dog_151_268": "group_dog"}
    for row in expected:
        found = rows[row["file"]]
        assert found["class_name"] == row["top_1"]
        for theirs, ours in columns.items():
            assert abs(float(found[ours]) - float(row[theirs])) <= 1e-4, row["file"]
        assert found["group"] == {"cat": "cat", "dog": "dog", "other": "neither"}[row["file"].partition("_")[0]]


def test_through_infer_and_through_onnx(tmp_path: Path) -> None:
    words = ["grouping=cats_vs_dogs", f"--test_dir={PHOTOS}", "--format=csv"]
    inferred = run("infer", *MODEL, *words, folder=tmp_path)
    require_expected(inferred.stdout)
    assert "totals: cat 3, dog 3, neither 4, unsure 0" in inferred.stderr
    run("export", *MODEL, "--output=exported", f"--photos={PHOTOS}", folder=tmp_path)
    require_expected(run("infer", "--checkpoint_name=exported/model.onnx", *words, folder=tmp_path).stdout)


def test_probabilities_are_those_of_torchvisions_transforms_and_network() -> None:
    predictor = Predictor.from_pretrained(load_component("model", MODEL))
    require_same_as_torchvision(predictor, "squeezenet1_1", torch.load(PHOTOS / "squeezenet1_1_imagenet1k.pth"))


def test_resnet152_from_a_local_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, transforms = torchvision.models.resnet152(), torchvision.models.ResNet152_Weights.DEFAULT.transforms()
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # a plain average, so that activations do not grow from layer to layer
    photos = [transforms(Image.open(path).convert("RGB")) for path in sorted(PHOTOS.glob("*.jpg"))]
    with torch.no_grad():
        network(torch.stack(photos))
    torch.save(network.state_dict(), tmp_path / "resnet152.pth")
    words = ["model=resnet152_imagenet", f"model.weights={tmp_path / 'resnet152.pth'}"]
    predictor = Predictor.from_pretrained(load_component("model", words))
    require_same_as_torchvision(predictor, "resnet152", network.state_dict())


def require_same_as_torchvision(predictor: Predictor, name: str, state: dict[str, torch.Tensor]) -> None:
    weights = torchvision.models.get_model_weights(name).DEFAULT
    network, transforms = torchvision.models.get_model(name).eval(), weights.transforms()
    network.load_state_dict(state)
    groups = read_grouping("cats_vs_dogs").bind(predictor.class_names)
    spread = []
    for path in sorted(PHOTOS.glob("*.jpg")):
        with torch.no_grad(), Image.open(path) as photo:
            expected = network(transforms(photo.convert("RGB"))[None]).softmax(dim=1)[0].numpy()
        result = predictor.predict(path, top_k=1000)
        found = np.zeros(1000, np.float32)
        found[[one.class_id for one in result.top]] = [one.probability for one in result.top]
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
        np.testing.assert_allclose(groups.probabilities(found[None]), groups.probabilities(expected[None]), atol=1e-5)
        assert [one.class_name for one in result.top[:1]] == [weights.meta["categories"][expected.argmax()]]
        spread.append(expected)
    assert len(spread) == 10 and np.std(spread, axis=0).max() > 1e-4  # the images are told apart

"""`cifar10.load(...).predict(...)`: any kind of image, lists and folders, and the errors for other inputs."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image

import cifar10
from cifar10.errors import CheckpointError, UsageError, UserError
from cifar10.images.decode import ImageError
from cifar10.images.preprocessing import Preprocessing
from cifar10.inference.prediction import ImageResult
from cifar10.inference.predictor import Predictor
from tests.malformed import encode, picture

ROOT = Path(__file__).resolve().parent.parent
CLASSES = ("airplane", "automobile", "cat")
SIZE = 16


class Engine:
    """Returns the mean of each colour as the probability of a class."""

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        strength = pixels.reshape(len(pixels), -1, 3).mean(axis=1, dtype=np.float32)  # (B, 3)
        probabilities: NDArray[np.float32] = strength / strength.sum(axis=1, keepdims=True)
        return probabilities

    def describe(self) -> dict[str, str]:
        return {"engine": "stub"}


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(Engine(), CLASSES, Preprocessing(SIZE), batch_size=4, tta="none", origin={"weights_digest": "abc"})


def write(path: Path, pixels: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(pixels, "PNG"))
    return path


def run_elsewhere(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_importing_it_imports_nothing_else(tmp_path: Path) -> None:
    code = "import sys; before = set(sys.modules); import cifar10; print(set(sys.modules) - before)"
    assert run_elsewhere(code, tmp_path).stdout == "{'cifar10'}\n"


def write_checkpoint(path: Path) -> None:
    """Write the checkpoint of a small network with random weights."""
    from cifar10.config.compose import load_config
    from cifar10.networks.simple_cnn import SimpleCNN
    from cifar10.runs.checkpoint_metadata import FORMAT

    torch.manual_seed(0)
    network = SimpleCNN(width=8, dropout=0.1, num_classes=3, image_size=SIZE)
    metadata = {
        "format": FORMAT,
        "class_names": list(CLASSES),
        "image_size": SIZE,
        "data_digest": "d" * 64,
        "precision": "fp32",
        "history": [],
        "config": load_config(["data_loading=shapes", "model=simple_cnn", "model.width=8"]).plain(),
    }
    weights = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"cifar10": metadata, "state_dict": weights}, path)


TWO_LINES = """
import cifar10
result = cifar10.load("best").predict("photos/cat.png")

import json
rest = [(one.class_name, one.class_id, one.probability) for one in result.top]
print(json.dumps([result.class_name, result.class_id, result.probability, rest, dict(result.provenance)]))
"""


@pytest.mark.slow
def test_two_lines_predict_an_image_from_any_folder_as_infer_does(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "models" / "first" / "best.ckpt")
    write(tmp_path / "photos" / "cat.png", picture(3, 40))
    done = run_elsewhere(TWO_LINES, tmp_path)
    assert done.returncode == 0, done.stderr
    class_name, class_id, probability, top, provenance = json.loads(done.stdout)
    assert [class_name, class_id, probability] == top[0] and class_name == CLASSES[class_id]
    assert len(top) == 3 and sum(row[2] for row in top) == pytest.approx(1)
    assert provenance["checkpoint"] == "models/first/best.ckpt" and len(provenance["weights_digest"]) == 64
    words = ["infer", "--test_dir=photos", "--top_k=3", "--format=jsonl"]
    command = [sys.executable, str(ROOT / "commands.py"), *words]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    expected = [(one["class_name"], one["class_id"], one["probability"]) for one in json.loads(shown)["top"]]
    assert [(name, number, float(f"{value:.6g}")) for name, number, value in top] == expected


def test_settings_are_passed_on_and_wrong_ones_are_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "runs" / "first" / "best.ckpt")
    predictor = cifar10.load("first", device="cpu", batch_size=7, tta="mirror", models_dir=str(tmp_path / "runs"))
    assert (predictor.batch_size, predictor.tta, predictor.provenance["device"]) == (7, "mirror", "cpu")
    assert cifar10.load(tmp_path / "runs" / "first", device="cpu").origin == predictor.origin
    with pytest.raises(UsageError, match="tta='flip' is not known"):
        cifar10.load("first", tta="flip")
    with pytest.raises(CheckpointError, match="there is no checkpoint nowhere"):
        cifar10.load("nowhere")


def test_groups_of_classes_are_in_the_results(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "best.ckpt")
    (tmp_path / "tame.yaml").write_text("groups: {vehicle: [airplane, automobile], pet: [cat]}")
    predictor = cifar10.load(tmp_path / "best.ckpt", device="cpu", grouping=str(tmp_path / "tame.yaml"))
    result = predictor.predict(picture(1, SIZE), top_k=3)
    assert result.group is not None and list(result.group.probabilities) == ["vehicle", "pet", "neither"]
    [cat] = [one.probability for one in result.top if one.class_name == "cat"]
    assert result.group.probabilities["pet"] == pytest.approx(cat)
    with pytest.raises(UsageError, match="networks whose class 151 is Chihuahua"):
        cifar10.load(tmp_path / "best.ckpt", device="cpu", grouping="cats_vs_dogs")


def test_a_pretrained_network_is_loaded_by_its_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, file = torchvision.models.squeezenet1_1().eval(), tmp_path / "weights {1},=2.pth"
    torch.save(network.state_dict(), file)
    predictor = cifar10.load_pretrained(
        "squeezenet1_1_imagenet", weights=file, grouping="cats_vs_dogs", device="cpu", batch_size=3
    )
    assert (predictor.batch_size, predictor.image_size, predictor.num_classes) == (3, 224, 1000)
    path = write(tmp_path / "photo.png", picture(1, 240))
    found = predictor.predict(path, top_k=1000)
    transforms = torchvision.models.get_model_weights("squeezenet1_1").DEFAULT.transforms()
    with torch.no_grad(), Image.open(path) as photo:
        expected = network(transforms(photo)[None]).softmax(dim=1)[0].numpy()
    np.testing.assert_allclose([one.probability for one in found.top], np.sort(expected)[::-1], rtol=1e-3)
    assert expected.max() > 1.01 * expected.min() and found.class_id == expected.argmax()
    assert found.group is not None and found.group.probabilities["cat"] == pytest.approx(expected[281:286].sum(), 1e-3)


@pytest.mark.parametrize(
    ("model", "weights", "message"),
    [
        ("squeezenet1_1_imagenet", "nowhere.pth", "there is no file nowhere.pth"),
        ("squeezenet1_1_imagnet", None, "did you mean"),
        ("speed", None, "no trained weights"),
    ],
)
def test_a_pretrained_network_that_is_none_is_refused(model: str, weights: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        cifar10.load_pretrained(model, weights=weights)


@pytest.mark.parametrize("size", [SIZE, 40])
def test_the_same_image_in_any_form_has_the_same_prediction(predictor: Predictor, tmp_path: Path, size: int) -> None:
    pixels = picture(1, size)
    if size != SIZE:
        pixels = np.ascontiguousarray(pixels[: size - 9])  # not square
    path = write(tmp_path / "1.png", pixels)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    data = path.read_bytes()
    forms: list[Any] = [str(path), path, data, bytearray(data), Image.open(path), pixels, tensor, tensor.contiguous()]
    results = [predictor.predict(form) for form in forms]
    assert all(isinstance(result, ImageResult) for result in results)
    assert {result.top for result in results} == {results[0].top}
    assert [result.path for result in results] == [str(path), str(path), *[""] * 6]
    assert predictor.predict(pixels[:, ::-1]).class_id == results[0].class_id
    assert [result.top for result in predictor.predict(forms)] == [results[0].top] * 8


def test_pictures_that_are_not_rgb_are_converted_as_their_files_are(predictor: Predictor, tmp_path: Path) -> None:
    grey = Image.fromarray(picture(2, 40)).convert("L")
    transparent = Image.fromarray(picture(2, 40)).convert("RGBA")
    transparent.putalpha(100)
    for number, drawn in enumerate([grey, transparent]):
        drawn.save(tmp_path / f"{number}.png")
        assert predictor.predict(drawn).top == predictor.predict(tmp_path / f"{number}.png").top


def test_a_list_gives_a_list_in_its_order_with_errors_in_their_places(predictor: Predictor, tmp_path: Path) -> None:
    images: list[Any] = [picture(number, 20) for number in range(10)]
    images[3], images[7] = b"no image", tmp_path / "missing.png"
    results = predictor.predict(images)
    assert [result.error is not None for result in results] == [number in (3, 7) for number in range(10)]
    for image, result in zip(images, results, strict=True):
        if result.error is None:
            assert result == predictor.predict(image)
    assert results[7].path == str(tmp_path / "missing.png")
    with pytest.raises(ImageError, match=r"missing\.png: cannot be read: No such file or directory"):
        print(results[7].class_name)
    with pytest.raises(ImageError, match=r"^not a PNG"):
        print(results[3].probability)


def test_a_folder_gives_an_iterator_that_reads_as_it_goes(predictor: Predictor, tmp_path: Path) -> None:
    for number in range(9):
        write(tmp_path / "photos" / ("cat" if number % 2 else "misc") / f"{number}.png", picture(number, 20))
    (tmp_path / "photos" / "zebra.png").write_bytes(b"damaged")
    results = predictor.predict(tmp_path / "photos", top_k=2)
    assert isinstance(results, Iterator)
    write(tmp_path / "photos" / "zoo.png", picture(0))
    rows = list(results)
    assert [row.path for row in rows][:2] == ["cat/1.png", "cat/3.png"]
    assert [row.path for row in rows if row.error] == ["zebra.png"]
    assert [row.label for row in rows] == ["cat"] * 4 + [None] * (len(rows) - 4)
    assert rows[0].top == predictor.predict(tmp_path / "photos/cat/1.png", top_k=2).top and len(rows[0].top) == 2
    assert rows[0].provenance["weights_digest"] == "abc"
    assert [row.path for row in predictor.predict(f"{tmp_path}/photos/c*/*.png")] == [
        f"cat/{n}.png" for n in (1, 3, 5, 7)
    ]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), "array of float32 is not an image.*multiply values from 0 to 1 by 255"),
        (np.zeros((8, 8, 3), np.int64), r"array of int64 is not an image; give uint8, RGB, \(H, W, 3\)$"),
        (np.zeros((3, 8, 8), np.uint8), r"shape \(3, 8, 8\) is not an image.*image.transpose\(1, 2, 0\)"),
        (np.zeros((5, 8, 8, 3), np.uint8), r"shape \(5, 8, 8, 3\) .*a batch as a list, list\(images\)"),
        (np.zeros((8, 8), np.uint8), "repeat the grey channel three times"),
        (np.zeros((8, 8, 1), np.uint8), "repeat the grey channel three times"),
        (np.zeros((8, 8, 4), np.uint8), "leave out the alpha channel"),
        (np.zeros((0, 8, 3), np.uint8), r"shape \(0, 8, 3\) is not an image"),
        (torch.zeros(3, 8, 8), "tensor of float32 is not an image.*multiply values from 0 to 1 by 255"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), r"give uint8, RGB, \(3, H, W\): image.permute\(2, 0, 1\)"),
        (torch.zeros(5, 3, 8, 8, dtype=torch.uint8), r"a batch as a list, list\(images\)"),
        (torch.zeros(1, 8, 8, dtype=torch.uint8), "repeat the grey channel three times"),
        ([], "the list of images is empty"),
        (7, "int is not an image; give a path, bytes, a PIL image"),
        (None, "NoneType is not an image"),
        ([picture(0), 7], "image 1 of the list: int is not an image"),
    ],
)
def test_what_is_no_image_is_refused_with_what_is_needed(predictor: Predictor, images: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        predictor.predict(images)
    assert len(str(caught.value).splitlines()) == 1


def test_files_that_are_not_there_or_not_readable_are_named(predictor: Predictor, tmp_path: Path) -> None:
    write(tmp_path / "zebra.png", picture())
    with pytest.raises(UserError, match=r"there is no folder or file '.*zebr\.png'; did you mean .*zebra\.png\?"):
        predictor.predict(tmp_path / "zebr.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no images in"):
        predictor.predict(tmp_path / "empty")
    (tmp_path / "damaged.png").write_bytes((tmp_path / "zebra.png").read_bytes()[:-20])
    with pytest.raises(ImageError, match=r"damaged\.png: damaged"):
        predictor.predict(tmp_path / "damaged.png")
    with pytest.raises(ImageError, match="empty file"):
        predictor.predict(b"")


def test_as_many_classes_are_named_as_are_wanted_and_there_are(predictor: Predictor) -> None:
    for top_k, expected in ((1, 1), (2, 2), (3, 3), (99, 3)):
        result = predictor.predict(picture(5), top_k=top_k)
        assert len(result.top) == expected
        assert (result.class_name, result.class_id, result.probability) == (
            result.top[0].class_name,
            result.top[0].class_id,
            result.top[0].probability,
        )
    with pytest.raises(UsageError, match="top_k=0 is not possible"):
        predictor.predict(picture(5), top_k=0)

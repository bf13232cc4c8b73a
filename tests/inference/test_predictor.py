"""A predictor computes exactly what the test pass does, however its images are batched."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from cifar10.config import conf_folder
from cifar10.config.compose import load_config
from cifar10.config.schema import EvaluationConfig, TTAMode
from cifar10.devices import choose_device
from cifar10.errors import UsageError, UserError
from cifar10.images.decode import EncodedImage
from cifar10.images.preprocessing import Preprocessing
from cifar10.inference.engines import pytorch
from cifar10.inference.engines.onnx import OnnxEngine
from cifar10.inference.engines.pytorch import TorchEngine, usable_precision
from cifar10.inference.predictor import Predictor
from cifar10.inference.tta import predict_probabilities
from cifar10.networks.simple_cnn import SimpleCNN
from cifar10.runs.checkpoint_metadata import FORMAT
from cifar10.runs.checkpoints import Checkpoint, load_checkpoint

NAMES = ("a", "b", "c", "d")
CPU = torch.device("cpu")


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return SimpleCNN(width=8, dropout=0.1, num_classes=4, image_size=16).eval()


def pixels(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def probabilities_of(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return what the test pass computes of images: (B, 3, H, W) -> (B, K)."""
    return lambda images: network(images).float().softmax(dim=1)


def tensors_of(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def predictor(tta: TTAMode = "none", batch_size: int = 8, **engine: Any) -> Predictor:
    return Predictor(TorchEngine(network(), CPU, **engine), NAMES, Preprocessing(16), batch_size=batch_size, tta=tta)


def write_checkpoint(folder: Path, precision: str = "fp32", image_size: int = 16, **settings: object) -> Checkpoint:
    """Write and load the checkpoint of an untrained network."""
    words = [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]
    config = load_config(["data_loading=shapes", "model=simple_cnn", "model.width=8", *words])
    metadata = {
        "format": FORMAT,
        "class_names": list(NAMES),
        "image_size": image_size,
        "data_digest": "0" * 64,
        "precision": precision,
        "history": [],
    }
    weights = {f"network.{name}": tensor for name, tensor in network().state_dict().items()}
    path = folder / "run" / "best.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": weights, "cifar10": {**metadata, "config": config.plain()}}, path)
    return load_checkpoint(path)


@pytest.mark.parametrize("tta", ["none", "mirror", "mirror_translate"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_answers_are_those_of_the_test_pass(tta: TTAMode, channels_last: bool) -> None:
    images = pixels(8)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    with torch.inference_mode():
        reference: nn.Module = network().to(memory_format=layout)
        expected = predict_probabilities(probabilities_of(reference), tensors_of(images), tta)
    answers = predictor(tta, channels_last=channels_last).probabilities(images)
    assert answers.dtype == np.float32
    np.testing.assert_array_equal(answers, expected.numpy())


def test_selective_answers_are_those_of_the_test_pass_whoever_is_asked_about_beside() -> None:
    images = pixels(24)
    tensors, compute = tensors_of(images), probabilities_of(network())
    with torch.inference_mode():
        bound = float(compute(tensors).amax(dim=1).quantile(0.25))
        expected = predict_probabilities(compute, tensors, "mirror_translate_selective", bound).numpy()
    asked = replace(predictor("mirror_translate_selective", batch_size=24), tta_confidence=bound)
    np.testing.assert_array_equal(asked.probabilities(images), expected)
    one_by_one = np.concatenate([asked.probabilities(images[i : i + 1]) for i in range(24)])
    np.testing.assert_allclose(one_by_one, expected, atol=1e-6)
    assert asked.provenance["tta_confidence"] == str(bound)
    assert (expected != predictor().probabilities(images)).any(axis=1).sum() == 6  # a quarter was asked again


def test_bf16_answers_are_those_of_an_autocast_test_pass() -> None:
    images = pixels(8)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = predict_probabilities(probabilities_of(network()), tensors_of(images), "mirror")
    answers = predictor("mirror", precision="bf16").probabilities(images)
    np.testing.assert_array_equal(answers, expected.numpy())
    assert not np.array_equal(answers, predictor("mirror").probabilities(images))


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 20])
def test_any_number_of_images_gets_as_many_rows_that_sum_to_one(count: int) -> None:
    answers = predictor().probabilities(pixels(count))
    assert answers.shape == (count, 4)
    np.testing.assert_allclose(answers.sum(axis=1), 1, rtol=1e-5)


def test_never_more_than_a_batch_is_computed_at_once() -> None:
    seen: list[int] = []

    class Engine:
        def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            seen.append(len(pixels))
            return pixels.reshape(len(pixels), -1)[:, :4].astype(np.float32)

        def describe(self) -> dict[str, str]:
            return {}

    images = pixels(20)
    answers = Predictor(Engine(), NAMES, Preprocessing(16), batch_size=8, tta="none").probabilities(images)
    assert seen == [8, 8, 4]
    np.testing.assert_array_equal(answers, images.reshape(20, -1)[:, :4])


def test_the_network_sees_uint8_rgb_planes_and_is_in_evaluation_mode() -> None:
    class Look(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            assert images.dtype == torch.uint8 and not self.training and torch.is_inference_mode_enabled()
            return images[:, :, 5, 7].float()  # red, green, blue of one pixel

    images = pixels(3)
    answers = TorchEngine(Look().train(), CPU).probabilities(images)
    np.testing.assert_array_equal(answers.argmax(axis=1), images[:, 5, 7].argmax(axis=1))


@pytest.mark.parametrize(
    ("tested_in", "configured", "native", "expected"),
    [
        ("fp32", "auto", True, "fp32"),
        ("bf16", "auto", True, "bf16"),
        ("bf16", "auto", False, "fp32"),
        ("bf16", "bf16", False, "bf16"),
        ("fp16", "fp16", True, "fp32"),
    ],
)
def test_precision_is_the_checkpoints_where_the_device_has_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tested_in: str, configured: str, native: bool, expected: str
) -> None:
    monkeypatch.setattr(pytorch, "computes_bf16", lambda device: native)
    assert usable_precision(write_checkpoint(tmp_path, tested_in, training__precision=configured), CPU) == expected


@pytest.mark.parametrize(("image_size", "expected"), [(32, 1000), (129, 1000), (130, 992), (224, 334), (4096, 1)])
def test_of_larger_images_fewer_are_asked_about_at_once(image_size: int, expected: int) -> None:
    evaluation = EvaluationConfig(batch_size=1000, tta="none", tta_confidence=0.6)
    assert evaluation.images_at_once(image_size) == expected
    assert expected * image_size**2 <= 2**24


def test_a_checkpoint_decides_what_is_not_asked_for(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"evaluation__batch_size": 77, "evaluation__tta": "mirror"}
    checkpoint = write_checkpoint(tmp_path, **settings)
    default = Predictor.from_checkpoint("run", device="cpu", models_dir=str(tmp_path))
    assert (default.batch_size, default.tta, default.class_names, default.image_size) == (77, "mirror", NAMES, 16)
    images = pixels(5)
    np.testing.assert_array_equal(default.probabilities(images), predictor("mirror").probabilities(images))
    asked = Predictor.from_checkpoint("run", device="cpu", batch_size=5, tta="none", models_dir=str(tmp_path))
    assert (asked.batch_size, asked.tta) == (5, "none")
    assert asked.provenance == {
        "checkpoint": str(tmp_path / "run" / "best.ckpt"),
        "weights_digest": checkpoint.weights_digest,
        "data_digest": "0" * 64,
        "engine": f"torch {torch.__version__}",
        "device": "cpu",
        "precision": "fp32",
        "tta": "none",
        "batch_size": "5",
    }
    write_checkpoint(tmp_path, image_size=4096, **settings)  # it must not decide how much memory is taken
    assert Predictor.from_checkpoint("run", device="cpu", models_dir=str(tmp_path)).batch_size == 1


@pytest.mark.parametrize(
    "setting", [{"tta": "flip"}, {"tta": ""}, {"batch_size": 0}, {"batch_size": -1}, {"engine": "tortch"}]
)
def test_impossible_settings_are_refused_before_a_checkpoint_is_searched_for(setting: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Predictor.from_checkpoint("there-is-no-such-checkpoint", **setting)


@pytest.mark.parametrize("name", ["tpu", "", "cpu:x", "cuda:", "CPU0"])
def test_an_unknown_device_is_misuse(name: str) -> None:
    with pytest.raises(UsageError, match="choose auto, cpu"):
        choose_device(name)


def test_a_device_that_is_not_there_is_an_error_that_says_so() -> None:
    with pytest.raises(UserError, match="CUDA devices; choose auto or cpu"):
        choose_device("cuda:99")


def test_neither_predictor_nor_entry_point_needs_torch_before_an_engine_does() -> None:
    code = "import sys, cifar10.infer, cifar10.inference.predictor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("_target_: [", r"mine\.yaml, line \d+: "),
        ("", r"mine\.yaml needs a _target_"),
        ("_target_: cifar10.demo.demo", "may not be used here"),
        ("_target_: cifar10.inference.engines.pytorch.load\nspeed: 3", "speed"),
        ("_target_: caf\xe9", "cannot be read"),
    ],
)
def test_an_engine_whose_file_is_malformed_is_refused_in_one_line(
    content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "conf/engine").mkdir(parents=True)
    (tmp_path / "conf/engine/mine.yaml").write_text(content, encoding="latin-1")
    monkeypatch.setattr(conf_folder, "CONF", tmp_path / "conf")
    with pytest.raises(UsageError, match=message) as refused:
        Predictor.from_checkpoint("run", device="cpu", models_dir=str(tmp_path), engine="mine")
    assert len(str(refused.value).splitlines()) == 1


def test_a_device_of_pytorch_is_taken(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    assert Predictor.from_checkpoint("run", device=CPU, models_dir=str(tmp_path)).num_classes == len(NAMES)


class Remember:
    """Remembers the pixels it is given."""

    def __init__(self) -> None:
        self.seen: list[NDArray[np.uint8]] = []

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.seen.append(pixels)
        return np.full((len(pixels), 4), 0.25, np.float32)

    def describe(self) -> dict[str, str]:
        return {}


def test_large_jpegs_are_reduced_in_every_way_of_asking_unless_full_ones_are_wanted(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    path = tmp_path / "1.jpg"
    Image.fromarray(pixels).resize((600, 600)).save(path)
    encoded = EncodedImage(path.read_bytes())
    for reduced in (True, False):
        expected = EncodedImage(path.read_bytes()).decode_square(16, reduced)
        engine = Remember()
        asked = Predictor(engine, NAMES, Preprocessing(16), batch_size=8, tta="none", reduced=reduced)
        asked.predict(path)
        asked.predict([path.read_bytes()])
        list(asked.predict(tmp_path))
        for seen in engine.seen:
            np.testing.assert_array_equal(seen[0], expected)
        assert asked.provenance.get("jpeg") == (None if reduced else "full")
    assert (expected != encoded.decode_square(16, reduced=True)).any()


def test_an_onnx_session_gets_few_images_at_a_time() -> None:
    sizes: list[int] = []

    class Session:
        def run(self, _: None, inputs: dict[str, NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
            sizes.append(len(inputs["pixels"]))
            return [inputs["pixels"][:, 0, 0].astype(np.float32)]

    for side, count, expected in ((32, 300, [128, 128, 44]), (512, 3, [1, 1, 1]), (32, 0, [0])):
        sizes.clear()
        images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
        answers = OnnxEngine(Session()).probabilities(images)
        np.testing.assert_array_equal(answers, images[:, 0, 0])
        assert sizes == expected

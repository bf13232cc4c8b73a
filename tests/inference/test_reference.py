"""An exported file knows what the training data looked like; who does not ask for it gets what he got without it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

import cifar10
from cifar10.config.compose import load_config
from cifar10.data.shapes import shapes
from cifar10.errors import CheckpointError
from cifar10.export import export
from cifar10.inference.description import ModelDescription
from cifar10.inference.engines.onnx import LOGITS, PROBABILITIES
from cifar10.inference.predictor import Predictor
from cifar10.inference.reference import MEASURES, Reference, brightness_and_contrast, counts_of
from cifar10.inference.unlike import FEWEST, UnlikeRule, calibrate
from cifar10.train import train
from tests.tiny_run import TINY

RUN = Path("models/run")
SIZES = ["data_loading.train_size=300", "data_loading.validation_size=200", "training.epochs=8"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a trained run in `models/run`, exported to ONNX."""
    folder = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = [*TINY, *SIZES, "model.width=8", "run_name=run", "training.precision=fp32"]
        train(load_config(words))
        export("run", ["onnx"])
    return folder


@pytest.fixture
def predictor(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Predictor:
    monkeypatch.chdir(trained)
    return cifar10.load(RUN / "export/model.onnx")


def reference_of(predictor: Predictor) -> Reference:
    assert predictor.reference is not None
    return predictor.reference


def noise(count: int, size: int = 16, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def photographs(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return smooth images, unlike noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 200, (count, 4, 4, 3)).repeat(4, axis=1).repeat(4, axis=2)
    return (coarse + rng.integers(-6, 6, coarse.shape)).astype(np.uint8)


def test_the_reference_counts_training_and_held_out_images(predictor: Predictor) -> None:
    reference = reference_of(predictor)
    assert (reference.num_images, reference.num_held_out, reference.tta) == (300, 200, predictor.tta)
    assert {name: sum(reference.counts[name]) for name in MEASURES} == {
        "brightness": 300,
        "contrast": 300,
        "confidence": 200,
        "classes": 200,
    }
    arguments = load_config([*TINY, *SIZES]).data_loading.arguments
    held_out = shapes(**arguments).validation.arrays()[0]
    counts = counts_of(held_out, predictor.probabilities(held_out))
    assert reference.counts["confidence"] == counts["confidence"].tolist()
    assert reference.counts["classes"] == counts["classes"].tolist()


def test_probabilities_stay_bitwise_the_same_and_come_first(predictor: Predictor) -> None:
    session = onnxruntime.InferenceSession(RUN / "export/model.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == [PROBABILITIES, LOGITS]
    model = onnx.load(RUN / "export/model.onnx")
    del model.graph.output[1]
    alone = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for images in (noise(1), noise(37), noise(5, size=20)):
        [expected] = alone.run(None, {"pixels": images})
        both = session.run(None, {"pixels": images})
        np.testing.assert_array_equal(both[0], expected)
        np.testing.assert_array_equal(session.run([PROBABILITIES], {"pixels": images})[0], expected)
        exponents = np.exp(both[1] - both[1].max(axis=1, keepdims=True))
        np.testing.assert_allclose(exponents / exponents.sum(axis=1, keepdims=True), expected, atol=1e-6)


@pytest.mark.parametrize("tta", ["none", "mirror", "mirror_translate_selective"])
def test_results_with_the_flag_have_the_same_probabilities(tta: str, predictor: Predictor) -> None:
    asked = cifar10.load(RUN / "export/model.onnx", tta=tta, batch_size=7)
    images = np.concatenate([noise(10), photographs(10)])
    probabilities, flags = asked.probabilities_and_unlike(images)
    np.testing.assert_array_equal(probabilities, asked.probabilities(images))
    assert flags is not None and flags.shape == (20,) and flags.dtype == np.bool_
    plain, flagged = asked.predict(list(images)), asked.predict(list(images), unlike=True)
    assert [replace(row, unlike=None) for row in flagged] == plain
    assert [row.unlike for row in flagged] == flags.tolist()
    assert {row.unlike for row in plain} == {None}


def test_noise_and_flat_colours_are_unlike_and_held_out_images_mostly_are_not(predictor: Predictor) -> None:
    flat = np.broadcast_to(np.arange(0, 250, 25, dtype=np.uint8)[:, None, None, None], (10, 16, 16, 3))
    for images in (noise(50), flat):
        assert {row.unlike for row in predictor.predict(list(images), unlike=True)} == {True}
    arguments = load_config([*TINY, *SIZES]).data_loading.arguments
    flags = predictor.probabilities_and_unlike(shapes(**arguments).validation.arrays()[0])[1]
    assert flags is not None and flags.sum() <= 2  # of 200


def test_images_that_cannot_be_read_have_no_flag(predictor: Predictor) -> None:
    damaged, read = predictor.predict([b"no image", noise(1)[0]], unlike=True)
    assert damaged.error and damaged.unlike is None and read.unlike is True


def test_checkpoints_and_older_files_know_nothing_and_say_so(predictor: Predictor, tmp_path: Path) -> None:
    assert cifar10.load("run", device="cpu").reference is None
    model = onnx.load(RUN / "export/model.onnx")
    entry = json.loads(model.metadata_props[0].value)
    del entry["reference"]
    entry["format"] = 1
    del model.metadata_props[-1]  # the seal
    model.metadata_props[0].value = json.dumps(entry)
    del model.graph.output[1]
    onnx.save(model, tmp_path / "model.onnx")
    older = cifar10.load(tmp_path / "model.onnx")
    assert older.reference is None
    assert older.predict(noise(1)[0], unlike=True) == predictor.predict(noise(1)[0])
    entry["reference"] = {"format": 2, "something": "new"}
    assert ModelDescription.parse(json.dumps(entry), "x").reference is None


@pytest.mark.parametrize("damage", ["bins", "measure", "nan", "empty"])
def test_a_damaged_reference_is_refused(damage: str, predictor: Predictor) -> None:
    content = json.loads(onnx.load(RUN / "export/model.onnx").metadata_props[0].value)
    reference = content["reference"]
    if damage == "bins":
        reference["counts"]["contrast"].append(1)
    elif damage == "measure":
        del reference["counts"]["classes"]
    elif damage == "empty":
        reference["counts"]["classes"] = [0] * 10
    else:
        reference["unlike"]["threshold"] = float("nan")
    with pytest.raises(CheckpointError, match="metadata are damaged"):
        ModelDescription.parse(json.dumps(content), "model.onnx")


@pytest.mark.slow
def test_a_network_that_no_image_was_held_out_of_is_calibrated_with_training_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = ["data_loading.train_size=150", "data_loading.validation_size=0", "training.monitor=null"]
    train(load_config([*TINY, *sizes, "model.width=8", "run_name=run"]))
    export("run", ["onnx"])
    reference = reference_of(cifar10.load(RUN / "export/model.onnx"))
    assert (reference.num_images, reference.num_held_out) == (150, 0)
    assert reference.unlike is not None and sum(reference.counts["confidence"]) == 150


def logits_of(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 3, (count, 10)).astype(np.float32)


def rule_of(count: int, seed: int = 0) -> UnlikeRule | None:
    return calibrate(photographs(500), photographs(count, seed + 1), logits_of(count, seed))


def test_one_percent_of_further_images_like_them_is_called_unlike() -> None:
    rates = []
    for seed in range(10):
        rule = rule_of(1000, seed)
        assert rule is not None
        rates.append(rule.is_unlike(logits_of(4000, seed + 100), photographs(4000, seed + 200)).mean())
    assert 0.007 < np.mean(rates) < 0.013


@pytest.mark.parametrize(("count", "is_known"), [(0, False), (FEWEST - 1, False), (FEWEST, True)])
def test_few_images_give_no_rule(count: int, is_known: bool) -> None:
    assert (rule_of(count) is not None) == is_known


def test_logits_without_a_class_are_unlike_and_so_are_those_that_are_no_numbers() -> None:
    rule = rule_of(1000)
    assert rule is not None
    images = photographs(3)
    logits = np.stack([np.full(10, -20), logits_of(1)[0] + 10, np.full(10, np.nan)]).astype(np.float32)
    assert rule.is_unlike(logits, images).tolist() == [True, False, True]


def test_brightness_and_contrast_are_those_of_numpy() -> None:
    images = np.concatenate([noise(5), photographs(5), np.full((1, 16, 16, 3), 200, np.uint8)])
    mean, deviation = brightness_and_contrast(images)
    np.testing.assert_allclose(mean, images.mean(axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(deviation, images.std(axis=(1, 2, 3)), rtol=1e-3, atol=0.1)


def test_the_flag_and_drift_need_no_torch(predictor: Predictor) -> None:
    code = """
import sys
import numpy as np
from pathlib import Path
from cifar10.inference.predictor import Predictor
from cifar10.serving.corrections import CorrectionStore
from cifar10.serving.drift import DriftLog
from cifar10.serving.drift_report import read_drift
predictor = Predictor.from_checkpoint(Path("models/run/export/model.onnx"))
pixels = np.zeros((3, 16, 16, 3), np.uint8)
log = DriftLog(predictor.origin["weights_digest"], Path(sys.argv[1]))
log.add(pixels, *predictor.probabilities_and_unlike(pixels))
log.close()
print(read_drift(log.path, predictor.reference, log.weights_digest, predictor.class_names).num_images)
print(CorrectionStore(Path("none")).corrections())
print(sorted({"torch", "lightning", "mlflow", "hydra", "pandas"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", code, str(Path("incoming.db").absolute())]
    environment = {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.splitlines() == ["3", "[]", "[]"], done.stderr

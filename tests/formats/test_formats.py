"""`export`: each file computes what the checkpoint computes, or is not written."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

import cifar10
from cifar10.cli.command_line import main
from cifar10.config.compose import load_config
from cifar10.data.export import export_images
from cifar10.data.shapes import shapes
from cifar10.errors import CheckpointError, UserError
from cifar10.export import export
from cifar10.formats import Source
from cifar10.formats.calibration import speed
from cifar10.formats.onnx_int8 import Int8Format
from cifar10.formats.parity import TOLERANCE, Parity, compare
from cifar10.inference.description import KEY
from cifar10.inference.predictor import Predictor
from cifar10.inference.seal import sealed
from cifar10.runs.checkpoints import load_checkpoint
from cifar10.train import train
from commands import COMMANDS
from tests.tiny_run import TINY

ROOT = Path(__file__).resolve().parents[2]
RUN = Path("models/run")
EXACT = ["onnx", "pt2", "safetensors", "state_dict"]


@pytest.fixture(scope="module", params=["speed", pytest.param("simple_cnn", marks=pytest.mark.slow)])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a trained run in `models/run`, exported to all formats."""
    folder = tmp_path_factory.mktemp(str(request.param))
    size = ["model.widths=[8,16,16]"] if request.param == "speed" else ["model.width=8"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(load_config([*TINY, f"model={request.param}", *size, "run_name=run", "training.precision=fp32"]))
        export("run", EXACT)
    return folder


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


def some_images(num_images: int = 9, size: int = 16) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (num_images, size, size, 3), np.uint8)


@pytest.mark.usefixtures("here")
def test_every_format_is_written_and_nothing_else() -> None:
    files = list((RUN / "export").iterdir())
    assert {file.name for file in files} == {"cifar_net.pth", "model.onnx", "model.pt2", "model.safetensors"}
    of_checkpoint = (RUN / "best.ckpt").stat().st_mode
    assert {file.stat().st_mode for file in files} == {of_checkpoint}  # whoever may read one may read all


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("tta", ["none", "mirror_translate_selective"])
def test_onnx_runtime_computes_what_pytorch_computes(tta: str) -> None:
    images = some_images()
    reference = cifar10.load("run", device="cpu", tta=tta)
    for predictor in (cifar10.load(RUN / "export/model.onnx", tta=tta), cifar10.load("run", engine="onnx", tta=tta)):
        np.testing.assert_allclose(predictor.probabilities(images), reference.probabilities(images), atol=1e-5)
        assert predictor.class_names == reference.class_names
        same = ("weights_digest", "data_digest", "tta", "batch_size", "precision")
        assert {key: predictor.provenance[key] for key in same} == {key: reference.provenance[key] for key in same}


@pytest.mark.usefixtures("here")
def test_images_of_another_size_are_resized_within_the_graph() -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(RUN / "export/model.onnx", providers=["CPUExecutionProvider"])
    images = torch.from_numpy(some_images(size=40))
    smaller = torch.nn.functional.interpolate(
        images.permute(0, 3, 1, 2).float(), size=(16, 16), mode="bilinear", antialias=True
    )
    with torch.inference_mode():
        expected = load_checkpoint(RUN / "best.ckpt").network()(smaller).softmax(1)
    [found] = session.run(["probabilities"], {"pixels": images.numpy()})
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


@pytest.mark.usefixtures("here")
def test_an_onnx_file_names_its_classes_and_origin_and_no_folder_of_this_machine() -> None:
    content = (RUN / "export/model.onnx").read_bytes()
    assert str(ROOT).encode() not in content and b"site-packages" not in content
    properties = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    entry = json.loads(properties[KEY])
    checkpoint = load_checkpoint(RUN / "best.ckpt")
    assert entry["class_names"] == list(checkpoint.class_names)
    assert entry["weights_digest"] == checkpoint.weights_digest
    assert len(entry["golden"]["probabilities"]) == 4


@pytest.mark.usefixtures("here")
def test_weights_of_the_bare_formats_load_into_the_network() -> None:
    from safetensors.torch import load_file

    weights = load_checkpoint(RUN / "best.ckpt").weights
    for found in (torch.load(RUN / "export/cifar_net.pth"), load_file(RUN / "export/model.safetensors")):
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[name], weights[name]) for name in weights)


@pytest.mark.parametrize("change", ["weight", "golden", "no entry", "cut", "no model"])
def test_an_onnx_file_that_is_not_as_exported_is_refused(change: str, here: Path, tmp_path: Path) -> None:
    content = (RUN / "export/model.onnx").read_bytes()
    model = onnx.load_from_string(content)
    if change == "weight":
        largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        values = np.frombuffer(largest.raw_data, np.float32)
        largest.raw_data = (-values).tobytes()
    elif change == "golden":
        entry = json.loads(model.metadata_props[0].value)
        entry["golden"]["pixels"] = entry["golden"]["pixels"][:-8]
        model.metadata_props[0].value = json.dumps(entry)
    elif change == "no entry":
        del model.metadata_props[:]
    content = {"cut": content[:-100], "no model": b"no model"}.get(change, sealed(model.SerializeToString()))
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.onnx") as refused:
        cifar10.load(tmp_path / "model.onnx")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.usefixtures("here")
def test_an_export_that_computes_something_else_leaves_no_file_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def save_other(weights: dict[str, torch.Tensor], path: Path) -> None:
        torch.serialization.save({name: tensor * 1.1 for name, tensor in weights.items()}, path)

    monkeypatch.setattr("cifar10.formats.state_dict.torch.save", save_other, raising=False)
    words = ["export", "--checkpoint_name=run", "--formats=state_dict", f"--output={tmp_path}"]
    assert main(COMMANDS, "", words) == 1
    assert "cifar_net.pth was not written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_parity_sees_a_fault_at_any_size_of_batch(batch_size: int) -> None:
    images = some_images(num_images=12)
    reference, labels = np.full((12, 3), 1 / 3, np.float32), np.zeros(12, np.int64)

    class Faulty:
        def __init__(self, size: int) -> None:
            self.size = size

        def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            found = reference[: len(pixels)].copy()
            if len(pixels) == self.size:
                found[0] += (2 * TOLERANCE, 0, -2 * TOLERANCE)
            return found

        def describe(self) -> dict[str, str]:
            return {}

    assert compare(reference, Faulty(0), images, labels, batch_size).is_equal
    for size in {1, min(batch_size, 12), min(batch_size + 1, 12)}:
        assert not compare(reference, Faulty(size), images, labels, batch_size).is_equal


def test_a_loss_of_exactly_the_limit_is_not_more_than_the_limit() -> None:
    reference, labels = np.tile(np.array([[1, 0]], np.float32), (1000, 1)), np.arange(1000) // 932  # 932 are right
    images = np.zeros((1000, 2, 2, 3), np.uint8)
    images[0] = 1

    class OneWrong:
        def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            wrong = pixels[:, 0, 0, 0] == 1
            return np.stack([~wrong, wrong], axis=1).astype(np.float32)

        def describe(self) -> dict[str, str]:
            return {}

    found = compare(reference, OneWrong(), images, labels, batch_size=1000)
    assert (found.num_flipped, found.lost_points) == (1, 0.1)
    assert 100 * (0.932 - 0.931) > 0.1  # what a difference of two accuracies would say


@pytest.mark.usefixtures("here")
def test_inference_on_onnx_imports_no_torch(tmp_path: Path) -> None:
    data = shapes(train_size=20, validation_size=0, test_size=10, image_size=16, seed=0)
    export_images(data, tmp_path)
    code = (
        "import sys; from cifar10.cli.command_line import main; from commands import COMMANDS; "
        "code = main(COMMANDS, '', sys.argv[1:]); "
        "assert not {'torch', 'pytorch_lightning', 'mlflow'} & set(sys.modules); sys.exit(code)"
    )
    words = ["infer", f"--test_dir={tmp_path / 'test'}", f"--checkpoint_name={RUN / 'export/model.onnx'}"]
    program = [sys.executable, "-c", code, *words]
    variables = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(program, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "10 images, 0 could not be read" in done.stderr


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--formats=onx"], "did you mean onnx"),
        (["--formats=onnx,tflite"], "there is no tflite"),
        (["--checkpoint_name=other"], "there is no"),
        (["--output=models/run/best.ckpt"], "is a file; name a folder"),
        (["--output=models/run/best.ckpt/deeper"], "cannot be made"),
        (["training.epochs=3"], "data_loading.root"),
    ],
)
def test_mistakes_are_told(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(COMMANDS, "", ["export", *words]) != 0
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_an_engine_refuses_what_it_cannot_compute() -> None:
    with pytest.raises(UserError, match="computed on the CPU"):
        Predictor.from_checkpoint(RUN / "export/model.onnx", device="cuda:0")
    with pytest.raises(CheckpointError, match="not been exported"):
        Predictor.from_checkpoint(Path("models/other.ckpt"), engine="onnx")


@pytest.mark.slow
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("num_images", [1, 5, 65, 131])
def test_any_number_of_images_is_enough_to_choose_ranges(num_images: int, tmp_path: Path) -> None:
    source = Source(load_checkpoint(RUN / "best.ckpt"), some_images(num_images), some_images(0))
    Int8Format(percentiles=[99.99]).write(source, tmp_path / "model_int8.onnx")
    assert (tmp_path / "model_int8.onnx").exists()


@pytest.mark.usefixtures("here")
def test_one_changed_bit_of_an_onnx_file_is_noticed(tmp_path: Path) -> None:
    content = (RUN / "export/model.onnx").read_bytes()
    chance = random.Random(0)
    ends = range(8 * (len(content) - 84), 8 * len(content))  # the seal itself
    for position in (*chance.sample(range(8 * len(content)), 100), *chance.sample(ends, 100)):
        changed = bytearray(content)
        changed[position // 8] ^= 1 << position % 8
        (tmp_path / "model.onnx").write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"model\.onnx"):
            cifar10.load(tmp_path / "model.onnx")


@pytest.mark.usefixtures("here")
def test_an_onnx_file_that_another_program_changed_is_refused_and_one_of_format_1_is_read(tmp_path: Path) -> None:
    model = onnx.load(RUN / "export/model.onnx")
    onnx.save(model, tmp_path / "as_it_was.onnx")  # the same bytes, seal included
    assert cifar10.load(tmp_path / "as_it_was.onnx").class_names
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    largest.raw_data = bytes([largest.raw_data[0] ^ 1]) + largest.raw_data[1:]  # too little for the golden images
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(CheckpointError, match=r"its SHA-256 is not the one of its export"):
        cifar10.load(tmp_path / "model.onnx")
    del model.metadata_props[-1]
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(CheckpointError, match=r"lacks the seal of its export"):
        cifar10.load(tmp_path / "model.onnx")
    [entry] = [entry for entry in model.metadata_props if entry.key == KEY]
    entry.value = json.dumps(json.loads(entry.value) | {"format": 1})
    onnx.save(model, tmp_path / "model.onnx")
    assert cifar10.load(tmp_path / "model.onnx").class_names


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("place", ["weights.bin", "data/weights.bin"])
def test_an_onnx_file_that_names_another_file_is_refused(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(RUN / "export/model.onnx")
    [entry] = [entry for entry in model.metadata_props if entry.key == KEY]
    description = json.loads(entry.value) | {"format": 1}
    onnx.helper.set_model_props(model, {KEY: json.dumps(description)})
    (tmp_path / place).parent.mkdir(exist_ok=True)
    onnx.save_model(model, tmp_path / "model.onnx", save_as_external_data=True, location=place, size_threshold=0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"model\.onnx cannot be read as an ONNX file"):
        cifar10.load("model.onnx")


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_integers_are_close_to_floats_and_name_their_precision(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(RUN / "best.ckpt")
    source = Source(checkpoint, some_images(100), some_images(50))
    writer = Int8Format(num_images=64, percentiles=[99.99])
    writer.write(source, tmp_path / writer.file_name)
    engine = writer.read(tmp_path / writer.file_name, source)
    exact = cifar10.load("run", device="cpu").engine.probabilities(some_images(40))
    found = engine.probabilities(some_images(40))
    assert 0 < np.abs(found - exact).max() < 0.1
    assert engine.describe()["precision"] == "int8"
    model = onnx.load(tmp_path / writer.file_name)
    assert sorted(entry.key for entry in model.metadata_props) == [KEY, "content_sha256", "precision"]
    kinds = {node.op_type for node in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_integers_that_lose_accuracy_or_are_not_faster_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(load_checkpoint(RUN / "best.ckpt"), some_images(10), some_images(5))
    engine = cifar10.load("run", engine="onnx").engine
    assert "0.20 points" in str(Int8Format().refusal(Parity(1000, 3, 0.1, 0.2), engine, source))
    harmless = Parity(1000, 3, 0.1, 0.1)
    for ratio, refused in {0.9: True, 1.1: False}.items():
        monkeypatch.setattr("cifar10.formats.calibration.speed", lambda *_, ratio=ratio: ratio)
        assert (Int8Format().refusal(harmless, engine, source) is not None) == refused


def test_speed_is_the_ratio_of_the_seconds() -> None:
    class Slow:
        def __init__(self, seconds: float) -> None:
            self.seconds = seconds

        def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            time.sleep(self.seconds)
            return np.zeros((len(pixels), 2), np.float32)

        def describe(self) -> dict[str, str]:
            return {}

    assert 1.3 < speed(Slow(0.02), Slow(0.04), some_images()) < 2.5

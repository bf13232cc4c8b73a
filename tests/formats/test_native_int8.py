"""`native_int8`: ranges are calibrated, written beside the checkpoint, and used only if they belong to it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import cifar10
from cifar10.cli.command_line import main
from cifar10.config.compose import load_config
from cifar10.data.shapes import shapes
from cifar10.devices import integer_obstacle
from cifar10.errors import CheckpointError, UsageError
from cifar10.export import export
from cifar10.formats import Source, calibration
from cifar10.formats.native_int8 import NativeInt8Format
from cifar10.formats.parity import Parity
from cifar10.inference.engines import load_model
from cifar10.inference.engines.pytorch import TorchEngine
from cifar10.networks.speed import SpeedNet
from cifar10.runs.checkpoints import load_checkpoint
from cifar10.train import train
from commands import COMMANDS
from tests.tiny_run import TINY

WIDTHS = [32, 32, 64]
FILE = Path("export/native_int8.json")
OBSTACLE = integer_obstacle(SpeedNet(3, 16, WIDTHS))
needs_kernels = pytest.mark.skipif(OBSTACLE is not None, reason=str(OBSTACLE))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a trained run in `models/run`, and one of another network in `models/other`."""
    folder = tmp_path_factory.mktemp("native_int8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        common = [*TINY, "training.precision=fp32"]
        train(load_config([*common, "model=speed", f"model.widths={WIDTHS}", "run_name=run"]))
        train(load_config([*common, "model=simple_cnn", "model.width=8", "run_name=other"]))
        if OBSTACLE is None:
            patch.setattr(NativeInt8Format, "refusal", lambda *_: None)  # speed depends on the machine
            export("run", ["native_int8"])
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the folder of the run."""
    shutil.copytree(trained / "models", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models/run"


def some_images(num_images: int = 9) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (num_images, 16, 16, 3), np.uint8)


@needs_kernels
def test_the_engine_computes_in_integers_with_the_exported_ranges(run: Path) -> None:
    data = shapes(train_size=1, validation_size=0, test_size=40, image_size=16, seed=5)
    images = data.test.arrays()[0]
    predictor = cifar10.load("run", engine="native_int8", device="cpu")
    precise = cifar10.load("run", engine="eager", device="cpu").engine.probabilities(images)
    assert 0 < np.abs(predictor.engine.probabilities(images) - precise).max() < 0.1
    assert predictor.engine.describe()["engine"].startswith("native (")
    assert predictor.provenance["precision"] == "int8"


@needs_kernels
def test_the_file_holds_ranges_and_the_digest_of_the_checkpoint_and_nothing_else(run: Path) -> None:
    content = json.loads((run / FILE).read_text())
    assert set(content) == {"format", "file_digest", "ranges", "golden"}
    assert len(content["ranges"]) == 6 and all(scale > 0 and 0 < zero < 255 for scale, zero in content["ranges"])


def cut(content: dict[str, Any]) -> str:
    return json.dumps(content)[:-9]


def with_ranges(change: Callable[[list[Any]], list[Any]]) -> Callable[[dict[str, Any]], str]:
    return lambda content: json.dumps(content | {"ranges": change(content["ranges"])})


def with_other_probabilities(content: dict[str, Any]) -> str:
    golden = content["golden"] | {"probabilities": np.roll(content["golden"]["probabilities"], 1, axis=1).tolist()}
    return json.dumps(content | {"golden": golden})


@needs_kernels
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "is damaged"),
        (lambda _: "", "is damaged"),
        (lambda _: "[]", "is damaged"),
        (with_ranges(lambda ranges: [[0, 3], *ranges[1:]]), r"ranges\.0\.0: .* greater than 0"),
        (with_ranges(lambda ranges: [[float("inf"), 3], *ranges[1:]]), r"ranges\.0\.0: .* finite"),
        (with_ranges(lambda ranges: [[float("nan"), 3], *ranges[1:]]), r"ranges\.0\.0"),
        (with_ranges(lambda ranges: [[0.1, 256], *ranges[1:]]), r"ranges\.0\.1: .* 255"),
        (with_ranges(lambda ranges: [[0.1, 1.5], *ranges[1:]]), r"ranges\.0\.1"),
        (with_ranges(lambda ranges: ranges[1:]), "of 6 layers, and not of 5"),
        (with_ranges(lambda ranges: [[scale * 9, zero] for scale, zero in ranges]), "other probabilities"),
        (with_other_probabilities, "other probabilities"),
        (lambda content: json.dumps(content | {"code": "1"}), "code: "),
        (lambda content: json.dumps(content | {"file_digest": "0" * 64}), r"exported from an earlier best\.ckpt"),
    ],
)
def test_a_damaged_or_stale_file_is_refused_in_one_line_with_the_command(
    run: Path, damage: Callable[[dict[str, Any]], str], message: str
) -> None:
    (run / FILE).write_text(damage(json.loads((run / FILE).read_text())))
    with pytest.raises(CheckpointError, match=message) as refused:
        load_model("native_int8", run / "best.ckpt", "cpu")
    assert len(str(refused.value).splitlines()) == 1
    assert "python commands.py export" in str(refused.value) and "native_int8" in str(refused.value)


def test_without_kernels_no_export_is_advised(run: Path) -> None:
    with pytest.raises(UsageError, match=r"not possible: .*; choose torch or onnx"):
        load_model("native_int8", run.parent / "other/best.ckpt", "cpu")


@needs_kernels
def test_without_an_export_the_command_is_given(run: Path) -> None:
    (run / FILE).unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match=r"has not been exported .*--formats=native_int8"):
        load_model("native_int8", run / "best.ckpt", "cpu")
    with pytest.raises(UsageError, match="device=cuda"):
        load_model("native_int8", run / "best.ckpt", "cuda")


def test_a_format_that_the_network_cannot_have_is_an_error_only_if_it_is_named(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["export", "--checkpoint_name=other"]
    assert main(COMMANDS, "", [*words, "--formats=state_dict,native_int8"]) == 2
    refused = capsys.readouterr().err
    assert "--formats=native_int8 is not possible" in refused and len(refused.splitlines()) <= 3
    assert not (run.parent / "other/export").exists()
    monkeypatch.setattr("cifar10.cli.checks.options", lambda group: ["native_int8", "state_dict"])
    assert main(COMMANDS, "", [*words, "--formats=all"]) == 0
    assert "native_int8 is left out: " in capsys.readouterr().err
    assert [file.name for file in (run.parent / "other/export").iterdir()] == ["cifar_net.pth"]


@needs_kernels
def test_the_percentile_is_chosen_by_the_error_on_held_out_images(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = load_checkpoint(run / "best.ckpt")
    exact = TorchEngine(checkpoint.network(), torch.device("cpu"))
    monkeypatch.setattr(calibration, "float_engine", lambda source: exact)
    source = Source(checkpoint, some_images(64), some_images(100)[64:])
    found = []
    for percentiles in ([20.0, 99.99], [20.0], [99.99]):
        NativeInt8Format(num_images=64, percentiles=percentiles).write(source, tmp_path / "ranges.json")
        found.append(json.loads((tmp_path / "ranges.json").read_text())["ranges"])
    assert found[0] == found[2] != found[1]


def test_integers_that_lose_accuracy_or_are_not_faster_are_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load_checkpoint(run / "best.ckpt")
    engine = TorchEngine(checkpoint.network(), torch.device("cpu"))
    monkeypatch.setattr(calibration, "float_engine", lambda source: engine)
    source, harmless = Source(checkpoint, some_images(), some_images()), Parity(1000, 3, 0.1, 0.1)
    assert "0.20 points" in str(NativeInt8Format().refusal(Parity(1000, 3, 0.1, 0.2), engine, source))
    for ratio, refused in {0.9: True, 1.1: False}.items():
        monkeypatch.setattr(calibration, "speed", lambda *_, ratio=ratio: ratio)
        assert (NativeInt8Format().refusal(harmless, engine, source) is not None) == refused

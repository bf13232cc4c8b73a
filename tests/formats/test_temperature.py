"""`export --temperature`: logits divided within the last layer, in every format."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cifar10.analysis.calibration import with_temperature
from cifar10.cli.command_line import main
from cifar10.config.compose import load_config
from cifar10.config.temperature import Temperature, read_temperature
from cifar10.errors import UsageError
from cifar10.formats.temperature import tempered
from cifar10.inference.engines import load_model
from cifar10.inference.engines.pytorch import TorchEngine
from cifar10.runs.checkpoints import Checkpoint, load_checkpoint
from cifar10.train import train
from commands import COMMANDS
from tests.tiny_run import TINY


@pytest.fixture(scope="module", params=[("model.width=4",), ("model=speed", "model.widths=[4,4,4]")])
def run_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(load_config([*TINY, *request.param, "run_name=a", f"models_dir={folder}", "training.precision=fp32"]))
    return folder / "a"


def probabilities(checkpoint: Checkpoint, pixels: Any) -> Any:
    return TorchEngine(checkpoint.network(), torch.device("cpu")).probabilities(pixels)


def test_probabilities_are_those_of_the_divided_logits_and_the_original_is_kept(run_folder: Path) -> None:
    checkpoint = load_checkpoint(run_folder / "best.ckpt")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    before, digest = probabilities(checkpoint, pixels), checkpoint.weights_digest
    for temperature in (0.25, 1.0, 3.0):
        divided = tempered(checkpoint, temperature)
        np.testing.assert_allclose(probabilities(divided, pixels), with_temperature(before, temperature), atol=1e-5)
        assert (divided.weights_digest == digest) == (temperature == 1)
    np.testing.assert_array_equal(probabilities(checkpoint, pixels), before)


def test_a_network_that_computes_more_behind_its_last_layer_is_refused(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = load_checkpoint(run_folder / "best.ckpt")
    plain = Checkpoint.network

    class Squashed(torch.nn.Module):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tanh(100 * self.network(images))

    monkeypatch.setattr(Checkpoint, "network", lambda self: Squashed(plain(self)))
    monkeypatch.setattr("cifar10.formats.temperature.head_parameters", lambda *_: ["head.weight"])
    with pytest.raises(UsageError, match="computes more behind its last linear layer"):
        tempered(checkpoint, 2.0)


@pytest.mark.slow
def test_an_onnx_file_carries_the_temperature_that_evaluate_has_fitted(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(COMMANDS, "", ["evaluate", str(run_folder), "--output=measured"]) == 0
    fitted = json.loads(Path("measured/report.json").read_text())["calibration"]["temperature"]
    line = ["export", str(run_folder), "--temperature=measured", "--formats=onnx,safetensors,native_int8"]
    capsys.readouterr()
    assert main(COMMANDS, "", [*line[:-1], "--formats=onnx"]) == 2
    assert "add --output=DIR" in capsys.readouterr().err
    assert main(COMMANDS, "", [*line, "--output=calibrated"]) == 2
    assert "its file holds no weights, and so no temperature" in capsys.readouterr().err
    assert main(COMMANDS, "", [*line[:-1], "--formats=onnx,safetensors", "--output=calibrated"]) == 0
    model = load_model("onnx", Path("calibrated/model.onnx"))
    assert model.description.temperature == fitted["value"] != 1
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    expected = with_temperature(probabilities(load_checkpoint(run_folder / "best.ckpt"), pixels), fitted["value"])
    np.testing.assert_allclose(model.engine.probabilities(pixels), expected, atol=1e-5)


def test_a_temperature_of_other_weights_is_refused(run_folder: Path, tmp_path: Path) -> None:
    from cifar10.export import export

    with pytest.raises(UsageError, match="was fitted for other weights"):
        export(str(run_folder), ["onnx"], str(tmp_path), temperature=Temperature(2.0, "0" * 64, "val"))


def test_descriptions_of_older_files_have_no_temperature(run_folder: Path) -> None:
    from cifar10.inference.description import ModelDescription

    checkpoint = load_checkpoint(run_folder / "best.ckpt")
    described = ModelDescription.of(dataclasses.replace(checkpoint, temperature=2.0))
    older = json.loads(described.model_dump_json())
    assert older.pop("temperature") == 2.0
    assert ModelDescription.parse(json.dumps(older), "x").temperature == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "must be between 0.01 and 100"),
        ("nan", "must be between"),
        ("-1", "must be between"),
        ("nowhere", "there is no file nowhere"),
        ("broken.json", "is not a report.json that evaluate writes"),
        ("none.json", "holds no temperature"),
        ("zero.json", "which is not possible"),
    ],
)
def test_temperatures_that_cannot_be_are_refused(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.json").write_text("[1]")
    for name, value in (("none", None), ("zero", {"value": 0, "fitted_on": "val"})):
        content = {"weights_digest": "a", "calibration": {"temperature": value}}
        Path(f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=message):
        read_temperature(text)

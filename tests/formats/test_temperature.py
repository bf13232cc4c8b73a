"""`export --temperature`: logits divided within the last layer, in every format."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cifar10.cli.command_line import main
from cifar10.config.compose import load_config
from cifar10.errors import UsageError
from cifar10.formats.temperature import tempered
from cifar10.inference.description import ModelDescription
from cifar10.inference.engines import load_model
from cifar10.inference.engines.pytorch import TorchEngine
from cifar10.runs.checkpoints import Checkpoint, load_checkpoint
from cifar10.train import train
from commands import COMMANDS
from tests.tiny_run import TINY

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module", params=[("model.width=4",), ("model=speed", "model.widths=[4,4,4]")])
def run_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(load_config([*TINY, *request.param, "run_name=a", f"models_dir={folder}", "training.precision=fp32"]))
    return folder / "a"


def probabilities(checkpoint: Checkpoint) -> Any:
    return TorchEngine(checkpoint.network(), torch.device("cpu")).probabilities(PIXELS)


def divided_by(temperature: float, before: Any) -> Any:
    """Return the probabilities of logits that are divided by a temperature, from those of the logits."""
    powers = before.astype(np.float64) ** (1 / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def test_probabilities_are_those_of_the_divided_logits_and_the_original_is_kept(run_folder: Path) -> None:
    checkpoint = load_checkpoint(run_folder / "best.ckpt")
    before, digest = probabilities(checkpoint), checkpoint.weights_digest
    for temperature in (0.25, 1.0, 3.0):
        divided = tempered(checkpoint, temperature)
        np.testing.assert_allclose(probabilities(divided), divided_by(temperature, before), atol=1e-5)
        assert (divided.weights_digest == digest) == (temperature == 1)
        assert divided.temperature == temperature
    np.testing.assert_array_equal(probabilities(checkpoint), before)


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


def test_an_onnx_file_carries_the_temperature(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["export", str(run_folder), "--temperature=2.5", "--output=calibrated"]
    assert main(COMMANDS, "", [*line, "--formats=native_int8"]) == 2
    assert "its file holds no weights, and so no temperature" in capsys.readouterr().err
    assert main(COMMANDS, "", [*line, "--formats=onnx"]) == 0
    model = load_model("onnx", Path("calibrated/model.onnx"))
    assert model.description.temperature == 2.5
    expected = divided_by(2.5, probabilities(load_checkpoint(run_folder / "best.ckpt")))
    np.testing.assert_allclose(model.engine.probabilities(PIXELS), expected, atol=1e-5)


def test_descriptions_of_older_files_have_no_temperature(run_folder: Path) -> None:
    checkpoint = load_checkpoint(run_folder / "best.ckpt")
    described = ModelDescription.of(dataclasses.replace(checkpoint, temperature=2.0))
    older = json.loads(described.model_dump_json())
    assert older.pop("temperature") == 2.0
    assert ModelDescription.parse(json.dumps(older), "x").temperature == 1.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--temperature=0", "--output=x"], "must be between 0.01 and 100"),
        (["--temperature=nan", "--output=x"], "must be between 0.01 and 100"),
        (["--temperature=2"], "add --output=DIR"),
        (["--temperature=high", "--output=x"], "--temperature=high: must be a number, such as 1.5"),
    ],
)
def test_temperatures_that_cannot_be_are_refused(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.ckpt").touch()
    assert main(COMMANDS, "", ["export", "a.ckpt", *words]) == 2
    assert message in capsys.readouterr().err

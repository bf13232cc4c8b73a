"""Training with torch.compile, for real: what is compiled, and that it learns what the eager network learns."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from cifar10.config.compose import load_config
from cifar10.train import train
from tests.tiny_run import TINY

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU"),
]

_THREE_SIZES = "training.resizing=[{until: 0.3, scale: 0.7}, {until: 0.6, scale: 0.85}]"  # of 16 pixels: 11, 14
_WORDS = ("model=speed", "model.widths=[4,8,8]", "training.kernels=false", "training.precision=fp32", _THREE_SIZES)


def run(name: str, *overrides: str) -> dict[str, float]:
    train(load_config([*TINY, *_WORDS, f"run_name={name}", *overrides]))
    return dict(json.loads(Path(f"models/{name}/scores.json").read_text()))


def test_each_size_of_images_is_compiled_once_and_evaluation_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch._dynamo.reset()
    counters.clear()
    compiled = run("compiled", "training.compile=true")
    assert counters["stats"]["unique_graphs"] == 3
    eager = run("eager")
    for key in ("train/loss", "val/loss", "test/loss"):
        assert compiled[key] == pytest.approx(eager[key], rel=1e-3)

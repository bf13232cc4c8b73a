"""`python main.py` asks for photos and prints what they show."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

MAIN = Path(__file__).parents[1] / "main.py"


def ask(folder: Path, *words: str, typed: str = "") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(MAIN), *words]
    return subprocess.run(command, cwd=folder, input=typed, capture_output=True, text=True, check=False)


@pytest.mark.slow  # imports torchvision
def test_each_line_that_is_typed_is_classified_and_a_wrong_one_is_no_end(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "weights.pth")
    (tmp_path / "my photos").mkdir()
    for name in ("a.png", "my photos/b.png", "my photos/c.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)).save(tmp_path / name)
    words = ("model=squeezenet1_1_imagenet", "model.weights=weights.pth")
    done = ask(tmp_path, *words, typed="a.png\nb.png\n'my photos'\n\na.png\n")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[-1] for line in lines] == ["path", "a.png", "path", "b.png", "c.png"]
    assert lines[0].split()[:4] == ["group", "cat", "dog", "neither"]
    assert "there is no folder or file b.png" in done.stderr
    assert done.stderr.count("totals: ") == 1
    ended = ask(tmp_path, *words)  # without any input
    assert ended.returncode == 0 and ended.stdout == ""


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["photos"], "python main.py model="),
        (["--test_dir=photos"], "python main.py model="),
        (["model=resnt152_imagenet"], "did you mean resnet152_imagenet?"),
        (["training.epochs=5"], "takes no settings but"),
        (["model=speed"], "has no trained weights"),
    ],
)
def test_a_mistake_is_told_at_once(words: list[str], complaint: str, tmp_path: Path) -> None:
    done = ask(tmp_path, *words)
    assert done.returncode == 2 and complaint in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""


def test_help_is_printed(tmp_path: Path) -> None:
    done = ask(tmp_path, "--help")
    assert done.returncode == 0 and "an empty line ends it" in done.stdout

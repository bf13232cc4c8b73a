"""On the real CIFAR-10: the published pixels, and one accuracy whoever measures it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cifar10.data.cifar import cifar10

COMMANDS = Path(__file__).parents[1] / "commands.py"
pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]


def run(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, str(COMMANDS), *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def test_the_pixels_are_the_published_ones(real_data_root: Path) -> None:
    data = cifar10(root=str(real_data_root), classes=None, validation_size=2000, seed=0, sources=None)
    assert [len(split) for split in data.splits.values()] == [48_000, 2_000, 10_000]
    assert data.test.labels[:5].tolist() == [3, 8, 8, 0, 6]  # cat, ship, ship, airplane, frog
    assert data.train.labels.bincount().tolist() == [4800] * 10
    mean = data.test.images[:].double().mean(dim=(0, 2, 3)) / 255
    assert [round(value, 4) for value in mean.tolist()] == [0.4942, 0.4851, 0.4504]


def test_infer_on_exported_images_gives_exactly_the_accuracy_of_training(real_data_root: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cifar-10-batches-py").symlink_to(real_data_root / "cifar-10-batches-py")
    options = ["model=simple_cnn", "model.width=16", "optimizer=adamw", "schedule=one_cycle", "training.epochs=1"]
    run("train", *options, "training.batch_size=500", "run_name=real", "tracking=none", folder=tmp_path)
    run("data", "--export_images", folder=tmp_path)
    arguments = ["--test_dir=data/test", "--checkpoint_name=real", "--output=rows.jsonl"]
    inferred = run("infer", *arguments, folder=tmp_path)
    scores: dict[str, Any] = json.loads((tmp_path / "models/real/scores.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    right = sum(Path(row["path"]).parts[0] == row["class_name"] for row in rows)
    assert len(rows) == 10_000
    assert right == round(scores["test/accuracy_tta"] * 10_000)
    assert f"{right:,} of 10,000" in inferred.stderr
    assert scores["test/accuracy_tta"] > 0.4  # one epoch of a small network; chance is 0.1

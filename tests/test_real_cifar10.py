"""On the real CIFAR-10: the published pixels, and one accuracy whoever measures it."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from cifar10.data.cifar import cifar10
from tests.serving.http.serving_process import serving
from tests.serving.web.chromium import files, launched, served_page, settled

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


@pytest.fixture(scope="module")
def trained(real_data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run, its ONNX file, and all images as PNG files."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "data").mkdir()
    (folder / "data" / "cifar-10-batches-py").symlink_to(real_data_root / "cifar-10-batches-py")
    options = ["model=simple_cnn", "model.width=16", "optimizer=adamw", "schedule=one_cycle", "training.epochs=1"]
    run("train", *options, "training.batch_size=500", "run_name=real", "tracking=none", folder=folder)
    run("data", "--export_images", folder=folder)
    return folder


def rows_of(folder: Path, *words: str) -> list[dict[str, Any]]:
    run("infer", "--test_dir=data/test", "--checkpoint_name=real", "--output=rows.jsonl", *words, folder=folder)
    lines = (folder / "rows.jsonl").read_text().splitlines()
    (folder / "rows.jsonl").unlink()
    return [json.loads(line) for line in lines]


def test_infer_on_exported_images_gives_exactly_the_accuracy_of_training(trained: Path) -> None:
    scores: dict[str, Any] = json.loads((trained / "models/real/scores.json").read_text())
    rows = rows_of(trained)
    right = sum(Path(row["path"]).parts[0] == row["class_name"] for row in rows)
    assert len(rows) == 10_000
    assert right == round(scores["test/accuracy_tta"] * 10_000)
    assert scores["test/accuracy_tta"] > 0.4  # one epoch of a small network; chance is 0.1


def expected_of(trained: Path) -> dict[str, dict[str, Any]]:
    """Return what `infer` says of each test image with the ONNX file, by its path."""
    if not (trained / "models/real/export/model.onnx").exists():
        run("export", "real", folder=trained)
    return {row["path"]: row for row in rows_of(trained, "--engine=onnx")}


def test_over_http_the_same_images_get_the_same_answers(trained: Path) -> None:
    expected = expected_of(trained)
    paths = sorted(expected)
    with serving(trained, "--checkpoint_name=real", "serving.drift=null") as served, requests.Session() as session:
        for start in range(0, len(paths), 64):
            part = paths[start : start + 64]
            files = [("images", (path, (trained / "data/test" / path).read_bytes(), "image/png")) for path in part]
            answer = session.post(f"{served.url}/predict", files=files, timeout=60)
            assert answer.status_code == 200, answer.text
            found = answer.json()["images"]
            assert [image["name"] for image in found] == part
            assert [image["class_name"] for image in found] == [expected[path]["class_name"] for path in part]
            for path, image in zip(part, found, strict=True):
                assert abs(image["probability"] - expected[path]["probability"]) <= 1e-4


@pytest.mark.browser
def test_on_the_page_the_same_images_get_the_same_answers(trained: Path) -> None:
    expected = expected_of(trained)
    paths = sorted(expected)[::50]
    names = {path: path.replace("/", "-") for path in paths}
    with served_page(trained) as address, launched() as browser:
        for part in (paths[:100], paths[100:]):
            tab = browser.new_context(locale="en-US").new_page()
            tab.set_default_timeout(60_000)
            tab.goto(address)
            images = [(names[path], (trained / "data/test" / path).read_bytes()) for path in part]
            tab.set_input_files("input[type=file]", files(*images))
            tab.wait_for_function("() => document.querySelectorAll('.answer').length == 10")  # those of the first page
            settled(tab)
            with tab.expect_download() as download:
                tab.get_by_text("Download the table (CSV)").click()
            rows = {row["path"]: row for row in csv.DictReader(Path(download.value.path()).read_text().splitlines())}
            assert sorted(rows) == sorted(names[path] for path in part)
            for path in part:
                row, known = rows[names[path]], expected[path]
                assert row["class_name"] == known["class_name"]
                assert abs(float(row["probability"]) - known["probability"]) <= 1e-4
    assert len(paths) == 200

"""`feedback`: from corrections to a network that is trained on them, with the commands that people type."""

import io
import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cifar10
from cifar10.cli.command_line import main
from cifar10.serving.corrections import DEFAULT_PATH, CorrectionStore
from commands import COMMANDS

SHAPES = ("disk", "square", "triangle", "plus", "cross", "ring", "frame", "rows", "columns", "checks")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*words: str) -> int:
    return main(COMMANDS, "", list(words))


def picture(level: int = 0, size: int = 40) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), level, np.uint8)).save(file, "png")
    return file.getvalue()


def correct(image: bytes, name: str) -> None:
    CorrectionStore().add(
        image,
        predicted_class="disk",
        probability=0.5,
        corrected_class=name,
        class_names=SHAPES,
        weights_digest="d" * 64,
        source="web",
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--store=none.db"], "there is no file none.db"),
        (["--output=file"], "file is a file; name a folder"),
        (["--withdraw=abc"], "give more of the SHA-256"),
        (["--outptu=new"], "did you mean"),
    ],
)
def test_what_cannot_be_is_a_usage_error(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("content")
    assert run("feedback", *words) == 2
    assert said in capsys.readouterr().err


def test_a_damaged_file_is_a_failure_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    DEFAULT_PATH.parent.mkdir(parents=True)
    DEFAULT_PATH.write_bytes(b"damaged " * 1000)
    assert run("feedback") == 1
    assert "move it away" in capsys.readouterr().err


def test_an_export_to_a_new_folder_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    correct(picture(), "ring")
    assert run("feedback", "--output=new") == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["ring", "1", "0", "1", "0", "disk", "(1)"]
    assert [str(path) for path in Path("new").rglob("*.png")] == [f"new/ring/{sha256(picture()).hexdigest()}.png"]


def test_an_exported_file_that_was_damaged_is_written_again(capsys: pytest.CaptureFixture[str]) -> None:
    correct(picture(), "ring")
    assert run("feedback", "--output=new") == 0
    [file] = Path("new").rglob("*.png")
    file.write_bytes(b"")
    assert run("feedback", "--output=new") == 0
    assert file.read_bytes() == picture()
    assert "0 unchanged" in capsys.readouterr().err


@pytest.mark.slow
def test_a_network_is_trained_on_exported_images_with_corrections(capsys: pytest.CaptureFixture[str]) -> None:
    data = ["data_loading=shapes", "data_loading.train_size=400", "data_loading.test_size=60"]
    assert run("data", *data, "--export_images") == 0
    for level in range(100, 130):
        correct(picture(level), "ring")  # plain squares, which no shape is
    assert run("feedback", "--output=data/shapes/train") == 0
    folder = ["data_loading=folder", "data_loading.root=data/shapes", "data_loading.image_size=24"]
    training = ["training.epochs=12", "tracking=none", "seed=0", "run_name=corrected"]
    assert run("train", "experiment=demo", *folder, *training) == 0
    scores = json.loads(Path("models/corrected/scores.json").read_text())
    assert scores
    prediction = cifar10.load("corrected", device="cpu").predict(picture(150))
    assert prediction.class_name == "ring"
    assert run("data", *data, "--export_images") == 0  # the marker of the exported images is as it was
    assert len(list(Path("data/shapes/train/ring").glob("*"))) > 30
    capsys.readouterr()

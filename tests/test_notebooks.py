"""The notebooks: each is text, becomes a valid notebook, and runs from top to bottom on small data."""

import base64
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from PIL import Image
from torch import nn

from cifar10.data.shapes import shapes

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
SIZES = {"train_size": 1500, "validation_size": 100, "test_size": 200}
SMALL_SHAPES = ["data_loading=shapes", *(f"data_loading.{name}={size}" for name, size in SIZES.items())]


@dataclass
class Executed:
    """A notebook after it was run in `folder`."""

    cells: list[Any]
    folder: Path

    @property
    def printed(self) -> str:
        return "".join(output.get("text", "") for output in self._outputs)

    @property
    def pictures(self) -> list[np.ndarray[Any, Any]]:
        encoded = [data["image/png"] for output in self._outputs if "image/png" in (data := output.get("data", {}))]
        return [np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")) for png in encoded]

    def source(self, beginning: str) -> str:
        """Return the cells from the first that has `beginning` in it, to the end of that cell."""
        return str(next(cell.source for cell in self.cells if beginning in cell.source))

    @property
    def _outputs(self) -> list[Any]:
        return [output for cell in self.cells for output in cell.get("outputs", [])]


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Executed]:
    """Run a notebook in an empty folder, with other values in its cell of settings."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("MPLBACKEND")  # else figures would not be shown

    def run(name: str, **settings: object) -> Executed:
        notebook = jupytext.read(ROOT / "notebooks" / f"{name}.py")
        [place] = _settings_cells(notebook)
        values = "\n".join(f"{key} = {value!r}" for key, value in settings.items())
        notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(values))  # type: ignore[no-untyped-call]
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
        return Executed(notebook.cells, tmp_path)

    return run


def _settings_cells(notebook: Any) -> list[int]:
    return [place for place, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]


def _assert_pictures(executed: Executed, number: int) -> None:
    assert len(executed.pictures) == number
    assert all(picture.std() > 5 for picture in executed.pictures)  # not blank


@pytest.mark.parametrize("text", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_text_becomes_a_notebook_with_a_title_one_cell_of_settings_and_the_kernel(text: Path) -> None:
    made = jupytext.writes(jupytext.read(text), fmt="ipynb")
    notebook = nbformat.reads(made, as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    assert len(_settings_cells(notebook)) == 1
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("text", NOTEBOOKS, ids=lambda path: path.stem)
def test_files_go_to_the_project_wherever_jupyter_starts(text: Path) -> None:
    [cell] = [cell for cell in jupytext.read(text).cells if "os.chdir" in cell.source]
    for folder in ("notebooks", "elsewhere"):
        moves: list[str] = []

        class Here:
            name = folder

            @classmethod
            def cwd(cls) -> "type[Here]":
                return cls

        source = re.sub(r"^(import|from) .*$", "", cell.source, flags=re.MULTILINE)
        exec(source, {"Path": Here, "os": type("os", (), {"chdir": staticmethod(moves.append)})})
        assert moves == ([".."] if folder == "notebooks" else [])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_notebook_on_training_teaches_a_network_that_its_file_gives_back(execute: Callable[..., Executed]) -> None:
    settings = [*SMALL_SHAPES, "training.epochs=5", "training.batch_size=50", "tracking=none"]
    executed = execute("cifar10_training", settings=settings)
    _assert_pictures(executed, 7)
    by_hand, loaded, in_one_line = (
        float(re.search(pattern, executed.printed)[1])  # type: ignore[index]
        for pattern in (
            r"accuracy on 200 test images: ([\d.]+)%",
            r"loaded: ([\d.]+)%, the same answers: True",
            r"test accuracy .*?([\d.]+)% plain",
        )
    )
    assert by_hand == loaded > 30 and in_one_line > 30  # of ten classes, guessing gets 10
    namespace: dict[str, Any] = {"torch": torch, "nn": nn, "Tensor": torch.Tensor}
    exec(executed.source("class Net(nn.Module)"), namespace)
    net = namespace["Net"](10)
    net.load_state_dict(torch.load(executed.folder / "cifar_net.pth", weights_only=True))
    assert round(100 * _accuracy(net.eval()), 1) == by_hand
    assert list(executed.folder.glob("models/*/best.ckpt"))


@torch.no_grad()
def _accuracy(network: nn.Module) -> float:
    """Return the accuracy on the test split of the small shapes, normalised as in the notebook."""
    data = shapes(**SIZES)
    pixels = data.train.images[:].float() / 255
    mean, deviation = pixels.mean(dim=(0, 2, 3)), pixels.std(dim=(0, 2, 3))
    images = (data.test.images[:].float() / 255 - mean[:, None, None]) / deviation[:, None, None]
    return float((network(images).argmax(dim=1) == data.test.labels).double().mean())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_notebook_on_the_data_finds_what_was_planted(execute: Callable[..., Executed], tmp_path: Path) -> None:
    data = shapes(train_size=200, test_size=60)
    for split_name, split in (("train", data.train), ("test", data.test)):
        pixels, labels = split.arrays()
        for number, (image, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
            _save(image, tmp_path / "photos" / split_name / data.class_names[label] / f"{number}.png")
    [copied], [label] = data.train.arrays(most=1)
    another = data.class_names[(int(label) + 1) % data.num_classes]
    _save(copied, tmp_path / "photos/test" / another / "copy.png")
    _save(np.zeros_like(copied), tmp_path / "photos/train/disk/black.png")
    settings = [
        *("data_loading=folder", "data_loading.root=photos", "data_loading.validation_fraction=0.1"),
        *("model=simple_cnn", "model.width=4", "training.epochs=1", "training.batch_size=20", "training.resizing=[]"),
    ]
    executed = execute("explore", settings=settings, look_for_wrong_labels=True)
    _assert_pictures(executed, 10)
    assert "more than once, with the same pixels: 1\n" in executed.printed
    tables = "".join(str(output["data"].get("text/plain")) for output in executed._outputs if "data" in output)
    assert re.search(r"uniform +1\b", tables)
    assert re.search(r"across splits +[1-9]", tables)
    assert re.search(r"\d+ labels are suspected", executed.printed)


def _save(pixels: np.ndarray[Any, Any], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_notebook_on_pooling_shows_the_curves_and_the_verdict(execute: Callable[..., Executed]) -> None:
    sizes = {"train_size": 80, "validation_size": 40, "test_size": 40}
    settings = ["data_loading=shapes", *(f"data_loading.{name}={size}" for name, size in sizes.items())]
    settings += ["training.batch_size=40", "training.epochs=2", "pooling.seeds=[0]", "tracking=none"]
    executed = execute("pooling", settings=settings)
    _assert_pictures(executed, 1)
    results = json.loads((executed.folder / "models/pooling/laboratory/results.json").read_text())
    assert all(sentence in executed.printed for sentence in results["verdict"])

"""TensorBoard's files are read back; nothing that fails while they are written ends a run."""

import csv
import errno
import importlib.util
import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter

from cifar10.config.compose import load_config
from cifar10.data.image_dataset import ImageDataset, Split
from cifar10.data.shapes import shapes
from cifar10.errors import UsageError
from cifar10.runs.checkpoints import load_checkpoint
from cifar10.train import train
from cifar10.training.tensorboard import embed_and_classify
from tests.tiny_run import TINY

STRANGE = "tab\there <b>\nрыба"


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


def run(name: str, *overrides: str, data: ImageDataset | None = None) -> dict[str, Any]:
    train(load_config([*TINY, f"run_name={name}", "model.width=4", *overrides]), data=data)
    return dict(json.loads(Path(f"models/{name}/scores.json").read_text()))


def events(name: str) -> EventAccumulator:
    accumulator = EventAccumulator(f"models/{name}/tensorboard", size_guidance={"images": 0})
    accumulator.Reload()
    return accumulator


@pytest.fixture(scope="module")
def viewed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A folder with the run `viewed`, and what the run wrote to stdout and stderr."""
    place, out, err = tmp_path_factory.mktemp("viewed"), io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(place)
        torch.set_num_threads(1)
        run("viewed", "tracking.tensorboard=true")
    return place, out.getvalue(), err.getvalue()


def test_a_run_writes_its_curves_its_graph_predictions_and_embeddings(
    viewed: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, out, err = viewed
    monkeypatch.chdir(place)
    scores, found = json.loads(Path("models/viewed/scores.json").read_text()), events("viewed")
    with Path("models/viewed/history.csv").open() as file:
        history = list(csv.DictReader(file))
    for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr"):
        logged = found.Scalars(name)
        assert [event.value for event in logged] == pytest.approx([float(row[name]) for row in history])
        assert len({event.step for event in logged}) == len(history) == 2
    assert found.Scalars("test/accuracy")[-1].value == pytest.approx(scores["test/accuracy"])
    operators = {node.op for node in found.Graph().node}
    assert {"aten::_convolution", "aten::max_pool2d", "aten::linear"} <= operators
    tags = found.Tags()["images"]
    assert "confusion matrix of the test images" in tags and "predictions for validation images" in tags
    png = found.Images("predictions for validation images")[0].encoded_image_string
    assert png.startswith(b"\x89PNG")
    assert out.count("\n") == 1 and "TensorBoard" not in err


def test_each_embedded_image_has_its_class_its_prediction_and_a_thumbnail(
    viewed: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(viewed[0])
    [folder] = Path("models/viewed/tensorboard").glob("*/validation")
    header, *rows = ((line.split("\t")) for line in (folder / "metadata.tsv").read_text().splitlines())
    assert header == ["class", "predicted", "answer", "probability"]
    checkpoint = load_checkpoint(Path("models/viewed/best.ckpt"))
    data = shapes(**checkpoint.config.data_loading.arguments)
    embeddings, probabilities = embed_and_classify(checkpoint.network(), data.validation, data.num_classes)
    answers = probabilities.argmax(dim=1).tolist()
    assert [row[0] for row in rows] == [data.class_names[label] for label in data.validation.labels.tolist()]
    assert [row[1] for row in rows] == [data.class_names[answer] for answer in answers]
    assert all(row[2] == ("right" if row[0] == row[1] else "wrong") for row in rows)
    written = np.loadtxt(folder / "tensors.tsv", delimiter="\t")
    np.testing.assert_allclose(written, embeddings.numpy(), rtol=1e-4, atol=1e-5)
    side = data.image_size
    sprite = np.asarray(Image.open(folder / "sprite.png").convert("RGB"))
    first = data.validation.images[0].permute(1, 2, 0).numpy()
    assert np.abs(sprite[:side, :side].astype(int) - first).max() <= 1
    config = (folder.parents[1] / "projector_config.pbtxt").read_text()
    assert "validation/sprite.png" in config and f"single_image_dim: {side}" in config


@pytest.mark.slow
def test_the_weights_are_those_of_a_run_without_it(viewed: tuple[Path, str, str]) -> None:
    with_it = json.loads((viewed[0] / "models/viewed/scores.json").read_text())
    assert with_it["weights_digest"] == run("without")["weights_digest"]


def test_strange_class_names_stay_in_their_line_and_column() -> None:
    plain = shapes(16, 40, 20, 20)
    kept = [split.take((split.labels < 2).nonzero().flatten()) for split in plain.splits.values()]
    data = ImageDataset("strange", (STRANGE, "$x^$"), *kept, is_mirrorable=True)
    run("strange", "tracking.tensorboard=true", "training.batch_size=4", data=data)
    [file] = Path("models/strange/tensorboard").glob("*/validation/metadata.tsv")
    rows = [line.split("\t") for line in file.read_text().splitlines()]
    assert {len(row) for row in rows} == {4} and len(rows) == 1 + len(data.validation)
    assert {row[0] for row in rows[1:]} == {r"tab\there <b>\nрыба", "$x^$"}


@pytest.mark.slow
def test_without_validation_images_those_of_the_test_are_shown() -> None:
    run("tested", "tracking.tensorboard=true", "training.monitor=null", "data_loading.validation_size=0")
    assert "predictions for test images" in events("tested").Tags()["images"]
    assert list(Path("models/tested/tensorboard").glob("*/test/tensors.tsv"))


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["add_graph", "add_image", "add_embedding"])
def test_a_failing_part_is_reported_once_and_the_curves_go_on(
    broken: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such operator\nand more")

    monkeypatch.setattr(SummaryWriter, broken, fail)
    run("part", "training.tensorboard=true")  # another name of the setting
    what = "graph" if broken == "add_graph" else "pictures and embeddings"
    err = capsys.readouterr().err
    assert f"warning: TensorBoard's {what} cannot be written (RuntimeError: no such operator)\n" in err
    assert err.count("TensorBoard") == 1
    assert len(events("part").Scalars("train/loss")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_full_disk_ends_the_files_and_not_the_run(
    after: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written: list[int] = []
    write = RecordWriter.write

    def write_some(self: RecordWriter, data: bytes) -> None:
        written.append(len(data))
        if len(written) > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, data)

    monkeypatch.setattr(RecordWriter, "write", write_some)
    scores = run("full", "tracking.tensorboard=true")
    assert 0 <= scores["test/accuracy"] <= 1
    err = capsys.readouterr().err
    assert err.count("TensorBoard's") == 1
    assert "(OSError: No space left on device); nothing more is written for TensorBoard" in err


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_its_curves(capsys: pytest.CaptureFixture[str]) -> None:
    run("longer", "tracking.tensorboard=true", "schedule=constant")
    train(load_config(TINY), resume="longer", changes=["training.epochs=3"])
    assert len(events("longer").Scalars("train/loss")) == 3
    assert capsys.readouterr().out.count("\n") == 2


def test_without_the_package_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find(name))
    with pytest.raises(UsageError, match=r"needs a package: .* -m pip install 'tensorboard"):
        run("none", "tracking.tensorboard=true")
    assert not Path("models/none").exists()


def test_embedding_leaves_the_mode_of_the_network_as_it_was() -> None:
    data = shapes(16, 20, 10, 10)
    network = torch.nn.Sequential(torch.nn.Flatten(), _Float(), torch.nn.Dropout(), torch.nn.Linear(768, 10)).train()
    embeddings, probabilities = embed_and_classify(network, Split(data.test.images, data.test.labels), 10)
    assert network.training and embeddings.shape == (10, 768)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(10))
    torch.testing.assert_close(embeddings, data.test.images[:].flatten(1).float())  # nothing was dropped


class _Float(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float()
